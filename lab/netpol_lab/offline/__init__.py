"""A lab without an API server: objects in its own store, operator and agents on folders."""
