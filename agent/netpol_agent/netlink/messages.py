"""The little of netlink that the agent needs where a process would cost too much: nf_tables' generation, the
conntrack table, and this node's own addresses. Raw sockets, because the messages are few and small.

In and out: bytes of messages and attributes (host byte order for headers, network order inside netfilter's).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_LAST_ERROR = 4095
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # without the "nested" and "network order" bits
_BUFFER = 1 << 18
TIMEOUT = 5.0


class Netlink:
    """One socket in the network namespace in which it is made."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.settimeout(TIMEOUT)
        self._sequence = 0

    def request(self, kind: int, flags: int, payload: bytes) -> Iterator[bytes]:
        """Send one message; yields the payloads of the answers. Raises OSError with the kernel's number, or TimeoutError."""
        self._sequence += 1
        head = _HEADER.pack(_HEADER.size + len(payload), kind, flags | NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(head + payload)
        many = bool(flags & NLM_F_DUMP)
        while True:
            data = self._socket.recv(_BUFFER)
            for sequence, answer, body in parts(data):
                if sequence != self._sequence:
                    continue  # the rest of an answer that nobody waits for any more
                if answer in (_ERROR, _DONE):
                    number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if not 0 <= number <= _LAST_ERROR:
                        raise OSError(errno.EBADMSG, f"a netlink error of number {number}")
                    if number:
                        raise OSError(number, os.strerror(number))
                    return
                yield body
                if not many and not flags & NLM_F_ACK:
                    return

    def close(self) -> None:
        self._socket.close()


def parts(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(sequence, kind, payload) of each message in what was received at once. Raises OSError for what is none."""
    if not data:
        raise OSError(errno.EPIPE, "the netlink socket was closed")
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= len(data) - offset:
            raise OSError(errno.EBADMSG, f"a netlink message of {length} bytes, where {len(data) - offset} are left")
        yield sequence, kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by type; of repeated ones the last. Malformed rest is left out."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes, nested: bool = False) -> bytes:
    """One attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind | (0x8000 if nested else 0)) + value + b"\0" * (-length % 4)


def nft_generation() -> int | None:
    """nf_tables' generation in this namespace: it changes with every commit of anybody's. None when it cannot be had."""
    get_generation, generation_id = (10 << 8) | 16, 1
    try:
        link = Netlink(NETLINK_NETFILTER)
    except OSError:
        return None
    try:
        for body in link.request(get_generation, 0, b"\0\0\0\0"):
            value = attributes(body[4:]).get(generation_id, b"")
            return int.from_bytes(value, "big") if len(value) == 4 else None
    except OSError:
        return None
    finally:
        link.close()
    return None


def own_addresses() -> frozenset[bytes]:
    """The addresses of this namespace's interfaces: 4 or 16 bytes each. Raises OSError."""
    get_address, local, address = 22, 2, 1
    link = Netlink(NETLINK_ROUTE)
    try:
        found = set()
        for body in link.request(get_address, NLM_F_DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
            values = attributes(body[8:])
            found.add(values.get(local, values.get(address, b"")))
        return frozenset(found)
    finally:
        link.close()
