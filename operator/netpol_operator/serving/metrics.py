"""What the operator counts, in Prometheus' terms. One registry for one operator, so that tests can have several."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class OperatorMetrics:
    """All metrics begin with npctl_operator_."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def name(text: str) -> str:
            return f"npctl_operator_{text}"

        self.events = Counter(name("events"), "Changes handed over by the API server", ["kind", "type"], registry=registry)
        self.compile = Histogram(name("compile_seconds"), "One flush of the pipeline", buckets=_SECONDS, registry=registry)
        self.publish = Histogram(
            name("publish_seconds"), "From the first change of a batch to its last write", buckets=_SECONDS, registry=registry
        )
        self.writes = Counter(name("writes"), "IR objects written", ["kind", "verb"], registry=registry)
        self.errors = Counter(name("publish_errors"), "Writes that failed and are tried again", registry=registry)
        self.repairs = Counter(
            name("audit_repairs"), "What an audit found missing, stale or left over", ["kind"], registry=registry
        )
        self.gaps = Counter(name("watch_gaps"), "Watches that may have missed events", ["kind"], registry=registry)
        self.sets = Gauge(name("address_sets"), "Address sets wanted", registry=registry)
        self.members = Gauge(name("address_set_members"), "Members of all address sets", registry=registry)
        self.policies = Gauge(name("policies"), "NetworkPolicies compiled", registry=registry)
        self.pods = Gauge(name("pods"), "Pods known", registry=registry)
        self.rejected = Gauge(name("rejected_objects"), "Objects of which something was not understood", registry=registry)
        self.leader = Gauge(name("leader"), "1 while this replica publishes", registry=registry)
        self.backlog = Gauge(name("backlog"), "IR objects that are still to be written", registry=registry)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
