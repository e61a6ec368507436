"""The verdict on one connection, evaluated from the IR, with the policy and rule that decided.

This is the second witness (the first is `oracle`), and the only place where `npctl` gets its answers from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import Cluster, Connection, Key, Labels, Pod
from netpol_compiler.policy.ir import IR, AddressSet, CompiledPolicy, CompiledRule, Endpoint


class Reason(str, Enum):
    """Why one side of a connection passes or not."""

    NOT_ISOLATED = "not-isolated"  # no policy isolates the pod in this direction
    RULE = "rule"  # a rule allows it: `policy`, `rule_index`
    DEFAULT_DENY = "default-deny"  # isolated by `isolating`, and no rule of theirs matches
    SELF = "self"  # a pod always reaches itself (SEMANTICS 10)
    NODE = "node"  # the pod and the node that runs it always reach each other (SEMANTICS 9)
    NOT_A_POD = "not-a-pod"  # this end is no pod that policies can select


@dataclass(frozen=True, slots=True)
class SideVerdict:
    """One side: the source's egress or the destination's ingress.

    `policy` and `rule_index` (0-based) name the first deciding rule for RULE; `isolating` names every policy that
    isolates the pod in this direction. `words` is one sentence for people.
    """

    direction: Direction
    pod: Key | None
    allowed: bool
    reason: Reason
    policy: Key | None = None
    rule_index: int | None = None
    isolating: tuple[Key, ...] = ()
    words: str = ""

    @property
    def brief(self) -> str:
        """What decided, in the few words that fit a table's column."""
        if self.reason is Reason.RULE:
            return f"{self.policy} {self.direction.value}[{self.rule_index}]"
        if self.reason is Reason.DEFAULT_DENY:
            return f"default deny, {self.direction.value}: {', '.join(map(str, self.isolating))}"
        return {Reason.NOT_ISOLATED: "not isolated", Reason.SELF: "the pod itself", Reason.NODE: "its own node"}.get(
            self.reason, "no pod"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Both sides; the connection passes when both allow it (SEMANTICS 2)."""

    egress: SideVerdict
    ingress: SideVerdict

    @property
    def allowed(self) -> bool:
        return self.egress.allowed and self.ingress.allowed

    @property
    def deciding(self) -> SideVerdict:
        """The side to name in one line: the one that refuses, else the one that a rule allowed."""
        if not self.egress.allowed:
            return self.egress
        if not self.ingress.allowed or self.ingress.reason is not Reason.NOT_ISOLATED:
            return self.ingress
        return self.egress if self.egress.reason is Reason.RULE else self.ingress


class Judge:
    """Evaluates the IR. Built once for a state, asked for many connections.

    `ir` gives policies and sets; `cluster` gives the pods (who has which address, which labels, which named
    ports). Selectors of peers are never evaluated here: a peer is whatever the IR's sets say.
    """

    def __init__(self, ir: IR, cluster: Cluster) -> None:
        self._ir = ir
        self._holders = holders(cluster.pods.values())
        self._isolating: dict[tuple[str, Labels, Direction], tuple[CompiledPolicy, ...]] = {}
        self._by_namespace: dict[str, list[CompiledPolicy]] = {}
        for key in sorted(ir.policies):
            self._by_namespace.setdefault(key.namespace, []).append(ir.policies[key])

    def pod_at(self, address: Address) -> Pod | None:
        """The pod that holds `address` and that policies can select."""
        return self._holders.get(address)

    def policies_for(self, pod: Pod, direction: Direction) -> tuple[CompiledPolicy, ...]:
        """The policies that isolate `pod` in `direction`, by name. Empty: not isolated."""
        if not pod.is_endpoint:
            return ()
        alike = (pod.key.namespace, pod.labels, direction)  # selectors see nothing else of a pod
        if alike not in self._isolating:
            self._isolating[alike] = tuple(
                p
                for p in self._by_namespace.get(pod.key.namespace, ())
                if direction in p.directions and p.pod_selector.matches(pod.labels)
            )
        return self._isolating[alike]

    def judge(self, connection: Connection) -> Verdict:
        source = None if connection.source_node else self._holders.get(connection.source)
        target = None if connection.destination_node else self._holders.get(connection.destination)
        egress = self._side(Direction.EGRESS, source, target, connection.destination, connection.destination_node, connection)
        ingress = self._side(Direction.INGRESS, target, source, connection.source, connection.source_node, connection)
        return Verdict(egress, ingress)

    def _side(
        self, direction: Direction, pod: Pod | None, other: Pod | None, peer: Address, peer_node: str, connection: Connection
    ) -> SideVerdict:
        if pod is None:
            return SideVerdict(direction, None, True, Reason.NOT_A_POD, words="no pod that policies can select")
        if other is not None and other.key == pod.key:
            return SideVerdict(direction, pod.key, True, Reason.SELF, words="a pod always reaches itself")
        if peer_node and peer_node == pod.node:
            return SideVerdict(
                direction, pod.key, True, Reason.NODE, words="a pod and the node that runs it always reach each other"
            )
        isolating = self.policies_for(pod, direction)
        keys = tuple(p.key for p in isolating)
        if not isolating:
            return SideVerdict(
                direction, pod.key, True, Reason.NOT_ISOLATED, words=f"no policy isolates {pod.key} for {direction.value}"
            )
        destination = pod if direction is Direction.INGRESS else None
        for policy in isolating:
            for rule in policy.rules_of(direction):
                if rule_allows(self._ir.sets, rule, destination, peer, connection.protocol, connection.port):
                    words = f"allowed by {policy.key}, rule spec.{direction.value}[{rule.index}]"
                    return SideVerdict(direction, pod.key, True, Reason.RULE, policy.key, rule.index, keys, words)
        names = ", ".join(map(str, keys))
        words = f"refused: {pod.key} is isolated for {direction.value} by {names}, and no rule of theirs allows it"
        return SideVerdict(direction, pod.key, False, Reason.DEFAULT_DENY, isolating=keys, words=words)


def judge(ir: IR, cluster: Cluster, connection: Connection) -> Verdict:
    """The verdict on one connection; use `Judge` for many."""
    return Judge(ir, cluster).judge(connection)


def holders(pods: Iterable[Pod]) -> dict[Address, Pod]:
    """Who holds each address: of several live pods that claim it, the one created last (SEMANTICS 8)."""
    held: dict[Address, Pod] = {}
    for pod in sorted((p for p in pods if p.is_endpoint), key=lambda p: (p.created, p.uid, p.key)):
        for address in pod.addresses:
            held[address] = pod
    return held


def rule_allows(
    sets: Mapping[str, AddressSet],
    rule: CompiledRule,
    destination: Pod | None,
    peer: Address,
    protocol: Protocol | None,
    port: int | None,
) -> bool:
    """Whether one rule admits a connection with `peer`.

    `destination` is the selected pod for an ingress rule (whose container ports give names their numbers),
    None for an egress rule. `protocol` None and `port` None: ICMP and all others.
    """
    if _port_allowed(rule, destination, protocol, port) and _peer_allowed(sets, rule, peer):
        return True
    if protocol is None or port is None:
        return False
    endpoint = Endpoint(peer, protocol, port)
    return any(name in sets and endpoint in sets[name].members for name in rule.endpoints)


def _port_allowed(rule: CompiledRule, destination: Pod | None, protocol: Protocol | None, port: int | None) -> bool:
    if rule.ports is None:
        return True
    if protocol is None or port is None:
        return False
    if any(p.contains(protocol, port) for p in rule.ports):
        return True
    return destination is not None and any(
        n.protocol is protocol and port in destination.named_port(n.name, protocol) for n in rule.named_ports
    )


def _peer_allowed(sets: Mapping[str, AddressSet], rule: CompiledRule, peer: Address) -> bool:
    if rule.peers is None:
        return True
    return any(b.contains(peer) for b in rule.peers.blocks) or any(
        name in sets and peer in sets[name].members for name in rule.peers.sets
    )
