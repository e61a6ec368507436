"""What policies mean, as values: explanations, differences, traces, and their words."""
