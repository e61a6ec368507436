"""Is a policy in force, and if not, who lags and why? Pure: from what the API holds to an answer; no requests, no clock.

    NetworkPolicy   uid, generation -------------+
    CompiledPolicy  uid, sourceGeneration -------+--> compiled?  no: the operator lags
    CompiledPolicy  digest ----------------------+
    NodeReport      digest of each policy -------+--> the node has it?  no: that node lags
    Pod             live, selected, its node ----+--> which nodes need it

A policy is in force when it is compiled as it is now, and every node that runs a live pod selected by it reports that digest.
`npctl wait`, `status` and `explain` say the same, because they ask here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from netpol_api.resources import NODE_REPORT_SCHEMA
from netpol_compiler.model.objects import Key, Labels, Pod, Policy

Json = Mapping[str, Any]


class Written(NamedTuple):
    """A NetworkPolicy as it is now."""

    uid: str
    generation: int


class Compiled(NamedTuple):
    """What the operator made of a policy."""

    uid: str
    generation: int
    digest: str


class Agent(NamedTuple):
    """Where a node's agent answers: its pod and port."""

    namespace: str
    pod: str
    port: int


@dataclass(frozen=True, slots=True)
class Report:
    """One NodeReport. `policies`: digest by policy, of those in force that select pods of the node. `time`: RFC 3339."""

    node: str
    policies: Mapping[str, str] = field(default_factory=dict)
    in_sync: bool = False
    complete: bool = True
    schema: int = NODE_REPORT_SCHEMA
    time: str = ""
    version: str = ""
    backend: str = ""
    agent: Agent | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Mapping[str, Any], ...] = ()
    failure_count: int = 0
    problems: tuple[str, ...] = ()

    @property
    def trouble(self) -> str:
        """The first thing that is wrong on the node, in words; empty when it is in sync."""
        if self.schema != NODE_REPORT_SCHEMA:
            return f"its report has schema {self.schema}, and this npctl reads schema {NODE_REPORT_SCHEMA}"
        if self.failures:
            return f"{self.failures[0].get('what')}: {self.failures[0].get('error')}"
        if self.problems:
            return self.problems[0]
        if not self.complete:
            return "its agent has not read everything yet"
        return "" if self.in_sync else "not in sync"


@dataclass(frozen=True, slots=True)
class Control:
    """What npctl's parts have published."""

    compiled: Mapping[Key, Compiled] = field(default_factory=dict)
    reports: Mapping[str, Report] = field(default_factory=dict)


class Lag(NamedTuple):
    """Who is behind: a node, or the operator (`node` empty), and why."""

    node: str
    reason: str

    @property
    def words(self) -> str:
        return f"{f'node {self.node}' if self.node else 'operator'}: {self.reason}"

    @property
    def data(self) -> dict[str, Any]:
        return {"node": self.node or None, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class PolicyState:
    """One policy: the nodes that need it (or still have it, when it is to go), and who lags."""

    policy: Key
    nodes: tuple[str, ...]
    lags: tuple[Lag, ...]

    @property
    def in_force(self) -> bool:
        return not self.lags

    @property
    def data(self) -> dict[str, Any]:
        return {
            "policy": str(self.policy),
            "inForce": self.in_force,
            "nodes": list(self.nodes),
            "lagging": [lag.data for lag in self.lags],
        }


def written_of(item: Json) -> Written:
    metadata = item["metadata"]
    return Written(str(metadata.get("uid") or ""), int(metadata.get("generation") or 0))


def compiled_of(item: Json) -> Compiled:
    spec = item.get("spec") or {}
    return Compiled(str(spec.get("uid") or ""), int(spec.get("sourceGeneration") or 0), str(spec.get("digest") or ""))


def report_of(item: Json) -> Report:
    """A NodeReport; one without a status is a report of nothing."""
    status = item.get("status") or {}
    agent = status.get("agent") or {}
    failures = tuple(f for f in status.get("failures") or () if isinstance(f, Mapping))
    return Report(
        node=item["metadata"]["name"],
        policies=status.get("policies") or {},
        in_sync=bool(status.get("inSync")),
        complete=bool(status.get("complete", True)),
        schema=int(status.get("schema") or 0),
        time=str(status.get("time") or ""),
        version=str(status.get("version") or ""),
        backend=str(status.get("backend") or ""),
        agent=Agent(agent["namespace"], agent["pod"], int(agent["port"])) if agent.get("pod") and agent.get("port") else None,
        sizes=status.get("sizes") or {},
        failures=failures,
        failure_count=int(status.get("failureCount") or len(failures)),
        problems=tuple(map(str, status.get("problems") or ())),
    )


def key_of(item: Json) -> Key:
    return Key(item["metadata"].get("namespace") or "", item["metadata"]["name"])


class Placed:
    """Which nodes run live pods with which labels. Pods with equal labels are looked at once, however many they are."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._nodes: dict[str, dict[Labels, set[str]]] = defaultdict(lambda: defaultdict(set))
        for pod in pods:
            if pod.is_endpoint and pod.node:
                self._nodes[pod.key.namespace][pod.labels].add(pod.node)

    def nodes_of(self, policy: Policy) -> tuple[str, ...]:
        """The nodes that run a live pod selected by `policy`, sorted."""
        groups = self._nodes.get(policy.key.namespace, {})
        return tuple(sorted({n for labels, nodes in groups.items() if policy.pod_selector.matches(labels) for n in nodes}))


def policy_state(key: Key, written: Written, nodes: Iterable[str], control: Control) -> PolicyState:
    """Whether the policy `key` is in force on `nodes`."""
    nodes = tuple(nodes)
    compiled = control.compiled.get(key)
    operator = _operator_lag(written, compiled)
    if operator or compiled is None:
        return PolicyState(key, nodes, (Lag("", operator),))
    lags = [(n, _node_lag(key, compiled.digest, control.reports.get(n))) for n in nodes]
    return PolicyState(key, nodes, tuple(Lag(n, reason) for n, reason in lags if reason))


def _operator_lag(written: Written, compiled: Compiled | None) -> str:
    if compiled is None:
        return "not compiled yet"
    if compiled.uid != written.uid:
        return f"compiled from an earlier policy of this name (uid {compiled.uid or 'unknown'}; it is now {written.uid})"
    if compiled.generation != written.generation:
        return f"compiled at generation {compiled.generation}; the policy is at {written.generation}"
    return ""


def _node_lag(key: Key, digest: str, report: Report | None) -> str:
    if report is None:
        return "no agent has reported"
    if report.schema == NODE_REPORT_SCHEMA and report.policies.get(str(key)) == digest:
        return ""
    has = "it has an earlier version in force" if str(key) in report.policies else "not in force there yet"
    return has + (f" ({report.trouble})" if report.trouble else "")


def absence(key: Key, written: Written | None, control: Control) -> PolicyState:
    """Whether a policy that is to go is gone: the object, what was compiled from it, and every report of it."""
    lags = []
    if written is not None:
        lags.append(Lag("", "the NetworkPolicy is still there"))
    elif key in control.compiled:
        lags.append(Lag("", "its CompiledPolicy is still there"))
    nodes = tuple(sorted(n for n, r in control.reports.items() if str(key) in r.policies))
    return PolicyState(key, nodes, (*lags, *(Lag(n, "still in force there") for n in nodes)))
