"""The oracle: what NetworkPolicies mean for one connection, read straight from the objects.

In: a `Cluster` and a `Connection`. Out: an `OracleVerdict`. Written from docs/semantics.md alone, point by point,
and sharing nothing with index, compile, lower and verdict, so that it can contradict them; nor does it ask selectors, blocks
and pods what they match, since those would be asked by all witnesses alike. It is a plain loop over
every policy and every pod, without any memory between two calls: right before fast. "Point N" in a comment is the
point of docs/semantics.md that the line carries out.

Not here: whether anything listens, Services (point 11: a connection arrives here after DNAT), replies (point 2: they
belong to their connection), connections that were open before (point 12), and ICMP errors and neighbour discovery
(point 13: no connections, they always pass).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import NamedTuple

from netpol_compiler.model.addresses import Address, Network
from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import (
    NAMESPACE_NAME_LABEL,
    Cluster,
    Connection,
    IPBlock,
    Key,
    Labels,
    NamedPort,
    Peer,
    Pod,
    PodPeer,
    Policy,
    Port,
    Rule,
)
from netpol_compiler.model.selectors import Operator, Requirement, Selector


class Allowance(NamedTuple):
    """One rule that allows the connection: `rule_index` is its place in spec.ingress or spec.egress (0-based)."""

    policy: Key
    direction: Direction
    rule_index: int


@dataclass(frozen=True, slots=True)
class OracleVerdict:
    """What becomes of one connection.

    `source_pod` and `destination_pod` are the pods that hold its addresses, None where no pod does. The `isolating`
    policies of a side are sorted, the `allowing` rules in the order of policies and rules. A side without isolating
    policies is allowed; one with some may also be allowed without a rule, by point 9 or 10.
    """

    egress_allowed: bool
    ingress_allowed: bool
    source_pod: Key | None = None
    destination_pod: Key | None = None
    egress_isolating: tuple[Key, ...] = ()
    egress_allowing: tuple[Allowance, ...] = ()
    ingress_isolating: tuple[Key, ...] = ()
    ingress_allowing: tuple[Allowance, ...] = ()

    @property
    def allowed(self) -> bool:
        """Point 2: both sides must allow it."""
        return self.egress_allowed and self.ingress_allowed


class _Side(NamedTuple):
    """One direction's answer."""

    allowed: bool
    isolating: tuple[Key, ...] = ()
    allowing: tuple[Allowance, ...] = ()


def judge(cluster: Cluster, connection: Connection) -> OracleVerdict:
    """Say whether `connection` passes, and by what. Addresses are compared as they are: no Service, no NAT."""
    source = holder(cluster, connection.source)
    destination = holder(cluster, connection.destination)
    egress = _side(cluster, connection, Direction.EGRESS, source, destination)
    ingress = _side(cluster, connection, Direction.INGRESS, source, destination)
    return OracleVerdict(
        egress_allowed=egress.allowed,
        ingress_allowed=ingress.allowed,
        source_pod=source.key if source else None,
        destination_pod=destination.key if destination else None,
        egress_isolating=egress.isolating,
        egress_allowing=egress.allowing,
        ingress_isolating=ingress.isolating,
        ingress_allowing=ingress.allowing,
    )


def holder(cluster: Cluster, address: Address) -> Pod | None:
    """The pod that `address` means now, or None.

    Point 8: a pod of the host's network, one that is over, and one without addresses are nobody.
    Where several live pods claim one address it was given anew, so the youngest has it (of equally old ones, the one
    with the larger uid). Point 14: every address of a pod counts, whatever its family.
    """
    claimants = [pod for pod in cluster.pods.values() if _counts(pod) and address in pod.addresses]
    return max(claimants, key=lambda pod: (pod.created, pod.uid, pod.key), default=None)


def _counts(pod: Pod) -> bool:
    """Point 8, but for addresses."""
    return not (pod.host_network or pod.phase == "Succeeded" or pod.phase == "Failed")


def _side(cluster: Cluster, connection: Connection, direction: Direction, source: Pod | None, target: Pod | None) -> _Side:
    """One direction: egress is the source's matter, ingress the destination's."""
    if direction is Direction.EGRESS:
        subject, peer, peer_address, peer_node = source, target, connection.destination, connection.destination_node
    else:
        subject, peer, peer_address, peer_node = target, source, connection.source, connection.source_node
    if subject is None:
        return _Side(allowed=True)  # point 1: only pods are ever isolated
    isolating = sorted((p for p in cluster.policies.values() if _isolates(p, subject, direction)), key=lambda p: p.key)
    allowing = tuple(
        Allowance(policy.key, direction, rule.index)
        for policy in isolating
        for rule in sorted(policy.rules_of(direction), key=lambda r: r.index)
        if _rule_allows(cluster, policy, rule, connection, peer, peer_address, target)
    )
    passes = (
        not isolating  # point 1: not isolated, everything passes
        or bool(allowing)  # point 1: isolated, what any rule of any isolating policy allows; point 3: else nothing
        or (peer_node != "" and peer_node == subject.node)  # point 9: the pod and the very node that runs it
        or (peer is not None and peer.key == subject.key)  # point 10: a pod and itself, by whichever address
    )
    return _Side(passes, tuple(policy.key for policy in isolating), allowing)


def _isolates(policy: Policy, pod: Pod, direction: Direction) -> bool:
    """Point 1: a policy of the pod's own namespace that selects it and has the direction.

    Point 15: what was not understood in the policy does not matter here, it still isolates.
    """
    if policy.key.namespace != pod.key.namespace or direction not in policy.directions:
        return False
    return _matches(policy.pod_selector, pod.labels)


def _rule_allows(
    cluster: Cluster,
    policy: Policy,
    rule: Rule,
    connection: Connection,
    peer: Pod | None,
    peer_address: Address,
    target: Pod | None,
) -> bool:
    """Whether one rule allows the connection: some peer of it and some port of it match together."""
    # Point 3: no peers written means every peer, no ports written means every port and protocol (None stands for both).
    # Point 15: peers or ports that were written but not understood are missing from the tuples and so allow nothing.
    peers: tuple[Peer | None, ...] = (None,) if rule.peers is None else rule.peers
    ports: tuple[Port | None, ...] = (None,) if rule.ports is None else rule.ports
    return any(
        _peer_matches(cluster, policy, each_peer, peer, peer_address)
        and _port_matches(port, rule.direction, each_peer, connection, target)
        for each_peer in peers  # point 4: two peers are an OR
        for port in ports
    )


def _peer_matches(cluster: Cluster, policy: Policy, peer: Peer | None, pod: Pod | None, address: Address) -> bool:
    """Whether one peer of a rule (None: every peer) covers the other end of the connection."""
    if peer is None:
        return True  # point 3
    if isinstance(peer, IPBlock):
        # Point 6: by address alone, pods too; the exceptions cut from this block only, never from another peer.
        return _holds(peer.cidr, address) and not any(_holds(exception, address) for exception in peer.exceptions)
    return pod is not None and _selects(cluster, policy, peer, pod)  # point 8: only a holder is a peer by selector


def _selects(cluster: Cluster, policy: Policy, peer: PodPeer, pod: Pod) -> bool:
    """Points 4 and 5: both selectors must match; without a namespace selector, the policy's own namespace."""
    if peer.namespace_selector is None:
        in_namespace = pod.key.namespace == policy.key.namespace
    else:
        in_namespace = _matches(peer.namespace_selector, _namespace_labels(cluster, pod.key.namespace))
    return in_namespace and _matches(peer.pod_selector, pod.labels)


def _matches(selector: Selector, labels: Labels) -> bool:
    """Point 5: every requirement must hold, so one without requirements matches everything."""
    return all(_holds_for(requirement, labels) for requirement in selector.requirements)


def _holds_for(requirement: Requirement, labels: Labels) -> bool:
    """Point 5: a label that is missing has no value, and so its value is not one of those that NotIn lists."""
    there = requirement.key in labels
    if requirement.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
        return there if requirement.operator is Operator.EXISTS else not there
    listed = there and any(labels[requirement.key] == value for value in requirement.values)
    return listed if requirement.operator is Operator.IN else not listed


def _holds(block: Network, address: Address) -> bool:
    """Point 6: by the standard library's reading of CIDR. Point 14: a block is of one family."""
    if block.version != address.version:
        return False
    if block.version == 4:
        return ipaddress.IPv4Address(address.value) in ipaddress.IPv4Network((block.value, block.prefix))
    return ipaddress.IPv6Address(address.value) in ipaddress.IPv6Network((block.value, block.prefix))


def _namespace_labels(cluster: Cluster, name: str) -> Labels:
    """Point 5: a namespace always carries its name as a label, even one that nobody described."""
    namespace = cluster.namespaces.get(name)
    return Labels({**(namespace.labels if namespace else {}), NAMESPACE_NAME_LABEL: name})


def _port_matches(port: Port | None, direction: Direction, peer: Peer | None, connection: Connection, target: Pod | None) -> bool:
    """Whether one port of a rule (None: every port and protocol), next to `peer`, covers the connection."""
    if port is None:
        return True  # points 3 and 13: ICMP and every other protocol too
    if port.protocol is not connection.protocol:
        return False  # point 13: a rule with ports says nothing about ICMP and other protocols
    if isinstance(port, NamedPort):
        # Point 7: a name means what the pod that is reached calls so, for ingress the selected pod, for egress the
        # peer; towards every destination (no peers written) still a pod is needed. The addresses of an egress
        # ipBlock have no port names.
        if target is None or (direction is Direction.EGRESS and isinstance(peer, IPBlock)):
            return False
        return any(p.name == port.name and p.protocol is port.protocol and p.port == connection.port for p in target.ports)
    if (port.first, port.last) == (0, 65535):
        return True  # point 7: `port` missing
    return connection.port is not None and port.first <= connection.port <= port.last  # point 7: endPort is inclusive
