"""Hypothesis strategies for small clusters whose labels, ports and addresses are drawn so that rules hit and miss.

In: nothing. Out: the compiler's frozen values, and connections between what is in a cluster. Their spellings as manifests are in
`spellings`, orders of events in `tellings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from hypothesis import strategies as st

from builders import address, namespace, network, node, one_of
from draws import below, booleans, pick
from netpol_compiler.model.kinds import DIRECTIONS, PROTOCOLS, Direction, Protocol
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
    Peer,
    Pod,
    PodPeer,
    Policy,
    Port,
    PortRange,
    Rule,
)
from netpol_compiler.model.selectors import EVERYTHING, Operator, Requirement, Selector, make_selector

T = TypeVar("T")

NAMESPACES = ("a", "b", "c")
NODES = {"n1": ("172.31.0.1", "fd31::1"), "n2": ("172.31.0.2", "fd31::2")}
HOSTS = {**NODES, "n3": ("172.31.0.3", "fd31::3")}
"""Every node's addresses. On n3 no pod ever runs: it is nothing but another host."""
KEYS = ("app", "tier")
VALUES = ("x", "y", "")
OPERATORS = tuple(Operator)
PORT_NAMES = ("web", "sql")
PORTS = (1, 79, 80, 81, 8080, 65535)
EDGES = tuple(sorted({p + d for p in PORTS for d in (-1, 0, 1) if 1 <= p + d <= 65535}))
"""Where a range of PORTS can begin or end, and what is just outside of it."""
POD_ADDRESSES = tuple((f"10.0.{i // 4}.{i % 4}", f"fd00::{i // 4}:{i % 4}") for i in range(20))
"""Few, so that pods share them and take them over."""
PHASES = (*["Running"] * 14, "Pending", "Unknown", "Succeeded", "Failed")
OUTSIDE = (("192.0.2.1", "2001:db8::1"), ("10.0.9.9", "fd00::9:9"))
CIDRS = (
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.1.1/30",
    "10.0.1.2/32",
    "172.31.0.2/32",
    "192.0.2.0/24",
    "128.0.0.0/1",
    "0.0.0.0/0",
    "fd00::/16",
    "fd00::1:0/112",
    "fd00::1:1/128",
    "fd31::2/128",
    "8000::/1",
    "::/0",
)

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)


some_values = st.sets(st.sampled_from(VALUES), min_size=1)


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    operator = pick(draw, OPERATORS)
    valued = operator in (Operator.IN, Operator.NOT_IN)
    values = draw(some_values) if valued else ()
    return Requirement(pick(draw, KEYS), operator, tuple(sorted(values)))


def labelled(labels: Labels) -> Selector:
    """The selector that asks for exactly these labels."""
    return make_selector([one_of(key, value) for key, value in labels.items()])


selectors: st.SearchStrategy[Selector] = st.lists(requirements(), max_size=2).map(make_selector)
by_name = st.sampled_from(NAMESPACES).map(lambda name: make_selector([one_of(NAMESPACE_NAME_LABEL, name)]))
namespace_selectors = selectors | by_name


@st.composite
def blocks(draw: st.DrawFn) -> IPBlock:
    cidr = network(pick(draw, CIDRS))
    inside = [n for n in map(network, CIDRS) if cidr.covers(n) and n.prefix > cidr.prefix]
    exceptions = {pick(draw, inside) for _ in range(draw(below(4)))} if inside else ()
    return IPBlock(cidr, tuple(sorted(exceptions)))


peers: st.SearchStrategy[Peer] = st.one_of(
    st.builds(PodPeer, st.none() | namespace_selectors, selectors),
    st.builds(PodPeer, namespace_selectors, st.just(EVERYTHING)),
    blocks(),
)


@st.composite
def peers_near(draw: st.DrawFn, aims: Sequence[Pod]) -> Peer:
    """Any peer; one of four stands for one of these pods, among others."""
    if draw(below(4)) < 3:
        return draw(peers)
    pod = pick(draw, aims)
    here = make_selector([one_of(NAMESPACE_NAME_LABEL, pod.key.namespace)])
    return PodPeer(pick(draw, (None, here, EVERYTHING)), pick(draw, (EVERYTHING, labelled(pod.labels))))


@st.composite
def ports(draw: st.DrawFn, protocols: Sequence[Protocol] = PROTOCOLS) -> Port:
    """A range, a whole protocol or a name."""
    protocol, kind = pick(draw, protocols), pick(draw, ["range", "range", "whole", "name"])
    if kind == "range":
        return PortRange(protocol, *sorted((pick(draw, PORTS), pick(draw, PORTS))))
    return PortRange(protocol) if kind == "whole" else NamedPort(protocol, pick(draw, PORT_NAMES))


def some_of(one: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    return st.lists(one, min_size=1, max_size=4)


def missing_or(draw: st.DrawFn, some: st.SearchStrategy[list[T]]) -> tuple[T, ...] | None:
    """A list of a rule. An empty one allows nothing, and comes only of what was rejected: too many would make all rules dead."""
    kind = pick(draw, ["some"] * 6 + ["missing"] * 3 + ["empty"])
    if kind != "some":
        return None if kind == "missing" else ()
    return tuple(draw(some))


port_lists = [some_of(ports(protocols)) for protocols in (PROTOCOLS, *((p,) for p in PROTOCOLS))]
"""Often of one protocol: ranges meet in one rule of the kernel only then."""

peer_lists = some_of(peers)


@st.composite
def policies(draw: st.DrawFn, name: str, aims: Sequence[Pod] = ()) -> Policy:
    """Any policy. Most of those with `aims` select one of these pods and allow some: by chance alone both are too rare."""
    some_peers = some_of(peers_near(aims)) if aims else peer_lists
    directions = frozenset(pick(draw, [DIRECTIONS, DIRECTIONS[:1], DIRECTIONS[1:]]))
    rules = [
        Rule(direction, index, missing_or(draw, some_peers), missing_or(draw, pick(draw, port_lists)))
        for direction in DIRECTIONS
        for index in range(pick(draw, [0, 1, 1, 2]))
    ]
    aim = pick(draw, [*aims * 4, None]) if aims else None
    selector = draw(selectors if aim is None else st.sampled_from([EVERYTHING, labelled(aim.labels)]))
    namespace = pick(draw, NAMESPACES) if aim is None else aim.key.namespace
    return Policy(Key(namespace, name), "", selector, directions, tuple(rules))


container_ports = st.builds(ContainerPort, st.sampled_from(("", *PORT_NAMES)), st.sampled_from(PROTOCOLS), st.sampled_from(PORTS))
container_port_lists = st.lists(container_ports, max_size=3)


@st.composite
def pods(draw: st.DrawFn, name: str) -> Pod:
    """Any pod: of the host's network, over, without an address or not scheduled, of one family or both, in either order."""
    on = pick(draw, [*sorted(NODES) * 8, ""])
    host = bool(on) and draw(below(15)) == 1
    (v4, _), (_, v6) = pick(draw, POD_ADDRESSES), pick(draw, POD_ADDRESSES)
    texts = pick(draw, [*[(v4, v6)] * 6, (v6, v4), (v6, v4), (v4,), (v6,), ()]) if on else ()
    return Pod(
        key=Key(pick(draw, NAMESPACES), name),
        uid=name,
        labels=Labels(draw(labels)),
        node=on,
        addresses=tuple(map(address, NODES[on] if host else texts)),
        host_network=host,
        phase=pick(draw, PHASES) if on else "Pending",
        ports=tuple(draw(container_port_lists)),
        created=pick(draw, ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
    )


@st.composite
def namespaces(draw: st.DrawFn, name: str) -> Namespace:
    return namespace(name, **draw(labels))


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    found = [draw(pods(f"p{i}")) for i in range(pick(draw, [0, 1, *range(2, 10), *range(2, 10)]))]
    aims = [p for p in found if p.is_endpoint]
    written = [draw(policies(f"np{i}", aims)) for i in range(pick(draw, [0, *range(1, 7), *range(1, 7)]))]
    # A namespace that was not told of yet still has pods and policies: its name is its only label.
    known = [n for n in NAMESPACES if draw(below(10))]
    return Cluster(
        namespaces={n: draw(namespaces(n)) for n in known},
        pods={p.key: p for p in found},
        policies={p.key: p for p in written},
        nodes={n: node(n, *addresses) for n, addresses in HOSTS.items()},
    )


def edges_of(ports: Sequence[Port] | None) -> list[tuple[Protocol, int]]:
    """Both ends of each range, and what is just outside of it."""
    ranges = [p for p in ports or () if isinstance(p, PortRange) and not p.is_whole_protocol]
    found = {(p.protocol, port) for p in ranges for port in (p.first - 1, p.first, p.last, p.last + 1)}
    return sorted(e for e in found if 1 <= e[1] <= 65535)


def selected(policy: Policy, pod: Pod) -> bool:
    return pod.is_endpoint and policy.key.namespace == pod.key.namespace and policy.pod_selector.matches(pod.labels)


def admitted(cluster: Cluster, policy: Policy, rule: Rule, pod: Pod) -> bool:
    """Whether a peer that is a selector stands for this pod; a rule without peers stands for all."""
    space = cluster.namespaces.get(pod.key.namespace) or namespace(pod.key.namespace)
    return pod.is_endpoint and any(
        peer.pod_selector.matches(pod.labels)
        and (pod.key.namespace == policy.key.namespace if (of := peer.namespace_selector) is None else of.matches(space.labels))
        for peer in (rule.peers if rule.peers is not None else (PodPeer(EVERYTHING, EVERYTHING),))
        if isinstance(peer, PodPeer)
    )


@st.composite
def edge_connections(draw: st.DrawFn, cluster: Cluster, version: int) -> Connection | None:
    """Between a pod that a policy selects and one that a rule of it admits, at the edge of a range of that rule. By chance alone
    one packet in hundreds goes through a rule with ports. None where there is no such rule."""

    def held(pods: Iterable[Pod]) -> list[str]:
        return [a.text for p in pods for a in p.addresses if a.version == version]

    every = [(p, r) for p in cluster.policies.values() for r in p.rules if r.direction in p.directions and edges_of(r.ports)]
    pods = cluster.pods.values()
    ends = [(r, held(s for s in pods if selected(p, s)), held(o for o in pods if admitted(cluster, p, r, o))) for p, r in every]
    if not (ends := [(r, own, other) for r, own, other in ends if own and other]):
        return None
    rule, owns, others = pick(draw, ends)
    protocol, port = pick(draw, edges_of(rule.ports))
    own, other = address(pick(draw, owns)), address(pick(draw, others))
    source, target = (other, own) if rule.direction is Direction.INGRESS else (own, other)
    return Connection(source, target, protocol, port, "", "")


@st.composite
def connections(draw: st.DrawFn, cluster: Cluster) -> Connection:
    """Between pods, nodes and the world outside, of one family; ports at the edges of the ranges."""
    family = pick(draw, (0, 1))
    held = [
        next((a.text for a in p.addresses if a.version == (4, 6)[family]), "") for p in cluster.pods.values() if p.is_endpoint
    ]
    gone = [a.text for p in cluster.pods.values() for a in p.addresses if a.version == (4, 6)[family] and not p.is_endpoint]
    places = [(addresses[family], name) for name, addresses in HOSTS.items()] + [(texts[family], "") for texts in OUTSIDE]
    # What nodes and strangers may do is soon said.
    places = [(text, "") for text in (*held * 8, *gone) if text] + places
    if cluster.policies and draw(booleans) and (aimed := draw(edge_connections(cluster, (4, 6)[family]))):
        return aimed
    (source, source_node), (target, target_node) = pick(draw, places), pick(draw, places)
    named = [c for p in cluster.pods.values() if any(a.text == target for a in p.addresses) for c in p.ports if c.name]
    if named and draw(booleans):
        # Named ports meet only when address, protocol and number all agree: by chance alone that is too rare.
        aim = pick(draw, named)
        return Connection(address(source), address(target), aim.protocol, aim.port, source_node, target_node)
    protocol: Protocol | None = pick(draw, [None, *PROTOCOLS])
    port = None if protocol is None else pick(draw, EDGES)
    return Connection(address(source), address(target), protocol, port, source_node, target_node)
