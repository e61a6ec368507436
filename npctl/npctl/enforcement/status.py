"""The state of npctl in a cluster as one value: operator, nodes, policies, and everything that is not as it should be.

In: a reading of a cluster (`live`), the operator's lease and pods, the time now. Out: `Status`, with every reason why something
may not be in force. Pure; `commands/status` reads and prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from netpol_api.in_force import NO_REPORT, Control, Placed, PolicyState, policy_state
from netpol_api.node_report import NodeReport
from netpol_api.times import age_seconds
from npctl.enforcement.enforcement import age_words
from npctl.inputs.live import Live

STALE_SECONDS = 180.0
"""A report, or a lease without a duration of its own, that is older tells nothing about now."""
_LEASE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Operator:
    """Who leads, by the lease; the replicas, by their pods. `problem`: why nobody leads, or why that is `unknown`."""

    namespace: str
    holder: str = ""
    renewed: float | None = None
    replicas: tuple[Mapping[str, Any], ...] = ()
    problem: str = ""
    unknown: bool = False

    @property
    def words(self) -> str:
        if self.unknown:
            return f"unknown: {self.problem}"
        leader = self.problem or f"{self.holder} leads (renewed {age_words(self.renewed or 0)} ago)"
        if not self.replicas:
            return leader
        ready = sum(bool(r["ready"]) for r in self.replicas)
        versions = sorted({str(r["version"]) for r in self.replicas if r["version"]})
        return f"{leader}; {ready} of {len(self.replicas)} replicas ready" + (f", {', '.join(versions)}" if versions else "")

    @property
    def data(self) -> dict[str, Any]:
        return {
            "namespace": self.namespace,
            "leader": self.holder or None,
            "renewedSecondsAgo": None if self.renewed is None else round(self.renewed, 1),
            "replicas": list(self.replicas),
            "problem": self.problem or None,
        }


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node. `report` None: nobody has reported. `lagging`: policies that it needs and does not have in force."""

    name: str
    report: NodeReport | None
    lagging: tuple[str, ...]
    seconds: float | None
    troubles: tuple[str, ...]

    @property
    def rules(self) -> int:
        """Of all families."""
        return self.report.count("rules") if self.report else 0

    @property
    def sets(self) -> int:
        return self.report.count("sets") if self.report else 0

    @property
    def data(self) -> dict[str, Any]:
        report = self.report
        return {
            "node": self.name,
            "inSync": bool(report and report.in_sync),
            "complete": bool(report and report.complete),
            "policies": len(report.policies) if report else 0,
            "rules": self.rules,
            "sets": self.sets,
            "lagging": list(self.lagging),
            "failures": [f._asdict() for f in report.failures] if report else [],
            "failureCount": report.failure_count if report else 0,
            "problems": list(report.problems) if report else [],
            "backend": report.backend if report else None,
            "version": report.version if report else None,
            "reported": (report.time or None) if report else None,
            "troubles": list(self.troubles),
        }


@dataclass(frozen=True, slots=True)
class Status:
    """Everything; `policies` are those that lag, of `total`."""

    operator: Operator
    nodes: tuple[NodeStatus, ...]
    policies: tuple[PolicyState, ...]
    total: int

    @property
    def in_force(self) -> bool:
        operator_fails = bool(self.operator.problem) and not self.operator.unknown
        return not operator_fails and not self.policies and not any(n.troubles for n in self.nodes)

    @property
    def data(self) -> dict[str, Any]:
        return {
            "inForce": self.in_force,
            "operator": self.operator.data,
            "nodes": [n.data for n in self.nodes],
            "policies": {
                "total": self.total,
                "inForce": self.total - len(self.policies),
                "lagging": [p.data for p in self.policies],
            },
        }


def status_of(live: Live, control: Control, operator: Operator, now: datetime) -> Status:
    """Put together what was read."""
    cluster = live.state.cluster
    placed = Placed(cluster.pods.values())
    states = [
        policy_state(key, live.written[key], placed.nodes_of(policy), control) for key, policy in sorted(cluster.policies.items())
    ]
    known = frozenset(map(str, live.written))
    names = sorted(set(cluster.nodes) | set(control.reports))
    nodes = tuple(_node(name, control.reports.get(name), states, known, set(cluster.nodes), now) for name in names)
    return Status(operator, nodes, tuple(s for s in states if not s.in_force), len(states))


def _node(
    name: str, report: NodeReport | None, states: Iterable[PolicyState], known: frozenset[str], nodes: set[str], now: datetime
) -> NodeStatus:
    lagging = tuple(str(s.policy) for s in states for lag in s.lags if lag.node == name)
    seconds = age_seconds(report.time, now) if report else None
    return NodeStatus(name, report, lagging, seconds, tuple(_troubles(name, report, known, nodes, seconds)))


def _troubles(
    name: str, report: NodeReport | None, known: frozenset[str], nodes: set[str], seconds: float | None
) -> Iterable[str]:
    """Everything that is wrong with one node but the policies that it lacks, which are told with the policies."""
    if report is None:
        yield NO_REPORT
        return
    if nodes and name not in nodes:
        yield "there is a report of this node, and no such node"
    if seconds is None:
        yield "its report says no time"
    elif seconds > STALE_SECONDS:
        yield f"its last report is {age_words(seconds)} old: the agent or the node may be gone"
    for failure in report.failures:
        yield "failure: " + ": ".join(filter(None, failure))
    if report.failure_count > len(report.failures):
        yield f"failure: and {report.failure_count - len(report.failures)} more, which the agent's log has"
    yield from (f"problem: {p}" for p in report.problems)
    if report.misunderstood or not (report.failures or report.problems):
        yield from filter(None, [report.trouble])
    for policy in sorted(set(report.policies) - known):
        yield f"{policy} is deleted, and still in force there"


def operator_of(namespace: str, lease: Mapping[str, Any] | None, pods: Iterable[Mapping[str, Any]], now: datetime) -> Operator:
    """From the Lease (None: there is none) and the operator's pods."""
    replicas = tuple(map(_replica, pods))
    spec = (lease or {}).get("spec") or {}
    holder = str(spec.get("holderIdentity") or "")
    renewed = age_seconds(str(spec.get("renewTime") or ""), now)
    problem = ""
    if lease is None:
        problem = f"no operator has ever led (there is no lease npctl-operator in namespace {namespace})"
    elif not holder:
        problem = "no operator leads now"
    elif renewed is None or renewed > float(spec.get("leaseDurationSeconds") or _LEASE_SECONDS):
        since = "" if renewed is None else f" {age_words(renewed)} ago"
        problem = f"no operator leads: {holder} last renewed its lease{since}"
    return Operator(namespace, holder, renewed, replicas, problem)


def _replica(pod: Mapping[str, Any]) -> dict[str, Any]:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    containers = (pod.get("spec") or {}).get("containers") or ()
    image = str(containers[0].get("image") or "") if containers else ""
    return {
        "pod": pod["metadata"]["name"],
        "node": (pod.get("spec") or {}).get("nodeName"),
        "ready": any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions),
        "version": image.rpartition("/")[2].partition("@")[0].partition(":")[2] or None,
    }
