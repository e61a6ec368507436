"""One node's desired and programmed state, brought together and kept so: the agent's work on the kernel, without inputs."""
