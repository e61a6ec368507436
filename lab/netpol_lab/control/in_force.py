"""Whether everything that the API server holds is in force on every node, and if not, who lags and why.

In: one reading of the API server (users' objects, what the operator published, what the agents report). Out: names with
reasons, in words; none: all is in force. What should be published is worked out here from scratch. Pure: no requests, no waiting.

    policy    published with its uid and generation           set     its members are those that the selector has now
    node      its report has every policy that selects one of its pods, by digest, is in sync and without failures; and the agent
              itself says that it is up to the revisions of the node's own pods and of the sets in its span

A report need not be renewed for a pod or a set that changes no policy, so those revisions come from the agent's metrics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_api import resources
from netpol_compiler.model.objects import Cluster, Key, Pod
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import IR, CompiledPolicy
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.reading.objects import parse_namespace, parse_node, parse_pod, parse_policy
from netpol_lab.kubelet.desired_state import is_elsewhere

Object = dict[str, Any]
OPERATOR = "operator"
AGENT_PORT = 9436
"""Where agents answer unless the chart's values say otherwise, which the lab's do not."""
_REVISION = re.compile(r'^npctl_agent_revision\{kind="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """Lists of one moment, as the API server gives them. `revisions`: by node and kind, from the agents; a node without them
    does not answer."""

    nodes: tuple[Object, ...]
    namespaces: tuple[Object, ...]
    pods: tuple[Object, ...]
    policies: tuple[Object, ...]
    compiled: tuple[Object, ...]
    sets: tuple[Object, ...]
    reports: tuple[Object, ...]
    revisions: Mapping[str, Mapping[str, int]]


PATHS = {
    "nodes": resources.NODES,
    "namespaces": resources.NAMESPACES,
    "pods": resources.PODS,
    "policies": resources.NETWORK_POLICIES,
    "compiled": resources.COMPILED_POLICIES,
    "sets": resources.ADDRESS_SETS,
    "reports": resources.NODE_REPORTS,
}
"""Where each list of a Reading comes from."""


def lagging(reading: Reading) -> dict[str, str]:
    """Who has not caught up, "operator" or "agent-NODE", with the reason. Empty: all is in force."""
    cluster = _cluster(reading)
    ir = compile_cluster(cluster)
    why = _operator_lag(reading, ir)
    if why:
        return {OPERATOR: why}
    reports = {r["metadata"]["name"]: r.get("status") or {} for r in reading.reports}
    ours = [n["metadata"]["name"] for n in reading.nodes if not is_elsewhere(n)]
    found = {f"agent-{node}": _agent_lag(node, reports.get(node), reading, cluster, ir) for node in ours}
    return {name: text for name, text in found.items() if text}


def _cluster(reading: Reading) -> Cluster:
    nodes = _parsed(reading.nodes, parse_node)
    namespaces = _parsed(reading.namespaces, parse_namespace)
    pods, policies = _parsed(reading.pods, parse_pod), _parsed(reading.policies, parse_policy)
    return Cluster(
        {n.name: n for n in namespaces}, {p.key: p for p in pods}, {p.key: p for p in policies}, {n.name: n for n in nodes}
    )


def _parsed(objects: Iterable[Object], parse: Callable[[Object], tuple[Any, object]]) -> list[Any]:
    return [value for value in (parse(o)[0] for o in objects) if value is not None]


def _operator_lag(reading: Reading, ir: IR) -> str:
    compiled = {_key(c): c.get("spec") or {} for c in reading.compiled}
    for policy in reading.policies:
        key, metadata = _key(policy), policy["metadata"]
        spec = compiled.pop(key, None)
        if spec is None:
            return f"has not published NetworkPolicy {key}"
        if spec.get("uid") != metadata["uid"] or int(spec.get("sourceGeneration") or 0) < int(metadata.get("generation") or 0):
            return f"has published an older NetworkPolicy {key}"
    if compiled:
        return f"still publishes NetworkPolicy {next(iter(compiled))}, which is gone"
    published: dict[str, set[str]] = {}
    for item in reading.sets:
        published.setdefault(str(item["spec"]["name"]), set()).update(item["spec"]["members"])
    for name, wanted in ir.sets.items():
        members = {wire.member_to_wire(m) for m in wanted.members}
        if published.get(name) != members:
            return f"has not published the addresses of {wanted.spec.words} as they are now"
    return ""


def _agent_lag(node: str, report: Mapping[str, Any] | None, reading: Reading, cluster: Cluster, ir: IR) -> str:
    if not report:
        return "has not reported yet"
    if report.get("schema") != resources.NODE_REPORT_SCHEMA:
        return f"reports in schema {report.get('schema')!r}, and this lab reads schema {resources.NODE_REPORT_SCHEMA}"
    in_force = report.get("policies") or {}
    for item in reading.compiled:
        key = _key(item)
        needed = any(_selects(ir.policies[key], pod) for pod in _own(cluster, node))
        if needed and in_force.get(str(key)) != item["spec"]["digest"]:
            return f"has not put NetworkPolicy {key} in force"
    if gone := set(in_force) - {str(k) for k in ir.policies}:
        return f"still has NetworkPolicy {min(gone)} in force"
    if failures := report.get("failures"):
        first = failures[0]
        return f"could not program {first.get('what', '?')}: {first.get('error', '?')} ({first.get('text', '')})"
    seen = reading.revisions.get(node)
    if seen is None:
        return "does not answer"
    label = resources.span_label(resources.bucket(node))
    spanned = [s for s in reading.sets if label in (s["metadata"].get("labels") or {})]
    own = [p for p in reading.pods if (p.get("spec") or {}).get("nodeName") == node and _counts(p)]
    for what, field, objects in (("sets", "addressSets", spanned), ("pods", "pods", own)):
        newest = max((int(o["metadata"]["resourceVersion"]) for o in objects), default=0)
        if seen.get(field, 0) < newest:
            return f"has {what} of revision {seen.get(field, 'none')}, and there are some of {newest}"
    return "" if report.get("inSync") else "is not in sync yet"


def revisions_of(metrics: str) -> dict[str, int]:
    """By kind, from an agent's metrics."""
    return {kind: int(float(number)) for kind, number in _REVISION.findall(metrics)}


def _own(cluster: Cluster, node: str) -> list[Pod]:
    """The node's pods that policies can select."""
    return [p for p in cluster.pods.values() if p.node == node and p.is_endpoint]


def _counts(data: Object) -> bool:
    """Whether a change of this pod can change its node's rules at all."""
    return not (data.get("spec") or {}).get("hostNetwork")


def _selects(policy: CompiledPolicy, pod: Pod) -> bool:
    return policy.key.namespace == pod.key.namespace and policy.pod_selector.matches(pod.labels)


def _key(data: Object) -> Key:
    return Key(data["metadata"]["namespace"], data["metadata"]["name"])
