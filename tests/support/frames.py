"""First packets of connections as bytes, with right checksums (conntrack refuses wrong ones), and which packet came out again.

In: connections, each with a number of its own. Out: IP packets; the number of a packet that was forwarded.
"""

from __future__ import annotations

import struct

from netpol_compiler.model.kinds import Protocol
from netpol_compiler.model.objects import Connection

FIRST, LAST = 20000, 59999
"""Numbers of packets: source ports, or the identifier of an echo request. Nothing in the tests listens between these."""

_ICMP, _ICMP6 = 1, 58


def packet(connection: Connection, number: int) -> bytes:
    """The packet that opens `connection`: SYN, a datagram, INIT, or an echo request."""
    v4 = connection.source.version == 4
    size = 4 if v4 else 16
    source, target = (end.value.to_bytes(size, "big") for end in (connection.source, connection.destination))
    kind = connection.protocol.number if connection.protocol else _ICMP if v4 else _ICMP6
    body = _body(connection, kind, number, b"" if kind == _ICMP else source + target)
    if not v4:
        return struct.pack("!IHBB", 6 << 28, len(body), kind, 64) + source + target + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, 64, kind, 0) + source + target
    return head[:10] + _checksum(head) + head[12:] + body


def _body(connection: Connection, kind: int, number: int, ends: bytes) -> bytes:
    port = connection.port or 0
    if connection.protocol is Protocol.SCTP:
        init = struct.pack("!BBHIIHHI", 1, 0, 20, number, 65536, 1, 1, number)
        return struct.pack("!HHI", number, port, 0) + _crc32c(struct.pack("!HHII", number, port, 0, 0) + init) + init
    if connection.protocol is Protocol.TCP:
        body, place = struct.pack("!HHIIBBHHH", number, port, number, 0, 5 << 4, 0x02, 64240, 0, 0), 16
    elif connection.protocol is Protocol.UDP:
        body, place = struct.pack("!HHHH", number, port, 8, 0), 6
    else:
        body, place = struct.pack("!BBHHH", 8 if kind == _ICMP else 128, 0, 0, number, 1), 2
    counted = ends + struct.pack("!IHBB", len(body), 0, 0, kind) + body if ends else body
    return body[:place] + _checksum(counted) + body[place + 2 :]


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    # A zero would mean that a datagram has none.
    return (total ^ 0xFFFF or 0xFFFF).to_bytes(2, "big")


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def _crc32c(data: bytes) -> bytes:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 0xFF]
    return (value ^ 0xFFFFFFFF).to_bytes(4, "little")


def number_of(data: bytes) -> tuple[int, int]:
    """(family, number) of a packet; (0, 0) for what none of ours can be."""
    version = data[0] >> 4 if len(data) >= 28 else 0
    if version not in (4, 6):
        return 0, 0
    kind, body = (data[9], data[20:]) if version == 4 else (data[6], data[40:])
    place = 4 if kind in (_ICMP, _ICMP6) else 0
    return version, int.from_bytes(body[place : place + 2], "big")


def arrived_as_sent(sent: bytes, got: bytes) -> bool:
    """Whether a forwarded packet is the one that was sent: all the same but for the hop that was counted."""
    changed = {8, 10, 11} if sent[0] >> 4 == 4 else {7}
    return len(got) >= len(sent) and all(got[i] == sent[i] for i in range(len(sent)) if i not in changed)
