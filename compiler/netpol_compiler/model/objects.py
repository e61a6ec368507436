"""The Kubernetes objects that matter, as frozen values with only the fields that can change an answer.

They are made once, at the border, by `parse`; nothing behind it sees a raw dictionary. What could not be
understood is a `Rejected` value that says where and why, never an exception and never an allowance.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpol_compiler.model.addresses import Address, Network
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.selectors import EVERYTHING, Selector

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"


class Key(NamedTuple):
    """Identity of a namespaced object: namespace, then name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Labels(Mapping[str, str]):
    """Immutable, hashable labels; equal content is equal. Iteration is sorted by key."""

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[str, str] | None = None) -> None:
        self._items = dict(sorted((items or {}).items()))
        self._hash = hash(tuple(self._items.items()))

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def get(self, key, default=None):  # type: ignore[no-untyped-def]  # hot path: Mapping.get goes through an exception
        return self._items.get(key, default)

    def items(self) -> ItemsView[str, str]:
        return self._items.items()  # hot path, for the same reason

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Labels) else NotImplemented

    def __reduce__(self) -> tuple[type[Labels], tuple[dict[str, str]]]:
        return Labels, (self._items,)  # hashes of texts differ from process to process

    def __repr__(self) -> str:
        return "Labels(" + ",".join(f"{k}={v}" for k, v in self._items.items()) + ")"


@dataclass(frozen=True, slots=True)
class Rejected:
    """What could not be understood: the object, the field's path inside it, the reason, and the remedy.

    `path` is a tuple of keys and list indices from the object's root, such as ("spec", "ingress", 0, "ports").
    `file` and `line` (1-based) are known when the object came from a text; 0 is unknown.
    """

    kind: str
    namespace: str
    name: str
    path: tuple[str | int, ...]
    reason: str
    file: str = ""
    line: int = 0

    @property
    def field(self) -> str:
        """The path as people write it: `spec.ingress[0].ports`."""
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
        return text

    @property
    def words(self) -> str:
        """One line: `file:line: kind namespace/name: field: reason`."""
        place = f"{self.file}:{self.line}: " if self.file else ""
        who = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{place}{self.kind} {who}: {self.field + ': ' if self.path else ''}{self.reason}"


@dataclass(frozen=True, slots=True)
class Namespace:
    """`labels` always holds kubernetes.io/metadata.name (SEMANTICS 5)."""

    name: str
    labels: Labels


class ContainerPort(NamedTuple):
    """One entry of containers[].ports. `name` is empty where none was given."""

    name: str
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `created` is its creationTimestamp (RFC 3339 text, sorts by time) or empty.

    `addresses` are status.podIPs in their order (status.podIP where podIPs is missing).
    """

    key: Key
    uid: str
    labels: Labels
    node: str = ""
    addresses: tuple[Address, ...] = ()
    host_network: bool = False
    phase: str = "Running"
    ports: tuple[ContainerPort, ...] = ()
    created: str = ""

    @property
    def is_live(self) -> bool:
        """Whether policies are about this pod, or will be as soon as it has an address.

        A pod of the host's network is its node's address; one that has completed is nobody.
        """
        return not self.host_network and self.phase not in ("Succeeded", "Failed")

    @property
    def is_endpoint(self) -> bool:
        """Whether policies can select this pod or admit it as a peer (SEMANTICS 8): it is live and has an address."""
        return self.is_live and bool(self.addresses)

    def named_port(self, name: str, protocol: Protocol) -> tuple[int, ...]:
        """The numbers that `name` means on this pod for `protocol`; empty when it has none (SEMANTICS 7)."""
        return tuple(sorted({p.port for p in self.ports if p.name == name and p.protocol is protocol}))


@dataclass(frozen=True, slots=True)
class PodPeer:
    """A peer by selectors. `namespace_selector` None: the policy's own namespace (SEMANTICS 4)."""

    namespace_selector: Selector | None
    pod_selector: Selector = EVERYTHING


@dataclass(frozen=True, slots=True, order=True)
class IPBlock:
    """A peer by addresses: `cidr` without `exceptions` (each of its family; cut only from this cidr)."""

    cidr: Network
    exceptions: tuple[Network, ...] = ()

    def contains(self, address: Address) -> bool:
        return self.cidr.contains(address) and not any(e.contains(address) for e in self.exceptions)


Peer = PodPeer | IPBlock


@dataclass(frozen=True, slots=True, order=True)
class PortRange:
    """Ports `first`..`last` (inclusive) of one protocol; 0..65535 is the whole protocol (`port` missing)."""

    protocol: Protocol
    first: int = 0
    last: int = 65535

    def contains(self, protocol: Protocol, port: int) -> bool:
        return self.protocol is protocol and self.first <= port <= self.last

    @property
    def is_whole_protocol(self) -> bool:
        return self.first == 0 and self.last == 65535


@dataclass(frozen=True, slots=True, order=True)
class NamedPort:
    """A container port's name, resolved for each destination pod (SEMANTICS 7)."""

    protocol: Protocol
    name: str


Port = PortRange | NamedPort


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of spec.ingress or spec.egress; `index` is its place there (0-based).

    `peers` None: every peer. Empty tuple: none, because all that were written were rejected.
    `ports` None: every port and protocol. Empty tuple: none, for the same reason.
    """

    direction: Direction
    index: int
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A NetworkPolicy. `directions`: those in which it isolates what it selects (SEMANTICS 1).

    `rejected` lists the parts that were not understood: they allow nothing, and the rest stands (SEMANTICS 15).
    """

    key: Key
    uid: str
    pod_selector: Selector
    directions: frozenset[Direction]
    rules: tuple[Rule, ...] = ()
    rejected: tuple[Rejected, ...] = field(default=())

    def rules_of(self, direction: Direction) -> tuple[Rule, ...]:
        return tuple(r for r in self.rules if r.direction is direction)


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its own addresses (status.addresses of type InternalIP) and its pods' blocks (spec.podCIDRs)."""

    name: str
    labels: Labels
    addresses: tuple[Address, ...] = ()
    pod_cidrs: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A complete picture of the objects: the input of a compile from scratch and of the oracle."""

    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    pods: Mapping[Key, Pod] = field(default_factory=dict)
    policies: Mapping[Key, Policy] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connection:
    """One new connection as a filter at a pod's node sees it: after Service DNAT, before masquerading.

    `protocol` is TCP, UDP, SCTP, or None for ICMP and all others; `port` is the destination port (None for those).
    `source_node` names the node when the connection originates on that node itself (its processes and
    hostNetwork pods), `destination_node` when it ends there; empty for pods and for the world outside.
    """

    source: Address
    destination: Address
    protocol: Protocol | None
    port: int | None = None
    source_node: str = ""
    destination_node: str = ""
