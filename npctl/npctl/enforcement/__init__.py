"""What operator, agents and kernels say is in force, for `status`, `explain` and `wait`."""
