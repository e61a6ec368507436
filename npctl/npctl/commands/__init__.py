"""One module for each command: asks the rooms below and prints what they answer."""
