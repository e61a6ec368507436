"""The agent's figures for Prometheus: `npctl_agent_...`. Imported only where they are served.

In: the agent's syncs as they happen, and how it stands when somebody asks. Out: the text format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from netpol_agent.dataplane.dataplane import SyncResult
from netpol_agent.guard.guard import guard_packets
from netpol_agent.loop import Agent
from netpol_agent.reporting.node_report import own_version

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
PREFIX = "npctl_agent"

Figures = dict[str, Callable[[], float]]


class AgentMetrics:
    """A `SyncObserver`. `counters`: what the API's side counts, by name; made by `start`, which knows what there is."""

    def __init__(self, counters: Figures) -> None:
        self._registry = CollectorRegistry()
        """Of all metrics below."""
        self._seconds = Histogram(
            f"{PREFIX}_sync_seconds",
            "From the compiled change to the kernel holding it.",
            buckets=BUCKETS,
            registry=self._registry,
        )
        """How long writes to the kernel took."""
        self._counters = counters
        """What the API's side counts, by name."""
        self._sync_failures = 0
        """Syncs after which something was not as it should be."""
        ProcessCollector(registry=self._registry)

    def follow(self, agent: Agent) -> None:
        self._registry.register(_ReportCollector(agent, self._counters, lambda: self._sync_failures))

    def synced(self, seconds: float, result: SyncResult) -> None:
        self._seconds.observe(seconds)
        self._sync_failures += bool(result.failures)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _ReportCollector(Collector):
    """How the agent stands at the moment of asking, from its last report."""

    def __init__(self, agent: Agent, counters: Figures, sync_failures: Callable[[], float]) -> None:
        self._agent = agent
        """Has the last report."""
        self._counters = counters
        """What the API's side counts, by name."""
        self._sync_failures = sync_failures
        """Counts syncs with failures."""

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, value in self._counters.items():
            yield _counter(name, name.replace("_", " ").capitalize() + ".", value())
        yield _counter("syncs_with_failures", "Syncs after which something was not as it should be.", self._sync_failures())
        report = self._agent.report
        if report is None:
            return
        yield _counter("syncs", "Writes to the kernel.", report.syncs)
        yield _counter("repairs", "Repairs of what others changed.", report.repairs)
        guarded = CounterMetricFamily(f"{PREFIX}_guard_packets", "Packets that the guard counted, by reason.", labels=["reason"])
        for reason, count in sorted(guard_packets().items()):
            guarded.add_metric([reason], count)
        yield guarded
        yield _counter("connections_cut", "Open connections cut because a policy became tighter.", report.cut)
        yield _gauge("in_sync", "Whether the kernel holds all that is wanted.", report.in_sync)
        yield _gauge("complete", "Whether all inputs are here.", report.complete)
        yield _gauge("problems", "Problems in the node's report.", len(report.problems))
        yield _gauge("failures", "What the kernel refuses at present.", len(report.failures))
        yield _gauge("policies", "Policies in force that select pods of this node.", len(report.policies))
        yield _gauge("sets", "Sets programmed.", report.sizes["sets"])
        yield _gauge("members", "Members of all sets.", report.sizes["members"])
        for kind in ("chains", "rules"):
            family = GaugeMetricFamily(f"{PREFIX}_{kind}", f"{kind.capitalize()} programmed.", labels=["family"])
            for number, count in report.sizes[kind].items():
                family.add_metric([f"ipv{number}"], count)
            yield family
        revisions = GaugeMetricFamily(
            f"{PREFIX}_revision", "The API server's revisions up to which all is programmed.", labels=["kind"]
        )
        for kind, revision in report.revisions.items():
            revisions.add_metric([kind], float(revision or 0))
        yield revisions
        info = GaugeMetricFamily(f"{PREFIX}_info", "What runs here.", labels=["version", "backend"])
        info.add_metric([own_version(), report.backend.value], 1)
        yield info


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", words, value=value)


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", words, value=value)
