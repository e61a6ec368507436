"""Short ways to write Kubernetes objects in tests: straight to the compiler's frozen values, no YAML between.

web = pod("shop", "web", "10.0.0.1", app="web", ports=["http:8080", "dns:53/UDP"])
only_web = policy("shop", "p", {"app": "db"}, ingress=[allow(pods(app="web"), ports=[port(5432)])])
judge(cluster(web, only_web), conn(web, "10.0.0.2", 5432))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from netpol_compiler.model.addresses import Address, Network, parse_address, parse_network
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import (
    NAMESPACE_NAME_LABEL,
    Cluster,
    Connection,
    ContainerPort,
    IPBlock,
    Key,
    Labels,
    NamedPort,
    Namespace,
    Node,
    Peer,
    Pod,
    PodPeer,
    Policy,
    Port,
    PortRange,
    Rule,
)
from netpol_compiler.model.selectors import EVERYTHING, Operator, Requirement, Selector, label_selector, make_selector


def key(text: str) -> Key:
    """`namespace/name`."""
    return Key(*text.split("/"))


def address(text: str) -> Address:
    return parse_address(text)


def network(text: str) -> Network:
    return parse_network(text)[0]


def node(name: str, *addresses: str, cidrs: Iterable[str] = (), **labels: str) -> Node:
    return Node(name, Labels(labels), tuple(map(address, addresses)), tuple(map(network, cidrs)))


def namespace(name: str, **labels: str) -> Namespace:
    return Namespace(name, Labels({**labels, NAMESPACE_NAME_LABEL: name}))


def container_port(text: str) -> ContainerPort:
    """`http:8080`, `dns:53/UDP`, or `8080` without a name."""
    place, _, protocol = text.partition("/")
    name, _, number = place.rpartition(":")
    return ContainerPort(name, Protocol(protocol or "TCP"), int(number))


def pod(
    namespace: str,
    name: str,
    addresses: str | Sequence[str] = (),
    *,
    ports: Iterable[str] = (),
    node: str = "n1",
    host_network: bool = False,
    phase: str = "Running",
    created: str = "2026-01-01T00:00:00Z",
    uid: str = "",
    labels: Mapping[str, str] | None = None,
    **more_labels: str,
) -> Pod:
    """A running pod of node n1. Its labels are the keyword arguments that have no other meaning, and `labels`."""
    texts = [addresses] if isinstance(addresses, str) else addresses
    return Pod(
        key=Key(namespace, name),
        uid=uid or f"uid-{namespace}-{name}",
        labels=Labels({**(labels or {}), **more_labels}),
        node=node,
        addresses=tuple(map(address, texts)),
        host_network=host_network,
        phase=phase,
        ports=tuple(map(container_port, ports)),
        created=created,
    )


def one_of(name: str, *values: str) -> Requirement:
    return Requirement(name, Operator.IN, tuple(sorted(values)))


def none_of(name: str, *values: str) -> Requirement:
    return Requirement(name, Operator.NOT_IN, tuple(sorted(values)))


def has(name: str) -> Requirement:
    return Requirement(name, Operator.EXISTS)


def lacks(name: str) -> Requirement:
    return Requirement(name, Operator.DOES_NOT_EXIST)


def selector(*requirements: Requirement, **labels: str) -> Selector:
    """All conditions together; without any, the selector that matches everything."""
    return make_selector((*label_selector(**labels).requirements, *requirements))


def pods(*requirements: Requirement, namespaces: Selector | None = None, **labels: str) -> PodPeer:
    """A peer by selectors. `namespaces` None: no namespaceSelector, so the policy's own namespace."""
    return PodPeer(namespaces, selector(*requirements, **labels))


def block(cidr: str, *exceptions: str) -> IPBlock:
    return IPBlock(network(cidr), tuple(map(network, exceptions)))


def port(number: int | str | None = None, end: int | None = None, protocol: str = "TCP") -> Port:
    """`port(80)`, `port(80, 90)`, `port("http")`, or `port()` for the whole protocol."""
    if isinstance(number, str):
        return NamedPort(Protocol(protocol), number)
    if number is None:
        return PortRange(Protocol(protocol))
    return PortRange(Protocol(protocol), number, number if end is None else end)


class Allow(NamedTuple):
    """One rule before its direction and index are known."""

    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


def allow(*peers: Peer, ports: Iterable[Port] | None = None) -> Allow:
    """A rule. Without peers: every peer. `ports` None: every port and protocol."""
    return Allow(peers or None, None if ports is None else tuple(ports))


def policy(
    namespace: str,
    name: str,
    select: Mapping[str, str] | Selector = EVERYTHING,
    *,
    ingress: Sequence[Allow] | None = None,
    egress: Sequence[Allow] | None = None,
    directions: Iterable[Direction] | None = None,
) -> Policy:
    """A policy. `directions` None: Ingress, and Egress when there are egress rules, as when policyTypes is missing."""
    if directions is None:
        directions = (Direction.INGRESS, Direction.EGRESS) if egress else (Direction.INGRESS,)
    written = [(Direction.INGRESS, ingress or ()), (Direction.EGRESS, egress or ())]
    return Policy(
        key=Key(namespace, name),
        uid=f"uid-{namespace}-{name}",
        pod_selector=select if isinstance(select, Selector) else selector(**select),
        directions=frozenset(directions),
        rules=tuple(Rule(d, i, rule.peers, rule.ports) for d, rules in written for i, rule in enumerate(rules)),
    )


def egress_policy(namespace: str, name: str, select: Mapping[str, str] | Selector = EVERYTHING, *rules: Allow) -> Policy:
    """A policy with `policyTypes: [Egress]`."""
    return policy(namespace, name, select, egress=rules, directions=[Direction.EGRESS])


def cluster(*objects: Namespace | Pod | Policy | Node) -> Cluster:
    """A cluster of `objects`; a namespace that is only mentioned exists too, with its name as its only label."""
    mentioned = {o.key.namespace for o in objects if isinstance(o, (Pod, Policy))}
    namespaces = {name: namespace(name) for name in sorted(mentioned)}
    namespaces.update((o.name, o) for o in objects if isinstance(o, Namespace))
    return Cluster(
        namespaces=namespaces,
        pods={o.key: o for o in objects if isinstance(o, Pod)},
        policies={o.key: o for o in objects if isinstance(o, Policy)},
        nodes={o.name: o for o in objects if isinstance(o, Node)},
    )


def conn(
    source: Pod | str,
    destination: Pod | str,
    port: int | None = 80,
    protocol: str | None = "TCP",
    *,
    source_node: str = "",
    destination_node: str = "",
) -> Connection:
    """A connection between addresses (a pod stands for its first one). `protocol` None: ICMP and all others."""
    ends = [end.addresses[0] if isinstance(end, Pod) else address(end) for end in (source, destination)]
    known = None if protocol is None else Protocol(protocol)
    return Connection(ends[0], ends[1], known, None if known is None else port, source_node, destination_node)
