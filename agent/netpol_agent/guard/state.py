"""What the guard of one node is to hold, as a value: which pod hangs on which interface with which addresses, and who is
isolated.

In: ports of local pods, and what the node's compiler has in force. Out: a `GuardState`, and from it the members of each set
of the guard's tables. Pure; `tables` has the rules that look into these sets, `guard` brings them to the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from netpol_agent.netlink.nftables import KeyType, interface, key
from netpol_compiler.model.addresses import Address, Network
from netpol_compiler.model.kinds import Direction


class Mode(StrEnum):
    """`report` counts what `enforce` drops, and drops nothing."""

    OFF = "off"
    REPORT = "report"
    ENFORCE = "enforce"


class Reason(StrEnum):
    """Why the guard drops a packet. The names are those of the counters in the kernel and in metrics."""

    VLAN = "vlan-tag"
    HARDWARE = "hardware-address"
    SOURCE = "source-address"
    ARP = "arp-sender"
    DISCOVERY = "neighbour-discovery"
    PROTOCOL = "protocol"
    PORT = "unknown-port"
    LINK_SCOPE = "link-scope"
    TUNNEL = "tunnel"
    GATE_FROM = "gate-source"
    GATE_TO = "gate-destination"


class GuardSet(StrEnum):
    """The sets of the guard's tables."""

    PORTS = "ports"
    HARDWARE = "hardware"
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    ISOLATED_INGRESS = "isolated-ingress"
    ISOLATED_EGRESS = "isolated-egress"
    KNOWN4 = "known4"
    KNOWN6 = "known6"
    BRIDGED = "bridged"
    ROUTED = "routed"
    ROUTED4 = "routed4"
    ROUTED6 = "routed6"


_NAME, _HARDWARE, _IPV4, _IPV6 = KeyType.INTERFACE_NAME, KeyType.HARDWARE_ADDRESS, KeyType.IPV4_ADDRESS, KeyType.IPV6_ADDRESS
KEY_TYPES: Mapping[GuardSet, tuple[KeyType, ...]] = {
    GuardSet.PORTS: (_NAME,),
    GuardSet.HARDWARE: (_NAME, _HARDWARE),
    GuardSet.IPV4: (_NAME, _HARDWARE, _IPV4),
    GuardSet.IPV6: (_NAME, _HARDWARE, _IPV6),
    GuardSet.ISOLATED_INGRESS: (_NAME,),
    GuardSet.ISOLATED_EGRESS: (_NAME,),
    GuardSet.KNOWN4: (_IPV4,),
    GuardSet.KNOWN6: (_IPV6,),
    GuardSet.BRIDGED: (_NAME,),
    GuardSet.ROUTED: (_NAME,),
    GuardSet.ROUTED4: (_NAME, _IPV4),
    GuardSet.ROUTED6: (_NAME, _IPV6),
}
BRIDGED_SETS = (
    GuardSet.PORTS,
    GuardSet.HARDWARE,
    GuardSet.IPV4,
    GuardSet.IPV6,
    GuardSet.ISOLATED_INGRESS,
    GuardSet.ISOLATED_EGRESS,
)
ISOLATED = {Direction.INGRESS: GuardSet.ISOLATED_INGRESS, Direction.EGRESS: GuardSet.ISOLATED_EGRESS}
KNOWN = {4: GuardSet.KNOWN4, 6: GuardSet.KNOWN6}


@dataclass(frozen=True, slots=True)
class Port:
    """Where one pod's packets enter its node: the node's end of its cable, the pod's hardware address, and all its addresses."""

    interface: str
    hardware: bytes
    addresses: tuple[Address, ...]
    bridged: bool = True
    isolated: frozenset[Direction] = frozenset()


@dataclass(frozen=True, slots=True, order=True)
class Tunnel:
    """How a tunnel's outer packets look: a protocol's number, and for UDP the port, else 0."""

    protocol: int
    port: int = 0


@dataclass(frozen=True, slots=True)
class GuardState:
    """One node's guard. `known`: the addresses that may pass the gate; `blocks`: the ones of which every address must be
    known."""

    mode: Mode = Mode.OFF
    ports: frozenset[Port] = frozenset()
    known: frozenset[Address] = frozenset()
    blocks: tuple[Network, ...] = ()
    tunnels: frozenset[Tunnel] = frozenset()

    @property
    def shape(self) -> tuple[object, ...]:
        """What the rules depend on: while it stays, only members of sets change."""
        return (self.mode, self.blocks, self.tunnels)


def link_local(hardware: bytes) -> Address:
    """The address that a kernel gives an interface by itself, from its hardware address (RFC 4291, appendix A)."""
    host = bytes([hardware[0] ^ 2]) + hardware[1:3] + b"\xff\xfe" + hardware[3:]
    return Address(6, int.from_bytes(b"\xfe\x80" + bytes(6) + host, "big"))


def packed(address: Address) -> bytes:
    """Four or sixteen bytes, in network order."""
    return address.value.to_bytes(address.family.bits // 8, "big")


def members(state: GuardState) -> dict[GuardSet, frozenset[bytes]]:
    """Every set's members, as the kernel compares them."""
    found: dict[GuardSet, set[bytes]] = {name: set() for name in KEY_TYPES}
    for port in state.ports:
        for kind, member in _bridged_members(port) if port.bridged else _routed_members(port):
            found[kind].add(member)
    for address in state.known:
        found[KNOWN[address.version]].add(packed(address))
    return {name: frozenset(keys) for name, keys in found.items()}


def _bridged_members(port: Port) -> Iterator[tuple[GuardSet, bytes]]:
    name = interface(port.interface)
    yield GuardSet.PORTS, name
    yield GuardSet.BRIDGED, name
    yield GuardSet.HARDWARE, key(name, port.hardware)
    for address in (*port.addresses, link_local(port.hardware)):
        yield GuardSet.IPV4 if address.version == 4 else GuardSet.IPV6, key(name, port.hardware, packed(address))
    for direction in port.isolated:
        yield ISOLATED[direction], name


def _routed_members(port: Port) -> Iterator[tuple[GuardSet, bytes]]:
    name = interface(port.interface)
    yield GuardSet.ROUTED, name
    for address in (*port.addresses, link_local(port.hardware)):
        yield GuardSet.ROUTED4 if address.version == 4 else GuardSet.ROUTED6, key(name, packed(address))
