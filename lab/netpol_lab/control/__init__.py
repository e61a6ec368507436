"""A lab on a real API server: control plane, chart, controllers."""
