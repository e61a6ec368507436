"""One node's chains and sets as values, and the one place that makes restore text of them."""
