"""The ends of connections: what people write for them, and which of them no policy tells apart."""
