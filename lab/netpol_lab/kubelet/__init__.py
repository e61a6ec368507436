"""What kubelets, the scheduler and workload controllers would do, for pods without containers."""
