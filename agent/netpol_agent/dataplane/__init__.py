"""The kernel's tables and sets: written, read back, verified and removed."""
