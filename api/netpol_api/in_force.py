"""Is a policy in force, and if not, who lags and why? Pure: from what the API holds to an answer; no requests, no clock.

    NetworkPolicy   uid, generation -------------+
    CompiledPolicy  uid, sourceGeneration -------+--> compiled?  no: the operator lags
    CompiledPolicy  digest ----------------------+
    NodeReport      digest of each policy -------+--> the node has it?  no: that node lags
    Pod             live, selected, its node ----+--> which nodes need it

A policy is in force when it is compiled as it is now, and every node that runs a live pod selected by it reports that digest.
`npctl wait`, `status` and `explain`, the lab, and the operator's column NODES say the same, because they ask here.

Excluded: how old a report is. Rules stay in the kernel when their agent stops, so an old report of the right digest counts; that
its node may be in trouble is said beside it (`npctl status`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from netpol_api.api_objects import JsonView, key_of
from netpol_api.compiled_policy import Compiled, compiled_of
from netpol_api.node_report import NodeReport, report_of
from netpol_compiler.model.objects import Key, Labels, Pod, Policy

NO_REPORT = "no agent has reported"


class Written(NamedTuple):
    """A NetworkPolicy as it is now."""

    uid: str
    generation: int


@dataclass(frozen=True, slots=True)
class Control:
    """What npctl's parts have published."""

    compiled: Mapping[Key, Compiled] = field(default_factory=dict)
    reports: Mapping[str, NodeReport] = field(default_factory=dict)

    @property
    def policies(self) -> set[Key]:
        """Those that were compiled or are reported, whether they exist or not."""
        return set(self.compiled) | {Key(*text.split("/", 1)) for r in self.reports.values() for text in r.policies}


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


def control_of(compiled: Iterable[JsonView], reports: Iterable[JsonView]) -> Control:
    """From the objects of the API."""
    return Control({key_of(item): compiled_of(item) for item in compiled}, {r.node: r for r in map(report_of, reports)})


def written_of(item: JsonView) -> Written:
    metadata = item["metadata"]
    return Written(str(metadata.get("uid") or ""), int(metadata.get("generation") or 0))


class Placed:
    """Which nodes run live pods with which labels. Pods with equal labels are looked at once, however many they are."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._nodes: dict[str, dict[Labels, set[str]]] = defaultdict(lambda: defaultdict(set))
        for pod in pods:
            if pod.is_live and pod.node:
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
    having = frozenset(nodes_having(key, compiled.digest, nodes, control.reports))
    return PolicyState(key, nodes, tuple(Lag(n, _node_lag(key, control.reports.get(n))) for n in nodes if n not in having))


def nodes_having(key: Key, digest: str, nodes: Iterable[str], reports: Mapping[str, NodeReport]) -> list[str]:
    """Those of `nodes` that report exactly this version as in force."""
    name = str(key)
    return [n for n in nodes if (report := reports.get(n)) is not None and report.in_force.get(name) == digest]


def _operator_lag(written: Written, compiled: Compiled | None) -> str:
    if compiled is None:
        return "not compiled yet"
    if compiled.uid != written.uid:
        return f"compiled from an earlier policy of this name (uid {compiled.uid or 'unknown'}; it is now {written.uid})"
    if compiled.generation != written.generation:
        return f"compiled at generation {compiled.generation}; the policy is at {written.generation}"
    return ""


def _node_lag(key: Key, report: NodeReport | None) -> str:
    if report is None:
        return NO_REPORT
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
    # A report that is not understood may hold the policy: it counts as there, not as gone.
    lags += [Lag(n, r.misunderstood) for n, r in sorted(control.reports.items()) if r.hides_policies and n not in nodes]
    return PolicyState(key, nodes, (*lags, *(Lag(n, "still in force there") for n in nodes)))
