"""From Kubernetes values to the lab's: which families, which machines beside the nodes, who listens where.

In: nodes, pods and services as the compiler's values (expanded, scheduled, with addresses). Out: a Topology.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from netpol_compiler.model.addresses import Address, Network, network_of, parse_address
from netpol_compiler.model.kinds import Family, Protocol
from netpol_compiler.model.objects import TERMINAL_PHASES, Key, Node, Pod
from netpol_lab.errors import LabError
from netpol_lab.topology.model import (
    EndpointAddress,
    Families,
    LabHost,
    LabNode,
    LabPod,
    LabService,
    Listen,
    ServicePort,
    Topology,
    onlink_prefix,
)
from netpol_lab.topology.twins import twin_address, twin_network
from netpol_manifests.services import Service, endpoints

OUTSIDE, DNS, API = "outside", "dns", "api"
_OUTSIDE_LISTENS = (*(Listen(Protocol.TCP, p) for p in (80, 443, 8080)), Listen(Protocol.UDP, 53))
_DNS_LISTENS = (Listen(Protocol.TCP, 53), Listen(Protocol.UDP, 53))
_WORLD = parse_address("203.0.113.10")
PROXY_ANNOTATION = "lab.npctl.dev/proxy"


def in_families(addresses: Iterable[Address], families: Families) -> tuple[Address, ...]:
    """One address of each of the lab's families: those given, or the IPv6 twin of the IPv4 one."""
    given = tuple(addresses)
    found: list[Address] = []
    for family in families.each:
        own = next((a for a in given if a.version == family), None)
        if own is None and family is Family.V6 and given:
            own = twin_address(given[0])
        if own is not None:
            found.append(own)
    return tuple(found)


def blocks_in_families(blocks: Iterable[Network], families: Families) -> tuple[Network, ...]:
    """The same for a node's blocks. Raises LabError where a block has no IPv6 twin."""
    given = tuple(blocks)
    found: list[Network] = []
    try:
        for family in families.each:
            own = [c for c in given if c.version == family] or ([twin_network(c) for c in given] if family is Family.V6 else [])
            found += own
    except ValueError as error:
        raise LabError(str(error)) from error
    return tuple(found)


def node_in_families(node: Node, families: Families) -> Node:
    """The node as the lab has it. Raises LabError when it lacks an address or a block for pods."""
    made = replace(node, addresses=in_families(node.addresses, families), pod_cidrs=blocks_in_families(node.pod_cidrs, families))
    for family in families.each:
        if not any(a.version == family for a in made.addresses):
            raise LabError(f"Node {node.name}: status.addresses has no InternalIP for {family.name}")
        if not any(c.version == family for c in made.pod_cidrs):
            raise LabError(f"Node {node.name}: spec.podCIDR is missing, so its pods get no {family.name} addresses")
    return made


def pod_in_families(pod: Pod, nodes: Mapping[str, Node], families: Families) -> Pod:
    """The pod as the lab has it; one of the host's network has its node's addresses."""
    if pod.host_network and pod.node in nodes:
        return replace(pod, addresses=nodes[pod.node].addresses)
    return replace(pod, addresses=in_families(pod.addresses, families))


def topology(
    nodes: Mapping[str, Node],
    pods: Mapping[Key, Pod],
    services: Mapping[Key, Service],
    passes: Mapping[Key, str],
    families: Families,
) -> Topology:
    """Everything that the lab builds. `nodes` and `pods` are already of the lab's families; `passes` are proxy annotations."""
    lab_nodes = {n.name: LabNode(n.name, n.addresses, n.pod_cidrs) for n in nodes.values()}
    running = {k: p for k, p in pods.items() if p.phase not in TERMINAL_PHASES and p.addresses}
    for key, pod in running.items():
        if pod.node not in lab_nodes:
            raise LabError(f"Pod {key} is on node {pod.node or '(none)'}, which the lab does not have")
    lab_pods = {k: _pod(p, passes.get(k, "")) for k, p in running.items()}
    return Topology(
        lab_nodes, _hosts(lab_nodes, families), lab_pods, {k: _service(s, pods, families) for k, s in services.items()}
    )


def _pod(pod: Pod, passes: str) -> LabPod:
    listens = tuple(dict.fromkeys(Listen(p.protocol, p.port) for p in pod.ports))
    pairs = tuple((prefix, url) for prefix, _, url in (item.partition("=") for item in passes.split()) if url)
    return LabPod(pod.key, pod.node, pod.addresses, pod.host_network, listens, pairs)


def _service(service: Service, pods: Mapping[Key, Pod], families: Families) -> LabService:
    ports = []
    for port, ends in endpoints(service, pods.values()).items():
        places = tuple(EndpointAddress(e.address, e.port, pods[e.pod].node) for e in ends)
        ports.append(ServicePort(port.name, port.protocol, port.port, port.node_port if service.has_node_ports else 0, places))
    ips = () if service.headless else in_families(service.cluster_ips, families)
    return LabService(service.key, ips, tuple(ports), service.external_traffic_policy == "Local")


def _hosts(nodes: Mapping[str, LabNode], families: Families) -> dict[str, LabHost]:
    """Two machines in the nodes' own network: .109, which also plays the world outside, and .106, which serves names."""
    if not nodes:
        return {}
    taken = {a for n in nodes.values() for a in n.addresses}
    first = next(iter(nodes.values())).addresses
    outside = tuple(_beside(a, 109, taken) for a in first)
    dns = tuple(_beside(a, 106, taken) for a in first)
    return {
        OUTSIDE: LabHost(OUTSIDE, outside, _OUTSIDE_LISTENS, in_families((_WORLD,), families)),
        DNS: LabHost(DNS, dns, _DNS_LISTENS),
    }


def api_host(topology: Topology) -> LabHost:
    """The machine of the API server, .100, for a lab that has one."""
    return LabHost(API, _free(topology, 100))


def supervisor_addresses(topology: Topology) -> tuple[Address, ...]:
    """The supervisor's own in the nodes' network, .101: it talks to the API server like everybody."""
    return _free(topology, 101)


def _free(topology: Topology, number: int) -> tuple[Address, ...]:
    taken = {a for n in topology.nodes.values() for a in n.addresses} | {a for h in topology.hosts.values() for a in h.addresses}
    return tuple(_beside(a, number, taken) for a in next(iter(topology.nodes.values())).addresses)


def _beside(address: Address, number: int, taken: set[Address]) -> Address:
    """The address with this last number (in IPv6: these digits) in the network of `address`, or the next free one."""
    last = number if address.version == 4 else int(str(number), 16)
    base = network_of(address, onlink_prefix(address)).value
    while Address(address.version, base + last) in taken:
        last += 1
    return Address(address.version, base + last)
