"""The command line's way to a Kubernetes API server."""
