"""A Kubernetes cluster with real nodes on one machine, for `./dev`, the benchmark and tests. Not part of what is installed."""
