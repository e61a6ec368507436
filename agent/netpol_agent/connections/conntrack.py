"""Established connections when a policy tightens (SEMANTICS 12): exactly the refused ones are cut.

In: a judge for one flow. Out: how many conntrack entries were deleted. Each entry is deleted by its own original
tuple and id as the kernel gave them, so nothing else can be hit. Excluded: what is refused (`judgement`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from netpol_agent.netlink.messages import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_DUMP,
    Netlink,
    attribute,
    attributes,
    own_addresses,
)
from netpol_compiler.model.addresses import Address, parse_address
from netpol_compiler.model.kinds import Family

_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_ORIGINAL, _REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_KINDS = {Family.V4: (1, 2), Family.V6: (3, 4)}
_NUMBER, _SOURCE_PORT = 1, 2
_SOCKET_FAMILY = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_WITH_PORTS = (6, 17, 132)


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection as the filter sees it: after DNAT, before masquerading. `protocol` is IANA's number, `port` the
    destination's, None for protocols without ports."""

    source: Address
    destination: Address
    protocol: int
    port: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A raw conntrack entry: both tuples as the kernel encodes them, and what names it."""

    family: Family
    original: bytes
    reply: bytes
    identity: bytes
    zone: bytes

    def ends(self) -> tuple[bytes, bytes]:
        """Raw addresses of the source and of the destination really reached."""
        source, _ = _IP_KINDS[self.family]
        ours = attributes(attributes(self.original).get(_TUPLE_IP, b"")).get(source, b"")
        theirs = attributes(attributes(self.reply).get(_TUPLE_IP, b"")).get(source, b"")
        return ours, theirs

    def flow(self) -> Flow:
        """Raises ValueError for an entry of a shape that we do not know."""
        source, destination = self.ends()
        reply = attributes(attributes(self.reply).get(_TUPLE_PROTO, b""))
        protocol = int.from_bytes(reply.get(_NUMBER, b"\0"), "big")
        port = int.from_bytes(reply[_SOURCE_PORT], "big") if protocol in _WITH_PORTS and _SOURCE_PORT in reply else None
        return Flow(raw_address(source), raw_address(destination), protocol, port)


def raw_address(raw: bytes) -> Address:
    """4 or 16 bytes as an Address. Raises ValueError."""
    return parse_address(socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw))


def packed(address: Address) -> bytes:
    return socket.inet_pton(_SOCKET_FAMILY[address.family], address.text)


def entries(link: Netlink, family: Family) -> Iterator[Entry]:
    """All entries of one family. Raises OSError."""
    for body in link.request(_GET, NLM_F_DUMP, bytes([_SOCKET_FAMILY[family], 0, 0, 0])):
        values = attributes(body[4:])
        if _ORIGINAL in values and _REPLY in values:
            yield Entry(family, values[_ORIGINAL], values[_REPLY], values.get(_ID, b""), values.get(_ZONE, b""))


def delete(link: Netlink, entry: Entry) -> bool:
    """Delete exactly this entry. False when it was gone already. Raises OSError."""
    payload = bytes([_SOCKET_FAMILY[entry.family], 0, 0, 0]) + attribute(_ORIGINAL, entry.original, nested=True)
    payload += attribute(_ID, entry.identity) if entry.identity else b""
    payload += attribute(_ZONE, entry.zone) if entry.zone else b""
    try:
        for _ in link.request(_DELETE, NLM_F_ACK, payload):
            pass
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


@dataclass(frozen=True, slots=True)
class Cut:
    """What a pass did. `problem`: why it could not be finished, or empty."""

    seen: int = 0
    deleted: int = 0
    problem: str = ""


def _flow_of(entry: Entry) -> Flow | None:
    """None for an entry of a shape that we do not know: it is left alone."""
    try:
        return entry.flow()
    except ValueError:
        return None


def cut_refused(families: tuple[Family, ...], local: frozenset[Address], refused: Callable[[Flow], bool]) -> Cut:
    """Delete the entries that touch a `local` address and are `refused`.

    What begins or ends on the node itself is passed over: the filter never sees it (SEMANTICS 9).
    """
    interesting = {packed(a) for a in local}
    if not interesting:
        return Cut()
    seen = deleted = 0
    try:
        own = own_addresses()
        with contextlib.closing(Netlink(NETLINK_NETFILTER)) as link:
            for family in families:
                found = []
                for entry in entries(link, family):
                    seen += 1
                    ends = entry.ends()
                    if interesting.isdisjoint(ends) or not own.isdisjoint(ends):
                        continue
                    flow = _flow_of(entry)
                    if flow is not None and refused(flow):
                        found.append(entry)
                deleted += sum(delete(link, entry) for entry in found)
    except OSError as error:
        return Cut(seen, deleted, f"cutting refused connections: {error.strerror or error}")
    return Cut(seen, deleted)
