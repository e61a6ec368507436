"""Namespaces, wires, routes, Services and DNS: from a topology to the machine."""
