"""Cluster-wide: objects become the policy IR, incrementally, and the IR goes over the wire and gives verdicts."""
