"""The pod networks that a cluster can have, a module each."""
