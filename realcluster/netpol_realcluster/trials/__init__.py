"""What is tried on a cluster: npctl's chart, workloads, connections, Kubernetes' own tests."""
