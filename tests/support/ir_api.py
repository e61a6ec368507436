"""The IR that a lab's API server holds, against a compile from scratch of the objects that it holds: equal, or what differs.

Policies and sets are compared in their wire form; a set is the union of its slices. Also checked, each by a plain walk over the
objects: which state of a policy was compiled, how new its sets are, and that every node that needs an object is
in its span.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster_api import Cluster
from netpol_api import resources
from netpol_compiler.model.objects import Cluster as Objects
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.reading.objects import parse_namespace, parse_pod, parse_policy
from until import until_it_holds

KINDS = "networkpolicies,pods,namespaces,addresssets,compiledpolicies"
Document = Mapping[str, Any]


@dataclass(frozen=True)
class IR:
    """`policies`: wire forms by "namespace/name". `sets`: selector in words and wire form, and sorted members, by name."""

    policies: Mapping[str, Document]
    sets: Mapping[str, Document]


@dataclass(frozen=True)
class Reading:
    """The API server's objects. Kinds are listed one after the other, so what changes meanwhile may tear it."""

    items: tuple[Document, ...]

    def of(self, kind: str) -> list[Any]:
        return [item for item in self.items if item["kind"] == kind]


def read(cluster: Cluster) -> Reading:
    return Reading(tuple(cluster.items(KINDS, "-A")))


def published(reading: Reading) -> IR:
    """What the operator has written. Raises AssertionError for a set whose slices are not whole."""
    sets: dict[str, list[Any]] = {}
    for item in reading.of("AddressSet"):
        sets.setdefault(item["spec"]["name"], []).append(item["spec"])
    for name, slices in sets.items():
        assert {s["slice"] for s in slices} == set(range(slices[0]["slices"])), f"set {name} has slices missing or left over"
    return IR(
        {_name(item): wire_fields(item["spec"]) for item in reading.of("CompiledPolicy")},
        {name: _set_document(slices) for name, slices in sets.items()},
    )


def wire_fields(spec: Document) -> Document:
    """The wire form in a CompiledPolicy's spec, without what stands beside it for people."""
    return {k: v for k, v in spec.items() if k not in ("sourceGeneration", "needs", "isolates", "ruleCount")}


def _set_document(slices: list[Any]) -> Document:
    first = slices[0]
    members = sorted(m for s in slices for m in s["members"])
    return {"words": first["words"], "selects": first["selects"], "members": members}


def from_scratch(reading: Reading) -> IR:
    """What a compile of all objects gives."""
    compiled = compile_cluster(_objects(reading))
    return IR(
        {str(key): wire.policy_to_wire(policy) for key, policy in compiled.policies.items()},
        {name: _set_document([_whole(value)]) for name, value in compiled.sets.items()},
    )


def _whole(value: AddressSet) -> Document:
    return wire.slice_to_wire(value, 0, 1, value.members)


def _objects(reading: Reading) -> Objects:
    def parsed(kind: str, parse: Any) -> Iterator[Any]:
        return (value for value in (parse(item)[0] for item in reading.of(kind)) if value is not None)

    return Objects(
        {n.name: n for n in parsed("Namespace", parse_namespace)},
        {p.key: p for p in parsed("Pod", parse_pod)},
        {p.key: p for p in parsed("NetworkPolicy", parse_policy)},
        {},
    )


def see_ir(cluster: Cluster, limit: float = 10.0) -> IR:
    """Return as soon as the IR is what a compile from scratch gives, and right in all else. AssertionError after `limit` seconds
    with the difference."""

    def check() -> IR:
        reading = read(cluster)
        there = published(reading)
        assert there == from_scratch(reading)
        assert list(oddities(reading)) == []
        return there

    return until_it_holds(check, limit)


def oddities(reading: Reading) -> Iterator[str]:
    """What is wrong beside the IR's content, in words."""
    sources = {_name(item): item["metadata"] for item in reading.of("NetworkPolicy")}
    newest: dict[str, int] = {}
    for item in reading.of("AddressSet"):
        name = item["spec"]["name"]
        newest[name] = max(newest.get(name, 0), int(item["metadata"]["resourceVersion"]))
    for item in reading.of("CompiledPolicy"):
        name, spec, metadata = _name(item), item["spec"], item["metadata"]
        source = sources[name]
        if (spec["uid"], spec["sourceGeneration"]) != (source["uid"], source["generation"]):
            yield f"{name}: compiled of another state of the policy"
        if metadata.get("ownerReferences"):
            yield f"{name}: owned, so that the garbage collector would remove it before there is something in its place"
        for needed, version in spec["needs"].items():
            if int(version) > newest.get(needed, 0):
                yield f"{name}: needs set {needed} of revision {version}, which there is not"
    yield from _span_gaps(reading)


def _span_gaps(reading: Reading) -> Iterator[str]:
    """Objects that a node needs, and whose labels do not say so."""
    pods = [
        p for p in _objects(reading).pods.values() if p.node and not p.host_network and p.phase not in ("Succeeded", "Failed")
    ]
    needs: dict[str, set[str]] = {}
    for item in reading.of("CompiledPolicy"):
        policy = wire.policy_from_wire(wire_fields(item["spec"]))
        local = [pod for pod in pods if pod.key.namespace == policy.key.namespace]
        yield from _missing(_name(item), item, local)
        for name in policy.set_names:
            needs.setdefault(name, set()).update(p.node for p in local if policy.pod_selector.matches(p.labels))
    for item in reading.of("AddressSet"):
        there = resources.span_of(item["metadata"].get("labels") or {})
        for node in needs.get(item["spec"]["name"], ()):
            if resources.bucket(node) not in there:
                yield f"set {item['metadata']['name']}: node {node} needs it and is not in its span"


def _missing(name: str, item: Document, pods: Iterable[Pod]) -> Iterator[str]:
    there = resources.span_of(item["metadata"].get("labels") or {})
    for node in sorted({pod.node for pod in pods}):
        if resources.bucket(node) not in there:
            yield f"{name}: node {node} runs a pod of its namespace and is not in its span"


def _name(item: Document) -> str:
    return str(Key(item["metadata"]["namespace"], item["metadata"]["name"]))
