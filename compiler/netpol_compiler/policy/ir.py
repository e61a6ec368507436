"""The policy IR: what the operator publishes and every agent reads.

    AddressSet       the addresses that one canonical selector has now, for the whole cluster
    CompiledPolicy   one per NetworkPolicy: rules whose peers are set names and address blocks

Both are frozen and canonical: equal input gives equal values, equal bytes (see `wire`) and equal names.
A rule of an ingress policy that names a port keeps the name, because the agent of the selected pod
knows that pod's container ports; a named port of an egress rule becomes a set of (address, protocol, port).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import IPBlock, Key, NamedPort, PortRange, Rejected
from netpol_compiler.model.selectors import Selector


class SetKind(str, Enum):
    """ADDRESS: members are `Address`. ENDPOINT: members are `Endpoint`."""

    ADDRESS = "address"
    ENDPOINT = "endpoint"


class Endpoint(NamedTuple):
    """An address with one port of one protocol: what a named port means on one pod."""

    address: Address
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class SetSpec:
    """What a set holds: the identity from which its name is made.

    `namespace` is the policy's own, when the peer has no namespaceSelector; then `namespace_selector` is None.
    `named_port` is set for ENDPOINT sets.
    """

    namespace: str | None
    namespace_selector: Selector | None
    pod_selector: Selector
    named_port: NamedPort | None = None

    @property
    def kind(self) -> SetKind:
        return SetKind.ADDRESS if self.named_port is None else SetKind.ENDPOINT

    @property
    def words(self) -> str:
        """For people: `pods app=x of namespaces nsname=y`."""
        pods = f"pods {self.pod_selector.words}" if self.pod_selector.requirements else "all pods"
        if self.namespace_selector is None:
            where = f"of namespace {self.namespace}"
        elif self.namespace_selector.requirements:
            where = f"of namespaces {self.namespace_selector.words}"
        else:
            where = "of all namespaces"
        port = f", port {self.named_port.name}/{self.named_port.protocol.value}" if self.named_port else ""
        return f"{pods} {where}{port}"


@dataclass(frozen=True, slots=True)
class AddressSet:
    """The members that `spec` has now, of both families. `name` is a hash of the spec, equal in every policy."""

    name: str
    spec: SetSpec
    members: frozenset[Address] | frozenset[Endpoint]

    @property
    def kind(self) -> SetKind:
        return self.spec.kind


@dataclass(frozen=True, slots=True)
class Peers:
    """Whom a rule admits: names of ADDRESS sets, and address blocks. Both empty: nobody."""

    sets: tuple[str, ...] = ()
    blocks: tuple[IPBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One rule. A connection matches when one of these holds:

    - the peer is one of `peers` (None: any peer), and the port in one of `ports` (None: any port and protocol) or, ingress only,
      has one of `named_ports` on the selected pod;
    - egress only: (peer, protocol, port) is in one of `endpoints` (names of ENDPOINT sets).

    `index` is the rule's place in spec.ingress or spec.egress (0-based): its provenance together with the policy.
    """

    direction: Direction
    index: int
    peers: Peers | None
    ports: tuple[PortRange, ...] | None
    named_ports: tuple[NamedPort, ...] = ()
    endpoints: tuple[str, ...] = ()

    @property
    def set_names(self) -> tuple[str, ...]:
        """Every set that the rule names."""
        return (*(self.peers.sets if self.peers else ()), *self.endpoints)


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A NetworkPolicy with its selectors resolved to set names. `digest` hashes everything else, canonically."""

    key: Key
    uid: str
    pod_selector: Selector
    directions: frozenset[Direction]
    rules: tuple[CompiledRule, ...]
    rejected: tuple[Rejected, ...] = ()
    digest: str = field(default="", compare=False)

    def rules_of(self, direction: Direction) -> tuple[CompiledRule, ...]:
        return tuple(r for r in self.rules if r.direction is direction)

    @property
    def set_names(self) -> frozenset[str]:
        """Every set that the policy needs before it may be programmed."""
        return frozenset(name for rule in self.rules for name in rule.set_names)


@dataclass(frozen=True, slots=True)
class IR:
    """A complete state of the cluster. `sets` by set name."""

    sets: Mapping[str, AddressSet]
    policies: Mapping[Key, CompiledPolicy]


@dataclass(frozen=True, slots=True)
class IRDelta:
    """What changed since the last flush, in the order of publishing:
    sets up, policies up, policies down, sets down."""

    sets_up: tuple[AddressSet, ...] = ()
    policies_up: tuple[CompiledPolicy, ...] = ()
    policies_down: tuple[Key, ...] = ()
    sets_down: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.sets_up or self.policies_up or self.policies_down or self.sets_down)
