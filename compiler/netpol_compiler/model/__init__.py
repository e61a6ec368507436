"""Frozen values of what counts in Kubernetes objects: kinds, addresses, selectors, objects. Everything else imports them."""
