"""Whether everything that the API server holds is in force on every node of the lab, and if not, who lags and why.

In: one reading of the API server (users' objects, what the operator published, what the agents report). Out: names with
reasons, in words; none: all is in force. Pure: no requests, no waiting.

    policy    `netpol_api.in_force` decides, as for `npctl wait`; asked of the lab's own nodes, since no agent runs elsewhere
    set       its members are those that the selector has now; what should be published is worked out here from scratch
    node      its report can be read, it is in sync and without failures; and the agent itself says that it is up to the revisions
              of the node's own pods and of the sets in its span

A report need not be renewed for a pod or a set that changes no policy, so those revisions come from the agent's metrics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_api import kinds
from netpol_api.api_objects import Json, key_of, version_number
from netpol_api.in_force import NO_REPORT, Control, Lag, Placed, PolicyState, absence, control_of, policy_state, written_of
from netpol_api.node_report import NodeReport
from netpol_api.spans import bucket, span_label
from netpol_compiler.model.objects import Cluster
from netpol_compiler.policy import wire
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.reading.objects import parse_namespace, parse_node, parse_pod, parse_policy
from netpol_lab.kubelet.desired_state import is_elsewhere

OPERATOR = "operator"
AGENT_PORT = 9436
"""Where agents answer unless the chart's values say otherwise, which the lab's do not."""
_REVISION = re.compile(r'^npctl_agent_revision\{kind="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """Lists of one moment, as the API server gives them. `revisions`: by node and kind, from the agents; a node without them
    does not answer."""

    nodes: tuple[Json, ...]
    namespaces: tuple[Json, ...]
    pods: tuple[Json, ...]
    policies: tuple[Json, ...]
    compiled: tuple[Json, ...]
    sets: tuple[Json, ...]
    reports: tuple[Json, ...]
    revisions: Mapping[str, Mapping[str, int]]


PATHS = {
    "nodes": kinds.NODE.path(),
    "namespaces": kinds.NAMESPACE.path(),
    "pods": kinds.POD.path(),
    "policies": kinds.NETWORK_POLICY.path(),
    "compiled": kinds.COMPILED_POLICY.path(),
    "sets": kinds.ADDRESS_SET.path(),
    "reports": kinds.NODE_REPORT.path(),
}
"""Where each list of a Reading comes from."""


def lagging(reading: Reading) -> dict[str, str]:
    """Who has not caught up, "operator" or "agent-NODE", with the reason. Empty: all is in force."""
    cluster = _cluster(reading)
    control = control_of(reading.compiled, reading.reports)
    ours = {n["metadata"]["name"] for n in reading.nodes if not is_elsewhere(n)}
    states = list(_states(reading, cluster, ours, control))
    why = _first(states, "") or _sets_lag(reading, cluster)
    if why:
        return {OPERATOR: why}
    found = {n: _agent_lag(n, control.reports.get(n), _first(states, n), reading) for n in sorted(ours)}
    return {f"agent-{node}": text for node, text in found.items() if text}


def _cluster(reading: Reading) -> Cluster:
    nodes = _parsed(reading.nodes, parse_node)
    namespaces = _parsed(reading.namespaces, parse_namespace)
    pods, policies = _parsed(reading.pods, parse_pod), _parsed(reading.policies, parse_policy)
    return Cluster(
        {n.name: n for n in namespaces}, {p.key: p for p in pods}, {p.key: p for p in policies}, {n.name: n for n in nodes}
    )


def _parsed(objects: Iterable[Json], parse: Callable[[Json], tuple[Any, object]]) -> list[Any]:
    return [value for value in (parse(o)[0] for o in objects) if value is not None]


def _states(reading: Reading, cluster: Cluster, ours: set[str], control: Control) -> Iterator[PolicyState]:
    """Of each policy that there is, or of which something is left."""
    placed = Placed(cluster.pods.values())
    written = {key_of(p): written_of(p) for p in reading.policies}
    for key, one in written.items():
        policy = cluster.policies.get(key)
        yield policy_state(key, one, [n for n in placed.nodes_of(policy) if n in ours] if policy else (), control)
    for key in sorted(control.policies - written.keys()):
        yield absence(key, None, control)


def _first(states: Iterable[PolicyState], node: str) -> str:
    """The first reason why `node` (empty: the operator) lags."""
    lags: Iterator[tuple[PolicyState, Lag]] = ((state, lag) for state in states for lag in state.lags)
    return next((f"NetworkPolicy {state.policy}: {lag.reason}" for state, lag in lags if lag.node == node), "")


def _sets_lag(reading: Reading, cluster: Cluster) -> str:
    published: dict[str, set[str]] = {}
    for item in reading.sets:
        published.setdefault(str(item["spec"]["name"]), set()).update(item["spec"]["members"])
    for name, wanted in compile_cluster(cluster).sets.items():
        members = {wire.member_to_wire(m) for m in wanted.members}
        if published.get(name) != members:
            return f"has not published the addresses of {wanted.spec.words} as they are now"
    return ""


def _agent_lag(node: str, report: NodeReport | None, policy: str, reading: Reading) -> str:
    """`policy`: why one that the node needs or should not have keeps it behind."""
    if report is None:
        return NO_REPORT
    if report.misunderstood or policy:
        return report.misunderstood or policy
    if report.failures:
        what, text, error = report.failures[0]
        return f"could not program {what}: {error} ({text})"
    seen = reading.revisions.get(node)
    if seen is None:
        return "does not answer"
    label = span_label(bucket(node))
    spanned = [s for s in reading.sets if label in (s["metadata"].get("labels") or {})]
    own = [p for p in reading.pods if (p.get("spec") or {}).get("nodeName") == node and _matters(p)]
    for what, field, objects in (("sets", "addressSets", spanned), ("pods", "pods", own)):
        newest = max((version_number(o["metadata"]["resourceVersion"]) for o in objects), default=0)
        if seen.get(field, 0) < newest:
            return f"has {what} of revision {seen.get(field, 'none')}, and there are some of {newest}"
    return "" if report.in_sync else "is not in sync yet"


def revisions_of(metrics: str) -> dict[str, int]:
    """By kind, from an agent's metrics."""
    return {kind: int(float(number)) for kind, number in _REVISION.findall(metrics)}


def _matters(pod: Json) -> bool:
    """Whether a change of this pod can change its node's rules at all."""
    return not (pod.get("spec") or {}).get("hostNetwork")
