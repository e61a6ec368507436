"""The commands of `npctl lab`."""
