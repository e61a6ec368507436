"""From the objects of an API server to what the lab runs: scheduler, workload controllers and address plan of `lab up --api`.

    objects + what was given out before ──expand──▶ Plan: topology, pods to create, bind, delete and remove, problems

The same expansion as in a lab without an API server, so the same objects give the same pods, nodes and addresses. Two things
differ: a pod runs only when the API server has it, bound to a node; and what is wrong with one object is told of that object
and stops no other. Pure: no requests, no clocks, no network.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from netpol_api.api_objects import Json
from netpol_compiler.model.addresses import Address
from netpol_compiler.model.objects import TERMINAL_PHASES, Key, Labels, Node
from netpol_compiler.reading.fields import Problems
from netpol_compiler.reading.objects import parse_node
from netpol_lab.errors import LabError
from netpol_lab.kubelet.pod_container import program_container
from netpol_lab.network import wiring
from netpol_lab.topology import pod_addresses, world
from netpol_lab.topology.model import EndpointAddress, Families, LabNode, Topology
from netpol_manifests.documents import Document
from netpol_manifests.placement import Placement
from netpol_manifests.pod_templates import WORKLOADS, digest, expand_workload
from netpol_manifests.world import ExpandOptions, ObjectId, World, expand

ELSEWHERE_ANNOTATION = "lab.npctl.dev/elsewhere"
"""On a node, with any value: the lab leaves it and its pods alone, since a test plays them."""
TEMPLATE_ANNOTATION = "lab.npctl.dev/template"
"""On a pod that the lab made for a workload: a hash of the template that it was made from."""
SCHEDULER = "default-scheduler"
_LONGEST_NAME = 255
_API_SERVICE = Key("default", "kubernetes")


@dataclass(frozen=True, slots=True)
class Objects:
    """What the API server holds. `strangers` are pods of other nodes than the lab's: only their names matter."""

    nodes: Mapping[str, Json] = field(default_factory=dict)
    namespaces: Mapping[str, Json] = field(default_factory=dict)
    services: Mapping[Key, Json] = field(default_factory=dict)
    workloads: Mapping[ObjectId, Json] = field(default_factory=dict)
    pods: Mapping[Key, Json] = field(default_factory=dict)
    strangers: Container[Key] = frozenset()


@dataclass(frozen=True, slots=True)
class Around:
    """What the objects do not say. `ending`: uids of pods that are deleted, but whose program still runs.

    `refused`: uids of pods and nodes that could not be built, with the reason. `api`: where the API server is, inside the lab.
    """

    families: Families = Families.IPV4
    ending: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    api: tuple[Address, int] | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A pod that runs, or is to run as soon as the network is there."""

    uid: str
    node: LabNode
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about one object that the lab cannot do."""

    kind: str
    key: Key
    uid: str
    words: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be so. uids say which object of that name is meant.

    create  pods of workloads, as they are posted        bind     unscheduled pods, with their node
    delete  pods that no workload wants any more         remove   deleted pods that nothing is left of
    given   addresses that are taken, also those of pods that are still to be created (then the uid is empty)
    """

    topology: Topology = field(default_factory=Topology)
    running: Mapping[Key, Placed] = field(default_factory=dict)
    create: Mapping[Key, Json] = field(default_factory=dict)
    bind: Mapping[Key, tuple[str, str]] = field(default_factory=dict)
    delete: Mapping[Key, str] = field(default_factory=dict)
    remove: Mapping[Key, str] = field(default_factory=dict)
    wanted: Mapping[ObjectId, tuple[Key, ...]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    given: Mapping[Key, tuple[Address, ...]] = field(default_factory=dict)
    uids: Mapping[Key, str] = field(default_factory=dict)


def work_out(objects: Objects, before: Plan, around: Around) -> Plan:
    """The plan for `objects`, when `before` was the last one."""
    return _Work(objects, before, around).plan()


def is_elsewhere(node: Json) -> bool:
    """Whether the lab leaves this node alone."""
    return ELSEWHERE_ANNOTATION in (node["metadata"].get("annotations") or {})


def template_hash(workload: Json) -> str:
    """A hash of the workload's pod template."""
    return digest(json.dumps((workload.get("spec") or {}).get("template"), sort_keys=True), length=10)


def controller_of(pod: Json) -> Json | None:
    """The pod's owner, if that is a workload of a kind that the lab knows."""
    for reference in pod["metadata"].get("ownerReferences") or ():
        if reference.get("controller") and reference.get("kind") in WORKLOADS:
            group = str(reference.get("apiVersion")).partition("/")[0]
            return dict(reference) if group in ("apps", "batch") else None
    return None


class _Work:
    """The steps of `work_out`, in their order; each fills its part of the plan."""

    def __init__(self, objects: Objects, before: Plan, around: Around) -> None:
        self._objects = objects
        self._before = before
        self._around = around
        self._families = around.families
        self._problems: list[Problem] = []
        self._nodes: dict[str, Node] = {}
        self._wishes = pod_addresses.Wishes(around.families, twinned=False)
        self._wanted: dict[ObjectId, tuple[Key, ...]] = {}
        self._owner: dict[Address, str] = {}
        self._documents: list[Document] = []
        self._live: dict[Key, Json] = {}
        self._remove: dict[Key, str] = {}

    def plan(self) -> Plan:
        self._read_nodes()
        self._wishes = pod_addresses.Wishes.of(self._families, self._nodes.values())
        self._read_workloads()
        self._read_pods()
        found = self._expanded()
        running = self._running(found)
        given = {k: p.addresses for k, p in found.pods.items() if self._holds(k) and p.addresses and not p.host_network}
        return Plan(
            topology=self._topology(found, running),
            running=running,
            create=self._to_create(found),
            bind=self._to_bind(found),
            delete=self._to_delete(),
            remove=self._remove,
            wanted=self._wanted,
            problems=tuple(self._problems),
            given=given,
            uids={k: _uid(self._live[k]) if k in self._live else "" for k in given},
        )

    # Nodes

    def _read_nodes(self) -> None:
        for name, data in self._objects.nodes.items():
            if is_elsewhere(data):
                continue
            try:
                self._nodes[name] = self._node(name, data)
            except LabError as error:
                self._tell("Node", Key("", name), _uid(data), str(error).removeprefix(f"Node {name}: "))

    def _node(self, name: str, data: Json) -> Node:
        """The node in the lab's families. Raises LabError where it cannot be one of the lab's."""
        if words := self._around.refused.get(_uid(data)):
            raise LabError(words)
        parsed, rejected = parse_node(data)
        if parsed is None:
            raise LabError("; ".join(r.reason for r in rejected))
        # Labelled as every kubelet labels its node, so that what asks for Linux finds one.
        labels = Labels({"kubernetes.io/os": "linux", **parsed.labels})
        node = replace(world.node_in_families(parsed, self._families), labels=labels)
        for other in self._nodes.values():
            if not any(wiring.onlink(a, b) for a in node.addresses for b in other.addresses):
                raise LabError(f"{node.addresses[0]} is not in the network of node {other.name} ({other.addresses[0]})")
            for own in node.pod_cidrs:
                if same := next((c for c in other.pod_cidrs if c.covers(own) or own.covers(c)), None):
                    raise LabError(f"its pods' block {own} overlaps {same} of node {other.name}")
        for address in node.addresses:
            if address in self._owner:
                raise LabError(f"{address} is the address of {self._owner[address]}")
        for address in (*node.addresses, *map(wiring.gateway, node.pod_cidrs)):
            self._owner[address] = f"node {name}"
        return node

    # Workloads

    def _read_workloads(self) -> None:
        """Which pods there should be, whatever becomes of them."""
        placement = Placement(self._nodes, {})
        for oid, data in self._objects.workloads.items():
            if data["metadata"].get("deletionTimestamp"):
                continue
            key = Key(oid.namespace, oid.name)
            # Its faults are told by the expansion. A cordoned node keeps its DaemonSet's pods, so it counts here.
            data = self._wishes.in_template(data)
            pods = expand_workload(data, oid.kind, key, Problems(oid.kind, *key), placement.eligible)
            self._wanted[oid] = tuple(Key(oid.namespace, p["metadata"]["name"]) for p in pods)
            self._documents.append(Document(data))

    # Pods

    def _read_pods(self) -> None:
        newcomers: list[Key] = []
        for key, data in self._objects.pods.items():
            node, uid = str((data.get("spec") or {}).get("nodeName") or ""), _uid(data)
            terminating = bool(data["metadata"].get("deletionTimestamp"))
            if node and node not in self._nodes:
                earlier = self._before.running.get(key)
                if terminating or (earlier and earlier.uid == uid) or self._before.remove.get(key) == uid:
                    self._remove[key] = uid  # its node is gone
            elif terminating and uid not in self._around.ending:
                self._remove[key] = uid
            elif (data.get("status") or {}).get("phase") in TERMINAL_PHASES:
                self._documents.append(_document(data, {"phase": data["status"]["phase"]}))
            elif node or _is_ours_to_schedule(data):
                self._live[key] = data
                if not self._take_held(key, data):
                    newcomers.append(key)
        self._reserve_uncreated()
        for key in newcomers:
            self._admit(key, self._live[key])

    def _take_held(self, key: Key, data: Json) -> bool:
        """A pod that has its address keeps it."""
        held = self._before.given.get(key)
        if not held or self._before.uids[key] not in (_uid(data), ""):
            return False
        if not self._before.uids[key] and pod_addresses.is_asking(data):
            return False  # what it was promised before it was there need not be what it says, see `_wished`
        for address in held:
            self._owner[address] = f"pod {key}"
        self._documents.append(_document(data, {"podIPs": [{"ip": a.text} for a in held]}))
        return True

    def _reserve_uncreated(self) -> None:
        """Addresses that pods of workloads were promised, which the API server does not have yet."""
        for keys in self._wanted.values():
            for key in keys:
                if key not in self._objects.pods:
                    for address in self._before.given.get(key, ()):
                        self._owner.setdefault(address, f"pod {key}")

    def _admit(self, key: Key, data: Json) -> None:
        """A pod that is new here: with the address that it says, if nobody has it; else with one that is free."""
        if not (data.get("spec") or {}).get("hostNetwork"):
            try:
                addresses = self._wished(key, data)
            except LabError as error:
                del self._live[key]
                self._tell("Pod", key, _uid(data), str(error))
                return
            for address in addresses:
                self._owner[address] = f"pod {key}"
            data = pod_addresses.with_wish(data, addresses)
        self._documents.append(_document(data, {}))

    def _wished(self, key: Key, data: Json) -> tuple[Address, ...]:
        """The addresses that the pod says: by annotation, or by its status. Raises LabError where it cannot have them."""
        if words := self._around.refused.get(_uid(data)):
            raise LabError(words)
        if len(f"pod-{key.namespace}.{key.name}") > _LONGEST_NAME:
            raise LabError("its namespace and name together are too long for a network namespace's name")
        addresses = self._wishes.addresses(data)
        bound = (data.get("spec") or {}).get("nodeName")
        for address in addresses:
            home = next((n for n in self._nodes.values() if any(c.contains(address) for c in n.pod_cidrs)), None)
            if home and bound and home.name != bound:
                raise LabError(f"{address} is of the block of node {home.name}, and the pod is bound to {bound}")
            if home and pod_addresses.is_reserved(address, home):
                raise LabError(f"{address} cannot be a pod's address")
            if owner := self._owner.get(address):
                raise LabError(f"{address} is the address of {owner}")
        return addresses

    # The plan's parts

    def _expanded(self) -> World:
        if not self._nodes:
            return World({}, {}, {}, {}, {}, {}, {})
        nodes = [Document(_node_document(n, self._objects.nodes[n.name])) for n in self._nodes.values()]
        services = [Document(data) for data in self._objects.services.values()]
        uncreated = {k: a for k, a in self._before.given.items() if k not in self._live}
        options = ExpandOptions(families=self._families.each)
        found = expand([*nodes, *services, *self._documents], uncreated, options)
        unplaced = [w for w in found.warnings if w.kind == "Pod"]  # no node fits
        for item in (*found.rejected, *unplaced):
            key = Key(item.namespace, item.name)
            self._tell(item.kind, key, self._uid_of(item.kind, key), f"{item.field}: {item.reason}" if item.path else item.reason)
        return found

    def _running(self, found: World) -> dict[Key, Placed]:
        running = {}
        for key, data in self._live.items():
            pod = found.pods.get(key)
            # What is scheduled here runs when the API server says so too.
            if pod is not None and (data.get("spec") or {}).get("nodeName") and pod.node in self._nodes:
                node = self._nodes[pod.node]
                addresses = world.pod_in_families(pod, self._nodes, self._families).addresses
                if addresses:
                    running[key] = Placed(_uid(data), LabNode(node.name, node.addresses, node.pod_cidrs), addresses)
        return running

    def _topology(self, found: World, running: Mapping[Key, Placed]) -> Topology:
        pods = {k: replace(found.pods[k], addresses=p.addresses, phase="Running") for k, p in running.items()}
        passes = {k: _annotation(self._live[k], world.PROXY_ANNOTATION) for k in running}
        topology = world.topology(self._nodes, pods, found.services, passes, self._families)
        lab_pods = {
            # Its program listens itself.
            k: replace(p, listens=()) if program_container(self._live[k]) else p
            for k, p in topology.pods.items()
        }
        return replace(topology, pods=lab_pods, services=self._with_api_service(topology))

    def _with_api_service(self, topology: Topology) -> Any:
        """The Service `kubernetes` selects no pods: it leads to the API server."""
        service = topology.services.get(_API_SERVICE)
        if service is None or self._around.api is None:
            return topology.services
        end = EndpointAddress(*self._around.api, node="")
        return {
            **topology.services,
            _API_SERVICE: replace(service, ports=tuple(replace(p, endpoints=(end,)) for p in service.ports)),
        }

    def _to_create(self, found: World) -> dict[Key, Json]:
        create = {}
        for oid, keys in self._wanted.items():
            namespace = self._objects.namespaces.get(oid.namespace)
            if namespace is None or namespace["metadata"].get("deletionTimestamp"):
                continue
            for key in keys:
                data = found.objects.get(ObjectId("Pod", *key))
                if data is not None and key not in self._objects.pods and key not in self._objects.strangers:
                    create[key] = _new_pod(data, oid, self._objects.workloads[oid])
        return create

    def _to_bind(self, found: World) -> dict[Key, tuple[str, str]]:
        unbound = {k: d for k, d in self._live.items() if not (d.get("spec") or {}).get("nodeName")}
        nodes = {k: found.pods[k].node for k in unbound if k in found.pods}
        return {k: (_uid(unbound[k]), node) for k, node in nodes.items() if node}

    def _to_delete(self) -> dict[Key, str]:
        """Pods that a workload had made for it and does not want any more, and those whose workload is gone."""
        owners = {_uid(self._objects.workloads[oid]): oid for oid in self._wanted}
        wanted = {oid: frozenset(keys) for oid, keys in self._wanted.items()}
        hashes = {oid: template_hash(self._objects.workloads[oid]) for oid in self._wanted}
        surplus = {}
        for key, data in self._objects.pods.items():
            reference = controller_of(data)
            if reference is None or data["metadata"].get("deletionTimestamp"):
                continue
            made_from = _annotation(data, TEMPLATE_ANNOTATION)
            oid = owners.get(reference["uid"])
            if oid is None or (made_from and (key not in wanted[oid] or made_from != hashes[oid])):
                surplus[key] = _uid(data)
        return surplus

    def _holds(self, key: Key) -> bool:
        """Whether an address of this pod stays taken: it lives, or is still to be created."""
        return key in self._live or key not in self._objects.pods or key in self._remove

    def _uid_of(self, kind: str, key: Key) -> str:
        if kind == "Pod":
            data = self._objects.pods.get(key)
        elif kind == "Service":
            data = self._objects.services.get(key)
        else:
            data = self._objects.workloads.get(ObjectId(kind, *key))
        return _uid(data) if data else ""

    def _tell(self, kind: str, key: Key, uid: str, words: str) -> None:
        self._problems.append(Problem(kind, key, uid, words))


def _uid(data: Json) -> str:
    return str(data["metadata"].get("uid") or "")


def _annotation(data: Json, name: str) -> str:
    return str((data["metadata"].get("annotations") or {}).get(name) or "")


def _is_ours_to_schedule(data: Json) -> bool:
    spec = data.get("spec") or {}
    return spec.get("schedulerName") in (None, "", SCHEDULER) and not spec.get("schedulingGates")


def _document(data: Json, status: Json) -> Document:
    """A pod as the expansion is to see it: a new one is Pending at the API server, and would stay so."""
    return Document({**data, "status": status})


def _node_document(node: Node, data: Json) -> Json:
    spec = {"podCIDRs": [c.text for c in node.pod_cidrs], "unschedulable": (data.get("spec") or {}).get("unschedulable")}
    addresses = [{"type": "InternalIP", "address": a.text} for a in node.addresses]
    metadata = {"name": node.name, "labels": dict(node.labels)}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec, "status": {"addresses": addresses}}


def _new_pod(data: Mapping[str, Any], oid: ObjectId, owner: Json) -> Json:
    """A workload's pod as its controller posts it."""
    metadata = data["metadata"]
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": oid.kind,
        "name": oid.name,
        "uid": _uid(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    kept = {k: metadata[k] for k in ("name", "namespace", "labels", "finalizers") if metadata.get(k)}
    annotations = {**(metadata.get("annotations") or {}), TEMPLATE_ANNOTATION: template_hash(owner)}
    body = {**kept, "annotations": annotations, "ownerReferences": [reference]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": body, "spec": dict(data["spec"])}


__all__ = ["Around", "Objects", "Placed", "Plan", "Problem", "controller_of", "is_elsewhere", "template_hash", "work_out"]
