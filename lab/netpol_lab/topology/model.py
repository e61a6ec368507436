"""What the lab builds, as frozen values: nodes, hosts, pods and services, with every address already decided.

Comes from `world` (Kubernetes objects) and goes to `networks`, `kubeproxy`, `servers`, `dns` and `probe`.
No Kubernetes dictionaries behind this point.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from netpol_compiler.model.addresses import Address, Network
from netpol_compiler.model.kinds import Family, Protocol
from netpol_compiler.model.objects import Key


def onlink_prefix(address: Address) -> int:
    """The prefix of the network that nodes and hosts share."""
    return 24 if address.version == 4 else 64


class NetworkKind(str, Enum):
    """How pods of different nodes reach each other."""

    HOST_GW = "host-gw"
    VXLAN = "vxlan"
    ROUTED = "routed"


class Backend(str, Enum):
    """Which iptables a node uses."""

    NFT = "nft"
    LEGACY = "legacy"

    def tool(self, family: Family, action: str = "") -> str:
        """The program's name: iptables-nft, ip6tables-legacy-restore."""
        return f"ip{'6' if family is Family.V6 else ''}tables-{self.value}{'-' + action if action else ''}"


class Families(str, Enum):
    """Which address families the lab's nodes and pods have."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    DUAL = "dual"

    @property
    def each(self) -> tuple[Family, ...]:
        return {"ipv4": (Family.V4,), "ipv6": (Family.V6,), "dual": (Family.V4, Family.V6)}[self.value]


class Listen(NamedTuple):
    """One port on which somebody answers."""

    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class LabNode:
    """A cluster node; `addresses` and `cidrs` hold one entry for each family of the lab."""

    name: str
    addresses: tuple[Address, ...]
    cidrs: tuple[Network, ...]

    @property
    def netns(self) -> str:
        return f"node-{self.name}"


@dataclass(frozen=True, slots=True)
class LabHost:
    """A machine beside the nodes. `extra` are addresses of the world beyond that it answers for."""

    name: str
    addresses: tuple[Address, ...]
    listens: tuple[Listen, ...] = ()
    extra: tuple[Address, ...] = ()

    @property
    def netns(self) -> str:
        return f"host-{self.name}"


@dataclass(frozen=True, slots=True)
class LabPod:
    """One pod that runs. A pod of the host's network has its node's namespace and addresses.

    `passes`: (path prefix, URL of a Service) pairs that its web server passes on, as nginx does.
    """

    key: Key
    node: str
    addresses: tuple[Address, ...]
    host_network: bool = False
    listens: tuple[Listen, ...] = ()
    passes: tuple[tuple[str, str], ...] = ()

    @property
    def netns(self) -> str:
        return f"node-{self.node}" if self.host_network else f"pod-{self.key.namespace}.{self.key.name}"

    @property
    def device(self) -> str:
        """The node's end of the pod's veth pair: stable, and within the kernel's 15 characters."""
        return "veth" + short_hash(str(self.key), 8)


class EndpointAddress(NamedTuple):
    """One pod behind a service's port."""

    address: Address
    port: int
    node: str


@dataclass(frozen=True, slots=True)
class ServicePort:
    name: str
    protocol: Protocol
    port: int
    node_port: int = 0
    endpoints: tuple[EndpointAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class LabService:
    """`cluster_ips` is empty for a headless one. `local`: externalTrafficPolicy Local."""

    key: Key
    cluster_ips: tuple[Address, ...]
    ports: tuple[ServicePort, ...] = ()
    local: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything the lab's network is made of."""

    nodes: dict[str, LabNode] = field(default_factory=dict)
    hosts: dict[str, LabHost] = field(default_factory=dict)
    pods: dict[Key, LabPod] = field(default_factory=dict)
    services: dict[Key, LabService] = field(default_factory=dict)

    def pod_networks(self, family: Family) -> tuple[Network, ...]:
        """The cluster's pod network(s) of one family: octet-aligned (IPv4) or 16-bit-aligned (IPv6) blocks around all nodes'."""
        step = 8 if family is Family.V4 else 16
        blocks = [c for n in self.nodes.values() for c in n.cidrs if c.version == family]
        wider = {Network(c.version, *_cut(c.value, max((c.prefix - 1) // step * step, step), family.bits)) for c in blocks}
        return tuple(sorted(wider))


def _cut(value: int, prefix: int, bits: int) -> tuple[int, int]:
    return value >> (bits - prefix) << (bits - prefix), prefix


def of_family(addresses: tuple[Address, ...], family: Family) -> Address | None:
    """The first address of `family`."""
    return next((a for a in addresses if a.version == family), None)


def short_hash(text: str, length: int) -> str:
    """A stable hexadecimal digest of `text`, `length` characters."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]
