"""Where pods run and which addresses they and Services get, where the input does not say.

In: nodes, pods and Services as mappings, with what they already say about themselves. Out: the same mappings completed as
scheduler, kubelet and API server would (spec.nodeName, status.podIPs and phase, spec.clusterIPs and nodePort). Nothing that
is written is changed. Deterministic, and sticky: a pod's previous addresses are given to it again where that is possible.
Scheduling knows spec.nodeName, spec.nodeSelector and spec.unschedulable; affinity, taints and resources are not looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netpol_compiler.model.addresses import Address, Network, parse_address
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Key, Node, Pod
from netpol_compiler.reading.fields import Problems, as_mapping
from netpol_manifests.ipam import Pool, node_block
from netpol_manifests.services import Service

ADDRESS_ANNOTATION = "cni.projectcalico.org/ipAddrs"
_ANNOTATION_PATH = ("metadata", "annotations", ADDRESS_ANNOTATION)
_NODE_PORTS = range(30000, 32768)


def complete_nodes(
    nodes: Sequence[Node], families: Sequence[Family] | None, pod_cidrs: Sequence[Network], node_cidrs: Sequence[Network]
) -> dict[str, Node]:
    """Nodes by name, with a pod block and an own address for each family (None: those that the nodes have, else IPv4)."""
    had = {block.family for n in nodes for block in n.pod_cidrs} | {address.family for n in nodes for address in n.addresses}
    wanted = families or sorted(had) or [Family.V4]
    written = [block for node in nodes for block in node.pod_cidrs]
    own_pools = {Family(c.version): Pool(c, {a for n in nodes for a in n.addresses}) for c in node_cidrs}
    completed: dict[str, Node] = {}
    for node in nodes:
        blocks, addresses = list(node.pod_cidrs), list(node.addresses)
        for family in wanted:
            if not any(b.version == family for b in blocks):
                block = _free_block([c for c in pod_cidrs if c.version == family], written)
                blocks += [block] if block else []
                written += [block] if block else []
            if not any(a.version == family for a in addresses) and family in own_pools:
                address = own_pools[family].take()
                addresses += [address] if address else []
        completed[node.name] = Node(node.name, node.labels, tuple(addresses), tuple(blocks))
    return completed


def _free_block(cidrs: Sequence[Network], taken: Sequence[Network]) -> Network | None:
    for cidr in cidrs:
        index = 0
        while block := node_block(cidr, index):
            if not any(block.covers(t) or t.covers(block) for t in taken):
                return block
            index += 1
    return None


@dataclass(slots=True)
class Placement:
    """Schedules pods and gives them addresses: first `reserve` for every pod, then `place` for each, in one order.

    `nodes` by name; `families` None: those of the node's blocks; `unschedulable` names nodes that take no unscheduled pods.
    """

    nodes: Mapping[str, Node]
    previous: Mapping[Key, tuple[Address, ...]]
    families: Sequence[Family] | None = None
    unschedulable: frozenset[str] = frozenset()
    _fixed: dict[Key, tuple[Address, ...]] = field(default_factory=dict)
    _owner: dict[Address, Key] = field(default_factory=dict)
    _taken: set[Address] = field(default_factory=set)
    _pools: dict[Network, Pool] = field(default_factory=dict)

    def eligible(self, spec: Mapping[str, Any]) -> list[str]:
        """Names of the nodes that a pod spec without nodeName may run on, sorted."""
        wanted = as_mapping(spec.get("nodeSelector")).items()
        fitting = [name for name, node in self.nodes.items() if wanted <= node.labels.items()]
        return sorted(name for name in fitting if name not in self.unschedulable)

    def reserve(self, data: Mapping[str, Any], pod: Pod, problems: Problems) -> None:
        """Note what the pod says about its addresses (status, then annotation), and what it had before."""
        if not pod.is_live:
            return
        fixed = pod.addresses or self._annotated(data, pod.key, problems)
        if fixed:
            self._fixed[pod.key] = fixed
        for address in fixed or self.previous.get(pod.key, ()):
            if fixed:
                self._owner[address] = pod.key
            else:
                self._owner.setdefault(address, pod.key)
            self._taken.add(address)

    def place(self, data: Mapping[str, Any], pod: Pod, group: str, index: int, problems: Problems) -> dict[str, Any]:
        """The pod completed. Pods of one `group` (a workload) are spread over the nodes by their `index`.

        A pod that says Pending, Succeeded or Failed keeps that. One that fits on no node stays Pending, without an address.
        """
        written = as_mapping(data.get("status"))
        if written.get("phase") not in (None, "", "Running", "Unknown"):
            return dict(data)
        spec = as_mapping(data.get("spec"))
        name = pod.node or self._schedule(pod.key, spec, group, index)
        node = self.nodes.get(name)
        addresses = self._addresses(pod, node, problems)
        status: dict[str, Any] = {**written, "phase": written.get("phase") or ("Running" if addresses else "Pending")}
        if addresses:
            status |= {"podIP": addresses[0].text, "podIPs": [{"ip": a.text} for a in addresses]}
        if node and node.addresses:
            status.setdefault("hostIP", node.addresses[0].text)
        return {**data, "spec": {**spec, "nodeName": name} if name else spec, "status": status}

    def _schedule(self, key: Key, spec: Mapping[str, Any], group: str, index: int) -> str:
        """A node by hash, so that other pods' coming and going moves nobody; the one whose block holds its address, if any."""
        names = self.eligible(spec)
        known = self._fixed.get(key) or self.previous.get(key, ())
        for name in names:
            if any(block.contains(a) for block in self.nodes[name].pod_cidrs for a in known):
                return name
        start = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big")
        return names[(start + index) % len(names)] if names else ""

    def _addresses(self, pod: Pod, node: Node | None, problems: Problems) -> tuple[Address, ...]:
        if pod.host_network:
            return pod.addresses or (node.addresses if node else ())
        fixed = self._fixed.get(pod.key, ())
        if pod.addresses or (fixed and node is None):
            return fixed
        if node is None:
            if pod.node:
                problems.add(("spec", "nodeName"), f"there is no node {pod.node!r}, and the pod says no address of its own")
            return ()
        # An annotation may say one family of two: the other one is given out.
        addresses = [a for a in fixed if self.families is None or a.family in self.families]
        previous = [a for a in self.previous.get(pod.key, ()) if self._owner.get(a) == pod.key]
        for family in self.families or sorted({block.family for block in node.pod_cidrs}):
            if any(a.version == family for a in addresses):
                continue
            blocks = [block for block in node.pod_cidrs if block.version == family]
            kept = [a for a in previous if any(block.contains(a) for block in blocks)]
            given = kept[0] if kept else next((a for a in map(self._take, blocks) if a), None)
            if given is None:
                problems.add(("spec", "nodeName"), f"node {node.name} has no free IPv{int(family)} address in its podCIDRs")
                continue
            addresses.append(given)
            self._owner[given] = pod.key
        return tuple(addresses)

    def _take(self, block: Network) -> Address | None:
        pool = self._pools.get(block) or self._pools.setdefault(block, Pool(block, self._taken))
        return pool.take()

    def _annotated(self, data: Mapping[str, Any], key: Key, problems: Problems) -> tuple[Address, ...]:
        text = as_mapping(as_mapping(data.get("metadata")).get("annotations")).get(ADDRESS_ANNOTATION)
        if text is None:
            return ()
        try:
            addresses = tuple(parse_address(str(item)) for item in _json_list(text))
        except ValueError as error:
            problems.add(_ANNOTATION_PATH, f'expected a JSON list of addresses, such as ["10.0.0.7"]: {error}')
            return ()
        for address in addresses:
            if self._owner.get(address, key) != key and self._owner[address] in self._fixed:
                problems.add(_ANNOTATION_PATH, f"{address} is already the address of pod {self._owner[address]}")
                return ()
        return addresses


def _json_list(text: object) -> list[Any]:
    value = json.loads(text) if isinstance(text, str) else None  # JSONDecodeError is a ValueError
    if not isinstance(value, list) or not value:
        raise ValueError(f"{text!r} is no such list")
    return value


def complete_services(
    services: Mapping[Key, tuple[Mapping[str, Any], Service]],
    families: Sequence[Family],
    cidrs: Sequence[Network],
    previous: Mapping[Key, tuple[Address, ...]],
) -> dict[Key, dict[str, Any]]:
    """Every Service with clusterIPs (but headless and ExternalName ones) and node ports. Written ones are kept."""
    parsed = [service for _, service in services.values()]
    taken = {a for s in parsed for a in s.cluster_ips} | {a for key in services for a in previous.get(key, ())}
    pools = {c.family: Pool(c, taken) for c in reversed(cidrs)}
    ports_taken = {p.node_port for s in parsed for p in s.ports}
    free_ports = (number for number in _NODE_PORTS if number not in ports_taken)
    completed = {}
    for key, (data, service) in services.items():
        spec = dict(as_mapping(data.get("spec")))
        if not (service.headless or service.type == "ExternalName" or service.cluster_ips):
            wanted = [f for f in service.families or families if f in families] or list(families)
            given: list[Address] = []
            for family in wanted if service.dual_stack or len(service.families) > 1 else wanted[:1]:
                kept = [a for a in previous.get(key, ()) if a.version == family]
                address = kept[0] if kept else pools[family].take() if family in pools else None
                given += [address] if address else []
            if given:
                spec |= {"clusterIP": given[0].text, "clusterIPs": [a.text for a in given]}
        if service.has_node_ports and isinstance(spec.get("ports"), list):
            lacking = [isinstance(p, Mapping) and not p.get("nodePort") for p in spec["ports"]]
            ports = zip(spec["ports"], lacking, strict=True)
            spec["ports"] = [{**port, "nodePort": next(free_ports, 0)} if lacks else port for port, lacks in ports]
        completed[key] = {**data, "spec": spec}
    return completed
