"""Which pods, policies and sets this node gets, and when: from the Kubernetes API or from folders."""
