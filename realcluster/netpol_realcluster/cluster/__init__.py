"""Control plane and nodes brought together."""
