"""A control plane in miniature, for files: YAML text becomes pods with nodes and addresses. Daemons never load it."""
