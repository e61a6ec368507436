"""SCTP by raw sockets: enough of RFC 9260 to ask whether a port answers, for kernels without SCTP sockets.

INIT is answered by INIT ACK where somebody listens and by ABORT where nobody does. No association is ever made.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PROTOCOL = 132
INIT, INIT_ACK, ABORT = 1, 2, 6


def _table() -> tuple[int, ...]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Packet(NamedTuple):
    """A packet of one chunk. `tag` is the verification tag, `initiate` the tag inside INIT and INIT ACK."""

    source: int
    destination: int
    tag: int
    chunk: int
    initiate: int = 0


def encode(packet: Packet) -> bytes:
    """The packet's bytes, checksum included. An INIT ACK carries a state cookie, as it must."""
    if packet.chunk == ABORT:
        body = struct.pack("!BBH", ABORT, 0, 4)
    else:
        cookie = struct.pack("!HH4s", 7, 8, b"npct") if packet.chunk == INIT_ACK else b""
        body = struct.pack("!BBHIIHHI", packet.chunk, 0, 20 + len(cookie), packet.initiate, 65535, 1, 1, packet.initiate) + cookie
    head = struct.pack("!HHI", packet.source, packet.destination, packet.tag)
    # The checksum travels in little-endian order (RFC 9260, appendix A).
    return head + struct.pack("<I", crc32c(head + b"\0\0\0\0" + body)) + body


def decode(data: bytes) -> Packet | None:
    """The packet's first chunk; None for what is no sound SCTP packet."""
    if len(data) < 16:
        return None
    source, destination, tag = struct.unpack("!HHI", data[:8])
    if struct.unpack("<I", data[8:12])[0] != crc32c(data[:8] + b"\0\0\0\0" + data[12:]):
        return None
    initiate = struct.unpack("!I", data[16:20])[0] if data[12] in (INIT, INIT_ACK) and len(data) >= 20 else 0
    return Packet(source, destination, tag, data[12], initiate)


def payload(data: bytes, version: int) -> bytes:
    """What a raw socket received without the IP header, which only IPv4 sockets hand over."""
    return data[(data[0] & 0x0F) * 4 :] if version == 4 and data else data
