"""One node: its namespaces, its programs, its images and control groups."""
