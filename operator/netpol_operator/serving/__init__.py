"""What the operator answers on its port: health and metrics."""
