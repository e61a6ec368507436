"""Established connections when a policy tightens: which ones are refused now, and their end."""
