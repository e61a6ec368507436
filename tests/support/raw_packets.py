"""A simulator's `Packet` as bytes, and sending it from this machine's own OUTPUT hook over the loopback device.

In: packets of any source address. Out: bytes with headers, checksums where the kernel does not fill them in. Only inside of a
network namespace that the test made: whatever is sent stays on its loopback device.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from netpol_compiler.simulate import Packet
from netpol_lab.traffic import sctp

_FLAG_BITS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}
_ICMP = {4: 1, 6: 58}
_ERROR = {4: (3, 3), 6: (1, 4)}
"""Port unreachable: type and code."""


def payload(packet: Packet, sequence: tuple[int, int] = (1000, 0)) -> bytes:
    """What stands behind the IP header. `sequence`: TCP's own number, and the number that it acknowledges."""
    ports = struct.pack("!HH", packet.sport, packet.dport)
    match packet.number:
        case 6:
            flags = sum(_FLAG_BITS[f] for f in packet.flags)
            body = ports + struct.pack("!IIBBHHH", *sequence, 5 << 4, flags, 64240, 0, 0)
            return _summed(packet, body, 16)
        case 17:
            return _summed(packet, ports + struct.pack("!HHI", 12, 0, 0), 6)
        case 132:
            return sctp.encode(sctp.Packet(packet.sport, packet.dport, 0, sctp.INIT, 77))
        case 1 | 58:
            return _summed(packet, struct.pack("!BBHHH", *packet.icmp, 0, 7, 1), 2)
    return b"12345678"


def error_about(packet: Packet) -> tuple[Packet, bytes]:
    """The ICMP error "port unreachable" that the destination of `packet` answers with: as a packet, and as a payload."""
    version = packet.source.version
    error = Packet(packet.destination, packet.source, str(_ICMP[version]), icmp=_ERROR[version], state="RELATED")
    return error, _summed(error, struct.pack("!BBHI", *_ERROR[version], 0, 0) + whole(packet, payload(packet)), 2)


def whole(packet: Packet, body: bytes) -> bytes:
    """The packet with its IP header."""
    source, target = (ipaddress.ip_address(a.text).packed for a in (packet.source, packet.destination))
    if packet.source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), packet.number, 64) + source + target + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, packet.number, 0) + source + target
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + body


def send(packet: Packet, data: bytes) -> bool:
    """Send a whole packet. False when a rule dropped it, which the sender is told at once."""
    family = socket.AF_INET6 if packet.source.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        try:
            raw.sendto(data, (packet.destination.text, 0))
        except PermissionError:
            return False
        return True


def _summed(packet: Packet, body: bytes, place: int) -> bytes:
    """`body` with its checksum at `place`; ICMP of IPv4 is the one that leaves the addresses out."""
    pseudo = b""
    if packet.number != 1:
        pseudo = b"".join(ipaddress.ip_address(a.text).packed for a in (packet.source, packet.destination))
        pseudo += struct.pack("!II", len(body), packet.number)
    return body[:place] + struct.pack("!H", _checksum(pseudo + body)) + body[place + 2 :]


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
