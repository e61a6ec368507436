"""What people type: commands, options and completion as signatures, and no work."""
