"""Where a connection is looked at on its way: each node that forwards it, with the addresses seen there.

In: the topology, and two ends as `targets` reads them. Out: hops, after Services' translation and masquerading as
kube-proxy's iptables mode does them (SEMANTICS 11). Of a Service's several endpoints the first is taken. Pure: the
simulated lab and the words about real packets come from here; real packets never do.
"""

from __future__ import annotations

from dataclasses import dataclass

from netpol_compiler.model.addresses import Address, Network
from netpol_compiler.model.kinds import Protocol
from netpol_compiler.model.objects import Connection
from netpol_lab.errors import LabError
from netpol_lab.topology.model import EndpointAddress, LabNode, LabPod, LabService, NetworkKind, ServicePort, Topology
from netpol_lab.traffic.targets import Target, find, source


@dataclass(frozen=True, slots=True)
class Hop:
    """One node on the way. `forwarded` is False where the connection begins or ends in the node itself."""

    node: str
    connection: Connection
    forwarded: bool = True


@dataclass(frozen=True, slots=True)
class Journey:
    """`hops` in order; empty where no node is on the way. `answers`: whether anything listens at the end."""

    hops: tuple[Hop, ...]
    answers: bool


class Journeys:
    """Journeys through one topology. `kind` says which address a node masquerades with."""

    def __init__(self, topology: Topology, kind: NetworkKind) -> None:
        self._topology = topology
        self._kind = kind
        self._pods: dict[Address, LabPod] = {a: p for p in topology.pods.values() if not p.host_network for a in p.addresses}

    def of(self, source_text: str, target_text: str, protocol: Protocol | None, port: int | None, version: int = 4) -> Journey:
        """The journey of one new connection. Raises LabError for an end that there is not, or not in this family."""
        start, end = source(source_text, self._topology), find(target_text, self._topology)
        from_address = _first(start.addresses, version, source_text)
        to_address = _first(end.addresses, version, target_text)
        hops: list[Hop] = []
        here = self._node_of(start)
        if not start.name.startswith(("node/", "host/")) and self._pods.get(to_address) == self._pods.get(from_address):
            return Journey((), self._listens(to_address, protocol, port))  # it never leaves the pod
        service = self._service_at(to_address, protocol, port)
        if service is not None:
            to_address, port, far = self._endpoint(service, version)
            hops += self._pass(here, from_address, to_address, protocol, port, far, start)
            return Journey(tuple(hops), self._listens(to_address, protocol, port))
        node = self._node_at(to_address)
        if node is not None and (service := self._node_port(protocol, port)) is not None:
            return self._through_node_port(start, here, from_address, node, to_address, service, protocol, port, version)
        pod = self._pods.get(to_address)
        hops += self._pass(here, from_address, to_address, protocol, port, pod.node if pod else "", start)
        return Journey(tuple(hops), self._listens(to_address, protocol, port))

    def _pass(
        self,
        here: str,
        from_address: Address,
        to_address: Address,
        protocol: Protocol | None,
        port: int | None,
        far: str,
        start: Target,
    ) -> list[Hop]:
        """From `start` at node `here` ("" outside) to an address that lives on node `far` ("" outside)."""
        of_node = start.name.startswith("node/")
        end_node = self._node_at(to_address)
        inside = end_node.name if end_node else ""
        first = Connection(from_address, to_address, protocol, port, here if of_node else "", inside)
        hops: list[Hop] = []
        if here and (not of_node or far == here):
            hops.append(Hop(here, first, forwarded=not of_node and inside != here))
        if far and far != here:
            seen = self._masqueraded(here, from_address.version) if of_node else from_address
            hops.append(Hop(far, Connection(seen, to_address, protocol, port)))
        return hops

    def _through_node_port(
        self,
        start: Target,
        here: str,
        from_address: Address,
        node: LabNode,
        to_address: Address,
        service: ServicePort,
        protocol: Protocol | None,
        port: int | None,
        version: int,
    ) -> Journey:
        """The entry node translates and, towards another node, masquerades."""
        end, end_port, far = self._endpoint(service, version)
        hops: list[Hop] = []
        if here and here != node.name:
            if not start.name.startswith("node/"):
                hops.append(Hop(here, Connection(from_address, to_address, protocol, port, "", node.name)))
            # Towards anything but pods, the first node masquerades its pods.
            from_address = _first(self._topology.nodes[here].addresses, version, here)
        entry = Connection(from_address, end, protocol, end_port, node.name if start.name == f"node/{node.name}" else "")
        hops.append(Hop(node.name, entry, forwarded=not entry.source_node))
        if far != node.name:
            hops.append(Hop(far, Connection(self._masqueraded(node.name, version), end, protocol, end_port)))
        return Journey(tuple(hops), self._listens(end, protocol, end_port))

    def _masqueraded(self, node: str, version: int) -> Address:
        """The address that pods of other nodes see of `node`: with VXLAN its tunnel's, the first of its block."""
        found = self._topology.nodes[node]
        if self._kind is NetworkKind.VXLAN:
            block = next((c for c in found.cidrs if c.version == version), Network(version, 0, 0))
            return Address(block.version, block.value)
        return _first(found.addresses, version, node)

    def _endpoint(self, service: ServicePort, version: int) -> tuple[Address, int, str]:
        found: EndpointAddress | None = next((e for e in service.endpoints if e.address.version == version), None)
        if found is None:
            raise LabError(f"the Service's port {service.port} has no endpoint of IPv{version}")
        return found.address, found.port, found.node

    def _service_at(self, address: Address, protocol: Protocol | None, port: int | None) -> ServicePort | None:
        services: list[LabService] = [s for s in self._topology.services.values() if address in s.cluster_ips]
        return next((p for s in services for p in s.ports if (p.protocol, p.port) == (protocol, port)), None)

    def _node_port(self, protocol: Protocol | None, port: int | None) -> ServicePort | None:
        every = (p for s in self._topology.services.values() for p in s.ports)
        return next((p for p in every if p.node_port and (p.protocol, p.node_port) == (protocol, port)), None)

    def _node_of(self, start: Target) -> str:
        """The node that `start` runs on, or is; empty for a host."""
        kind, _, name = start.name.partition("/")
        if kind == "host":
            return ""
        if kind == "node":
            return name
        return next(p.node for p in self._topology.pods.values() if str(p.key) == start.name)

    def _node_at(self, address: Address) -> LabNode | None:
        return next((n for n in self._topology.nodes.values() if address in n.addresses), None)

    def _listens(self, address: Address, protocol: Protocol | None, port: int | None) -> bool:
        if protocol is None:
            return True
        owners = [p for p in self._topology.pods.values() if address in p.addresses]
        listens = [item for p in owners for item in p.listens]
        listens += [i for h in self._topology.hosts.values() if address in (*h.addresses, *h.extra) for i in h.listens]
        return any((item.protocol, item.port) == (protocol, port) for item in listens)


def _first(addresses: tuple[Address, ...], version: int, words: str) -> Address:
    found = next((a for a in addresses if a.version == version), None)
    if found is None:
        raise LabError(f"{words} has no address of IPv{version}")
    return found
