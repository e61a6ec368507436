"""From the objects of an API server to what the lab should run: scheduler, workload controllers and addresses of `lab up --api`.

    ObservedObjects + the last DesiredState ──expand──▶ DesiredState: topology, pods to create, bind, delete and remove, problems

    nodes ──▶ workloads (their pods) ──▶ pods: those with an address keep it ──▶ those without get one ──▶ expand ──▶ parts

The same expansion as in a lab without an API server, so the same objects give the same pods, nodes and addresses. Two things
differ: a pod runs only when the API server has it, bound to a node; and what is wrong with one object is reported on that object
and stops no other. Pure: no requests, no clocks, no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.objects import Key, Labels, Node
from netpol_compiler.reading.fields import Problems
from netpol_compiler.reading.objects import parse_node
from netpol_lab.errors import LabError
from netpol_lab.kubelet.desired_state import (
    TEMPLATE_ANNOTATION,
    TERMINAL_PHASES,
    DesiredState,
    Json,
    ObjectProblem,
    ObservedObjects,
    PlacedPod,
    PlanContext,
    annotation_of,
    controller_of,
    is_elsewhere,
    template_hash,
    uid_of,
)
from netpol_lab.kubelet.pod_container import program_container
from netpol_lab.network import wiring
from netpol_lab.topology import pod_addresses, world
from netpol_lab.topology.model import EndpointAddress, LabNode, Topology
from netpol_manifests.documents import Document
from netpol_manifests.placement import Placement
from netpol_manifests.pod_templates import expand_workload
from netpol_manifests.world import ExpandOptions, ObjectId, World, expand

SCHEDULER = "default-scheduler"
_MAX_NETNS_NAME_LENGTH = 255
_API_SERVICE = Key("default", "kubernetes")


def desired_state(objects: ObservedObjects, before: DesiredState, context: PlanContext) -> DesiredState:
    """The desired state for `objects`, when `before` was the last one."""
    return _Planner(objects, before, context).plan()


class _Planner:
    """The steps of `desired_state`, in their order; each fills its part of the state.

    nodes    those of the lab                        owner      address -> who has it
    wanted   workload -> its pods                    documents  what is expanded: workloads, and pods with their addresses
    live     pods that are to run, by key            remove     deleted pods that nothing is left of, with their uids
    """

    def __init__(self, objects: ObservedObjects, before: DesiredState, context: PlanContext) -> None:
        self._objects = objects
        self._before = before
        self._context = context
        self._problems: list[ObjectProblem] = []
        self._nodes: dict[str, Node] = {}
        self._wishes = pod_addresses.Wishes(context.families, twinned=False)
        self._wanted: dict[ObjectId, tuple[Key, ...]] = {}
        self._owner: dict[Address, str] = {}
        self._documents: list[Document] = []
        self._live: dict[Key, Json] = {}
        self._remove: dict[Key, str] = {}

    def plan(self) -> DesiredState:
        self._read_nodes()
        self._wishes = pod_addresses.Wishes.of(self._context.families, self._nodes.values())
        self._read_workloads()
        self._read_pods()
        found = self._expanded()
        running = self._running(found)
        given = {k: p.addresses for k, p in found.pods.items() if self._keeps_taken(k) and p.addresses and not p.host_network}
        return DesiredState(
            topology=self._topology(found, running),
            running=running,
            create=self._to_create(found),
            bind=self._to_bind(found),
            delete=self._to_delete(),
            remove=self._remove,
            wanted=self._wanted,
            problems=tuple(self._problems),
            given=given,
            uids={k: uid_of(self._live[k]) if k in self._live else "" for k in given},
        )

    # Nodes

    def _read_nodes(self) -> None:
        for name, data in self._objects.nodes.items():
            if is_elsewhere(data):
                continue
            try:
                self._nodes[name] = self._node(name, data)
            except LabError as error:
                self._report("Node", Key("", name), uid_of(data), str(error).removeprefix(f"Node {name}: "))

    def _node(self, name: str, data: Json) -> Node:
        """The node in the lab's families. Raises LabError where it cannot be one of the lab's."""
        if words := self._context.refused.get(uid_of(data)):
            raise LabError(words)
        parsed, rejected = parse_node(data)
        if parsed is None:
            raise LabError("; ".join(r.reason for r in rejected))
        # Labelled as every kubelet labels its node, so that what asks for Linux finds one.
        labels = Labels({"kubernetes.io/os": "linux", **parsed.labels})
        node = replace(world.node_in_families(parsed, self._context.families), labels=labels)
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
            # Its faults are reported by the expansion. A cordoned node keeps its DaemonSet's pods, so it counts here.
            data = self._wishes.in_template(data)
            pods = expand_workload(data, oid.kind, key, Problems(oid.kind, *key), placement.eligible)
            self._wanted[oid] = tuple(Key(oid.namespace, p["metadata"]["name"]) for p in pods)
            self._documents.append(Document(data))

    # Pods

    def _read_pods(self) -> None:
        newcomers: list[Key] = []
        for key, data in self._objects.pods.items():
            node, uid = str((data.get("spec") or {}).get("nodeName") or ""), uid_of(data)
            terminating = bool(data["metadata"].get("deletionTimestamp"))
            if node and node not in self._nodes:
                earlier = self._before.running.get(key)
                if terminating or (earlier and earlier.uid == uid) or self._before.remove.get(key) == uid:
                    self._remove[key] = uid  # its node was deleted
            elif terminating and uid not in self._context.ending:
                self._remove[key] = uid
            elif (data.get("status") or {}).get("phase") in TERMINAL_PHASES:
                self._documents.append(_document(data, {"phase": data["status"]["phase"]}))
            elif node or _is_ours_to_schedule(data):
                self._live[key] = data
                if not self._keeps_address(key, data):
                    newcomers.append(key)
        self._reserve_uncreated()
        for key in newcomers:
            self._admit(key, self._live[key])

    def _keeps_address(self, key: Key, data: Json) -> bool:
        """A pod that has its address keeps it."""
        given = self._before.given.get(key)
        if not given or self._before.uids[key] not in (uid_of(data), ""):
            return False
        if not self._before.uids[key] and pod_addresses.is_asking(data):
            return False  # what it was promised before it was there need not be what it says, see `_wished`
        for address in given:
            self._owner[address] = f"pod {key}"
        self._documents.append(_document(data, {"podIPs": [{"ip": a.text} for a in given]}))
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
                self._report("Pod", key, uid_of(data), str(error))
                return
            for address in addresses:
                self._owner[address] = f"pod {key}"
            data = pod_addresses.with_wish(data, addresses)
        self._documents.append(_document(data, {}))

    def _wished(self, key: Key, data: Json) -> tuple[Address, ...]:
        """The addresses that the pod says: by annotation, or by its status. Raises LabError where it cannot have them."""
        if words := self._context.refused.get(uid_of(data)):
            raise LabError(words)
        if len(f"pod-{key.namespace}.{key.name}") > _MAX_NETNS_NAME_LENGTH:
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
        options = ExpandOptions(families=self._context.families.each)
        found = expand([*nodes, *services, *self._documents], uncreated, options)
        unplaced = [w for w in found.warnings if w.kind == "Pod"]  # no node fits
        for item in (*found.rejected, *unplaced):
            key = Key(item.namespace, item.name)
            self._report(
                item.kind, key, self._uid_of(item.kind, key), f"{item.field}: {item.reason}" if item.path else item.reason
            )
        return found

    def _running(self, found: World) -> dict[Key, PlacedPod]:
        running = {}
        for key, data in self._live.items():
            pod = found.pods.get(key)
            # What is scheduled here runs when the API server says so too.
            if pod is not None and (data.get("spec") or {}).get("nodeName") and pod.node in self._nodes:
                node = self._nodes[pod.node]
                addresses = world.pod_in_families(pod, self._nodes, self._context.families).addresses
                if addresses:
                    running[key] = PlacedPod(uid_of(data), LabNode(node.name, node.addresses, node.pod_cidrs), addresses)
        return running

    def _topology(self, found: World, running: Mapping[Key, PlacedPod]) -> Topology:
        pods = {k: replace(found.pods[k], addresses=p.addresses, phase="Running") for k, p in running.items()}
        passes = {k: annotation_of(self._live[k], world.PROXY_ANNOTATION) for k in running}
        topology = world.topology(self._nodes, pods, found.services, passes, self._context.families)
        lab_pods = {
            # Its program listens itself.
            k: replace(p, listens=()) if program_container(self._live[k]) else p
            for k, p in topology.pods.items()
        }
        return replace(topology, pods=lab_pods, services=self._with_api_service(topology))

    def _with_api_service(self, topology: Topology) -> Any:
        """The Service `kubernetes` selects no pods: it leads to the API server."""
        service = topology.services.get(_API_SERVICE)
        if service is None or self._context.api is None:
            return topology.services
        end = EndpointAddress(*self._context.api, node="")
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
                if data is not None and key not in self._objects.pods and key not in self._objects.foreign_pods:
                    create[key] = _new_pod(data, oid, self._objects.workloads[oid])
        return create

    def _to_bind(self, found: World) -> dict[Key, tuple[str, str]]:
        unbound = {k: d for k, d in self._live.items() if not (d.get("spec") or {}).get("nodeName")}
        nodes = {k: found.pods[k].node for k in unbound if k in found.pods}
        return {k: (uid_of(unbound[k]), node) for k, node in nodes.items() if node}

    def _to_delete(self) -> dict[Key, str]:
        """Pods that a workload had made for it and does not want any more, and those whose workload is gone."""
        owners = {uid_of(self._objects.workloads[oid]): oid for oid in self._wanted}
        wanted = {oid: frozenset(keys) for oid, keys in self._wanted.items()}
        hashes = {oid: template_hash(self._objects.workloads[oid]) for oid in self._wanted}
        surplus = {}
        for key, data in self._objects.pods.items():
            reference = controller_of(data)
            if reference is None or data["metadata"].get("deletionTimestamp"):
                continue
            made_from = annotation_of(data, TEMPLATE_ANNOTATION)
            oid = owners.get(reference["uid"])
            if oid is None or (made_from and (key not in wanted[oid] or made_from != hashes[oid])):
                surplus[key] = uid_of(data)
        return surplus

    def _keeps_taken(self, key: Key) -> bool:
        """Whether an address of this pod stays taken: it lives, or is still to be created."""
        return key in self._live or key not in self._objects.pods or key in self._remove

    def _uid_of(self, kind: str, key: Key) -> str:
        if kind == "Pod":
            data = self._objects.pods.get(key)
        elif kind == "Service":
            data = self._objects.services.get(key)
        else:
            data = self._objects.workloads.get(ObjectId(kind, *key))
        return uid_of(data) if data else ""

    def _report(self, kind: str, key: Key, uid: str, message: str) -> None:
        self._problems.append(ObjectProblem(kind, key, uid, message))


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
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    kept = {k: metadata[k] for k in ("name", "namespace", "labels", "finalizers") if metadata.get(k)}
    annotations = {**(metadata.get("annotations") or {}), TEMPLATE_ANNOTATION: template_hash(owner)}
    body = {**kept, "annotations": annotations, "ownerReferences": [reference]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": body, "spec": dict(data["spec"])}


__all__ = ["desired_state"]
