"""The lab's API server and controllers: what was applied, what follows from it, and the folder that the others read.

    applied objects ──expand──▶ nodes, pods with addresses, services ──▶ Topology (for the builder)
                                                                    └──▶ LAB/objects/KIND/NAMESPACE/NAME.json + revision

In: objects as dictionaries, parsed and validated by the caller. A change is a new `LabState`, worked out completely before
anything of it is kept: what is wrong changes nothing. Excluded: the network itself, and waiting for agents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from netpol_compiler.model.addresses import Address, Network, parse_network
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Key, Labels, Pod
from netpol_lab.errors import LabError
from netpol_lab.topology import world
from netpol_lab.topology.model import Families, Topology
from netpol_manifests.documents import Document
from netpol_manifests.world import CLUSTER_KINDS, ExpandOptions, ObjectId, expand
from netpol_store.folder import FolderWriter

_STORED = ("Node", "Namespace", "Pod", "Service", "NetworkPolicy")
Object = Mapping[str, Any]


def identity(data: Object) -> ObjectId:
    """Who an object is. Raises LabError for one without kind or name."""
    metadata = data.get("metadata") or {}
    kind, name = data.get("kind"), metadata.get("name")
    if not isinstance(kind, str) or not isinstance(name, str):
        raise LabError("an object needs kind and metadata.name")
    return ObjectId(kind, "" if kind in CLUSTER_KINDS else str(metadata.get("namespace") or "default"), name)


@dataclass(frozen=True, slots=True)
class LabState:
    """One consistent picture: what was applied, what people relabelled, and what follows."""

    applied: Mapping[ObjectId, Object] = field(default_factory=dict)
    relabelled: Mapping[ObjectId, Mapping[str, str | None]] = field(default_factory=dict)
    objects: Mapping[ObjectId, Object] = field(default_factory=dict)
    topology: Topology = field(default_factory=Topology)
    problems: tuple[str, ...] = ()
    pod_addresses: Mapping[Key, tuple[Address, ...]] = field(default_factory=dict)
    service_addresses: Mapping[Key, tuple[Address, ...]] = field(default_factory=dict)


class ApiServer:
    """Holds the state and writes it down. One caller at a time."""

    def __init__(self, folder: Path, families: Families) -> None:
        self._writer = FolderWriter(folder)
        self._families = families
        self.state = LabState()
        self.revision = 0

    def with_applied(self, objects: Iterable[Object]) -> tuple[LabState, list[dict[str, str]]]:
        """The state after applying, and what became of each object. Raises LabError."""
        applied = dict(self.state.applied)
        actions = []
        for data in objects:
            oid = identity(data)
            action = "created" if oid not in applied else "unchanged" if applied[oid] == data else "configured"
            applied[oid] = data
            actions.append(_action(oid, action))
        return self._work_out(applied, self.state.relabelled), actions

    def with_deleted(self, objects: Iterable[Object]) -> tuple[LabState, list[dict[str, str]]]:
        """The state after deleting; a namespace takes along what is in it."""
        applied = dict(self.state.applied)
        relabelled = dict(self.state.relabelled)
        actions = []
        for data in objects:
            oid = identity(data)
            known = oid in applied or oid in self.state.objects
            actions.append(_action(oid, "deleted" if known else "missing"))
            relabelled.pop(oid, None)
            applied.pop(oid, None)
            if oid.kind == "Namespace":
                applied = {k: v for k, v in applied.items() if k.namespace != oid.name}
        return self._work_out(applied, relabelled), actions

    def with_labels(self, oid: ObjectId, labels: Mapping[str, str | None]) -> LabState:
        """The state after setting labels (None removes one). Raises LabError for an object that is not there."""
        if oid not in self.state.objects:
            raise LabError(f"no {oid.kind} {oid.namespace + '/' if oid.namespace else ''}{oid.name} in the lab")
        if oid.kind not in ("Pod", "Namespace", "Node"):
            raise LabError(f"the lab labels Pods, Namespaces and Nodes, not a {oid.kind}")
        changed = {**self.state.relabelled.get(oid, {}), **labels}
        return self._work_out(self.state.applied, {**self.state.relabelled, oid: changed})

    def commit(self, state: LabState) -> int:
        """Keep the state and write it down; returns the objects' revision, which is new only if something changed."""
        changed = self.revision == 0
        for oid in set(self.state.objects) - set(state.objects):
            changed |= self._writer.remove(_file(oid))
        for oid, data in state.objects.items():
            if oid.kind in _STORED:
                changed |= self._writer.write(_file(oid), json.dumps(data, sort_keys=True).encode())
        self.state = state
        if changed:
            self.revision = self._writer.commit()
        return self.revision

    def get(self, kind: str | None, namespace: str | None, name: str | None) -> list[Object]:
        """Objects, sorted; None does not restrict."""
        return [
            data for oid, data in sorted(self.state.objects.items())
            if kind in (None, oid.kind) and (namespace is None or oid.namespace == namespace) and name in (None, oid.name)
        ]  # fmt: skip

    def _work_out(self, applied: Mapping[ObjectId, Object], relabelled: Mapping[ObjectId, Mapping[str, str | None]]) -> LabState:
        families = self._families
        documents = [Document(_relabel(data, relabelled.get(oid))) for oid, data in applied.items()]
        own = families.each if _speaks(applied, families) else (Family.V4,)
        # What was given out stays: the expansion hears of it as it gave it, before any twins were made.
        found = expand(documents, self.state.pod_addresses, ExpandOptions(families=own), self.state.service_addresses)
        wrong = [r.words for r in found.rejected if r.kind != "NetworkPolicy"]
        if wrong:
            raise LabError("; ".join(wrong))
        nodes = {n.name: world.node_in_families(n, families) for n in found.nodes.values()}
        pods = {k: world.pod_in_families(_relabelled_pod(p, relabelled), nodes, families) for k, p in found.pods.items()}
        passes = {Key(o.namespace, o.name): _proxy(d) for o, d in found.objects.items() if o.kind == "Pod"}
        topology = world.topology(nodes, pods, found.services, passes, families)
        _refuse_doubles(topology)
        objects = {o: self._finish(o, _relabel(d, relabelled.get(o)), pods, topology) for o, d in found.objects.items()}
        kept = {o: labels for o, labels in relabelled.items() if o in objects}
        given = {k: p.addresses for k, p in found.pods.items() if not p.host_network}
        ips = {k: s.cluster_ips for k, s in found.services.items()}
        return LabState(applied, kept, objects, topology, tuple(r.words for r in found.rejected), given, ips)

    @staticmethod
    def _finish(oid: ObjectId, data: Object, pods: Mapping[Key, Pod], topology: Topology) -> Object:
        """The object with the addresses of the lab's families."""
        if oid.kind == "Node":
            node = topology.nodes[oid.name]
            return _with_node(data, node.addresses, node.cidrs)
        key = Key(oid.namespace, oid.name)
        if oid.kind == "Pod" and key in pods and pods[key].addresses:
            return _with_pod(
                data, pods[key].addresses, topology.nodes[pods[key].node].addresses if pods[key].node in topology.nodes else ()
            )
        if oid.kind == "Service" and topology.services[key].cluster_ips:
            ips = [a.text for a in topology.services[key].cluster_ips]
            return {**data, "spec": {**(data.get("spec") or {}), "clusterIP": ips[0], "clusterIPs": ips}}
        return data


def _action(oid: ObjectId, action: str) -> dict[str, str]:
    return {"kind": oid.kind, "namespace": oid.namespace, "name": oid.name, "action": action}


def _file(oid: ObjectId) -> str:
    return f"{oid.kind}/{oid.namespace or '_'}/{oid.name}.json"


def _speaks(applied: Mapping[ObjectId, Object], families: Families) -> bool:
    """Whether the Nodes as written have a block of every family; else IPv4 is worked out and IPv6 are its twins."""
    nodes = [data for oid, data in applied.items() if oid.kind == "Node"]
    return bool(nodes) and all(_versions(node) >= set(families.each) for node in nodes)


def _versions(node: Object) -> set[int]:
    spec = node.get("spec") or {}
    texts = spec.get("podCIDRs") or [spec.get("podCIDR")]
    return {parse_network(t)[0].version for t in texts if t}


def _relabel(data: Object, labels: Mapping[str, str | None] | None) -> Object:
    if not labels:
        return data
    metadata = data.get("metadata") or {}
    merged = {**(metadata.get("labels") or {}), **labels}
    return {**data, "metadata": {**metadata, "labels": {k: v for k, v in merged.items() if v is not None}}}


def _relabelled_pod(pod: Pod, relabelled: Mapping[ObjectId, Mapping[str, str | None]]) -> Pod:
    """Pods of a workload are labelled after the expansion, which only knows their template."""
    labels = relabelled.get(ObjectId("Pod", *pod.key))
    if not labels:
        return pod
    merged: dict[str, str | None] = {**pod.labels, **labels}
    return replace(pod, labels=Labels({k: v for k, v in merged.items() if v is not None}))


def _proxy(data: Object) -> str:
    return str(((data.get("metadata") or {}).get("annotations") or {}).get(world.PROXY_ANNOTATION, ""))


def _refuse_doubles(topology: Topology) -> None:
    """Two machines with one address cannot be built."""
    owners: dict[Address, str] = {}
    named = [(f"pod {k}", p.addresses) for k, p in topology.pods.items() if not p.host_network]
    named += [(f"node {n.name}", n.addresses) for n in topology.nodes.values()]
    for name, addresses in named:
        for address in addresses:
            if address in owners:
                raise LabError(f"{address} is the address of {owners[address]} and of {name}")
            owners[address] = name


def _with_node(data: Object, addresses: tuple[Address, ...], cidrs: tuple[Network, ...]) -> Object:
    status = data.get("status") or {}
    others = [a for a in status.get("addresses") or () if a.get("type") != "InternalIP"]
    blocks = [c.text for c in cidrs]
    return {
        **data,
        "spec": {**(data.get("spec") or {}), "podCIDR": blocks[0], "podCIDRs": blocks},
        "status": {**status, "addresses": [{"type": "InternalIP", "address": a.text} for a in addresses] + others},
    }


def _with_pod(data: Object, addresses: tuple[Address, ...], host: tuple[Address, ...]) -> Object:
    status = {**(data.get("status") or {}), "podIP": addresses[0].text, "podIPs": [{"ip": a.text} for a in addresses]}
    if host:
        status["hostIP"] = host[0].text
    return {**data, "status": status}


__all__ = ["ApiServer", "LabState", "identity"]
