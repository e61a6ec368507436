"""The border: untrusted mappings become values of `model`, once, and what is wrong is named with its path."""
