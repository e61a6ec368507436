"""A packet as the filter table sees it, and the memory that connection tracking has of earlier ones.

In: addresses, ports, flags. Out: `Packet` values, and their conntrack state. No timeouts, no sequence numbers, no NAT.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Connection
from netpol_compiler.simulate.errors import SimulateError

PROTOCOLS = {
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "sctp": 132,
    "udplite": 136,
}
"""Names that the restore programs read and print, to IANA numbers."""

WITH_PORTS = frozenset({6, 17, 33, 132, 136})
TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
STATES = ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")


def protocol_number(text: str) -> int:
    """A protocol's number by name or number; 0 is every protocol. Raises SimulateError."""
    name = text.lower()
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if name == "all":
        return 0
    if not (name.isascii() and name.isdigit()) or int(name) > 255:
        raise SimulateError(f"unknown protocol {text!r}")
    return int(name)


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. Defaults are those of the first packet of a TCP connection.

    `protocol` is a name of PROTOCOLS or a number as text. Ports count only for protocols that have them, `flags` only
    for TCP, `icmp` (type, code) only for ICMP. `state` is one of STATES. An interface "" is unknown: a rule that asks
    for it is an error, not a guess.
    """

    source: Address
    destination: Address
    protocol: str = "tcp"
    dport: int = 0
    sport: int = 40000
    flags: frozenset[str] = frozenset({"SYN"})
    icmp: tuple[int, int] = (0, 0)
    state: str = "NEW"
    mark: int = 0
    in_interface: str = ""
    out_interface: str = ""
    number: int = dataclasses.field(init=False, default=0, compare=False)

    def __post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise SimulateError(f"no packet goes from {self.source} to {self.destination}: two families")
        if self.state not in STATES:
            raise SimulateError(f"unknown conntrack state {self.state!r}")
        object.__setattr__(self, "number", protocol_number(self.protocol))

    @property
    def family(self) -> Family:
        return self.source.family

    @property
    def has_ports(self) -> bool:
        return self.number in WITH_PORTS

    def with_mark(self, mark: int) -> Packet:
        return dataclasses.replace(self, mark=mark)

    def reply(self) -> Packet:
        """The answer: addresses and ports turned round; SYN,ACK to a SYN, an echo reply to an echo request."""
        return dataclasses.replace(
            self,
            source=self.destination,
            destination=self.source,
            sport=self.dport,
            dport=self.sport,
            flags=frozenset({"SYN", "ACK"}) if self.flags == {"SYN"} else frozenset({"ACK"}),
            icmp={(8, 0): (0, 0), (128, 0): (129, 0)}.get(self.icmp, self.icmp),
            state="ESTABLISHED",
            mark=0,
            in_interface=self.out_interface,
            out_interface=self.in_interface,
        )


def first_packet(connection: Connection, sport: int = 40000) -> Packet:
    """The packet that opens `connection`; one of no named protocol is an echo request."""
    if connection.protocol is None:
        v4 = connection.source.family is Family.V4
        name, kind = ("icmp", 8) if v4 else ("icmpv6", 128)
        return Packet(connection.source, connection.destination, name, icmp=(kind, 0))
    name = connection.protocol.value.lower()
    return Packet(connection.source, connection.destination, name, connection.port or 0, sport)


_Tuple = tuple[int, Address, int, Address, int]

_SOUND = frozenset({"SYN", "SYN URG", "ACK SYN", "RST", "ACK RST", "ACK FIN", "ACK FIN URG", "ACK", "ACK URG"})
"""The flags (PSH aside) that one TCP packet may carry together."""

_REQUESTS = {1: frozenset({8, 13, 15, 17}), 58: frozenset({128, 139})}
"""ICMP types that are answered, by protocol: only these begin something that can be tracked."""

_NEVER_TRACKED = frozenset({130, 131, 132, 133, 134, 135, 136, 143})
"""ICMPv6: listeners and neighbours."""


def _is_sound(packet: Packet) -> bool:
    return packet.number != 6 or " ".join(sorted(packet.flags - {"PSH"})) in _SOUND


def _may_begin(packet: Packet) -> bool:
    if packet.number == 6:
        return packet.flags & {"SYN", "ACK", "FIN", "RST"} in ({"SYN"}, {"ACK"})
    return packet.icmp[0] in _REQUESTS.get(packet.number, {packet.icmp[0]})


class Conntrack:
    """Connections of which a packet has passed. `mark_passed` is told what passed, `classify` says what a packet is.

    As in the kernel: until the first reply, more packets of the opening side are still NEW. Of an unknown connection,
    what may begin one is NEW (also a bare ACK of TCP, which the kernel takes up in the middle), all else INVALID.
    RELATED, INVALID and UNTRACKED are left as the caller set them.
    """

    def __init__(self) -> None:
        self._replied: dict[_Tuple, bool] = {}

    def classify(self, packet: Packet) -> Packet:
        """`packet` with the state that it has now. A reply makes its connection ESTABLISHED for both sides."""
        if packet.state not in ("NEW", "ESTABLISHED"):
            return packet
        if packet.number == 58 and packet.icmp[0] in _NEVER_TRACKED:
            return dataclasses.replace(packet, state="UNTRACKED")
        forward, back = _tuples(packet)
        if not _is_sound(packet):
            return dataclasses.replace(packet, state="INVALID")
        if back in self._replied:
            self._replied[back] = True
            return dataclasses.replace(packet, state="ESTABLISHED")
        if forward in self._replied:
            return dataclasses.replace(packet, state="ESTABLISHED" if self._replied[forward] else "NEW")
        return dataclasses.replace(packet, state="NEW" if _may_begin(packet) else "INVALID")

    def mark_passed(self, packet: Packet) -> None:
        """Remember the connection of a NEW packet that was accepted."""
        forward, back = _tuples(packet)
        if packet.state == "NEW" and back not in self._replied:
            self._replied.setdefault(forward, False)

    def cut(self, refused: Callable[[Address, Address, int, int], bool]) -> int:
        """Forget the connections of which `refused(source, destination, protocol number, dport)` holds; their count."""
        gone = [t for t in self._replied if refused(t[1], t[3], t[0], t[4])]
        for each in gone:
            del self._replied[each]
        return len(gone)


def _tuples(packet: Packet) -> tuple[_Tuple, _Tuple]:
    """The connection's identity as `packet` shows it, and as its other side would."""
    sport, dport = (packet.sport, packet.dport) if packet.has_ports else (0, 0)
    forward = (packet.number, packet.source, sport, packet.destination, dport)
    return forward, (packet.number, packet.destination, dport, packet.source, sport)
