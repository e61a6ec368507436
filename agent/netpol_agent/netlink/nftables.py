"""nf_tables over netlink: tables, chains, sets, rules and elements as messages, many of them in one transaction.

In: values (names, matches, members). Out: bytes, and the kernel's answer to a whole batch, which it takes or refuses as one.
No program is started: an element is in the kernel after a quarter of a millisecond, where the program `nft` needs twenty. The
form of each message is that of linux/netfilter/nf_tables.h; numbers in attributes are in network order.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from netpol_agent.netlink.messages import attribute, attributes, parts

BRIDGE, INET, IPV4, IPV6 = 7, 1, 2, 10

_SUBSYSTEM = 10 << 8
_NEW_TABLE, _DELETE_TABLE = 0, 2
_NEW_CHAIN, _NEW_RULE, _GET_RULE, _NEW_SET = 3, 6, 7, 9
_NEW_ELEMENT, _GET_ELEMENT, _DELETE_ELEMENT, _NEW_OBJECT, _GET_OBJECT = 12, 13, 14, 18, 19
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_REQUEST, _ACK, _EXCLUSIVE, _CREATE, _APPEND, _DUMP = 0x1, 0x4, 0x200, 0x400, 0x800, 0x300
_HEADER = struct.Struct("=IHHII")
_ERROR, _DONE = 2, 3
_RECEIVE_BYTES = 1 << 18
_SEND_BUFFER_BYTES = 1 << 23
_SEND_BUFFER_BY_FORCE = 32  # SO_SNDBUFFORCE, which Python's socket does not name
_ANSWER_SECONDS = 5.0
_COUNTER_OBJECT = 1

_FIRST_REGISTER = 8  # NFT_REG32_00: registers of four bytes, in which a concatenation lies without gaps
_VERDICT_REGISTER = 0


class Verdict(IntEnum):
    """What a rule does when all before it matched."""

    DROP = 0
    ACCEPT = 1
    JUMP = -3
    GOTO = -4
    RETURN = -5


class Base(IntEnum):
    """Where a payload's offset counts from."""

    LINK = 0
    NETWORK = 1
    TRANSPORT = 2


class Meta(IntEnum):
    """What is known of a packet beside its bytes."""

    PROTOCOL = 1
    IIFNAME = 6
    OIFNAME = 7
    FAMILY = 15
    L4PROTO = 16


class KeyType(IntEnum):
    """The types that `nft list` prints a set's members by, and so the ones that a concatenation may be of."""

    IPV4_ADDRESS = 7
    IPV6_ADDRESS = 8
    HARDWARE_ADDRESS = 9
    INTERFACE_NAME = 41


KEY_BYTES = {KeyType.IPV4_ADDRESS: 4, KeyType.IPV6_ADDRESS: 16, KeyType.HARDWARE_ADDRESS: 6, KeyType.INTERFACE_NAME: 16}


@dataclass(frozen=True, slots=True)
class Field:
    """Some bytes of a packet, or something known of it (`meta`), to be compared or looked up."""

    size: int
    base: Base = Base.LINK
    offset: int = 0
    meta: Meta | None = None


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">i" if value < 0 else ">I", value))


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _data(kind: int, value: bytes) -> bytes:
    return attribute(kind, attribute(1, value), nested=True)


def _expression(name: str, *data: bytes) -> bytes:
    return attribute(1, _text(1, name) + attribute(2, b"".join(data), nested=True), nested=True)


def _load(field: Field, register: int) -> bytes:
    if field.meta is not None:
        return _expression("meta", _number(1, register), _number(2, field.meta))
    return _expression("payload", _number(1, register), _number(2, field.base), _number(3, field.offset), _number(4, field.size))


def equals(field: Field, value: bytes, *, negated: bool = False) -> bytes:
    """The field is exactly `value`."""
    compare = _expression("cmp", _number(1, _FIRST_REGISTER), _number(2, int(negated)), _data(3, value))
    return _load(field, _FIRST_REGISTER) + compare


def within(field: Field, value: bytes, mask: bytes) -> bytes:
    """The field, under `mask`, is `value`."""
    register, length = _number(1, _FIRST_REGISTER), _number(3, field.size)
    masked = _expression("bitwise", register, _number(2, _FIRST_REGISTER), length, _data(4, mask), _data(5, bytes(field.size)))
    return _load(field, _FIRST_REGISTER) + masked + _expression("cmp", register, _number(2, 0), _data(3, value))


def member(fields: Sequence[Field], set_name: str, *, negated: bool = False) -> bytes:
    """The fields, one after the other, are a member of the set."""
    loads, register = b"", _FIRST_REGISTER
    for field in fields:
        loads += _load(field, register)
        register += (field.size + 3) // 4
    return loads + _expression("lookup", _text(1, set_name), _number(2, _FIRST_REGISTER), _number(5, int(negated)))


def count(counter: str) -> bytes:
    """Add the packet to a counter of the table."""
    return _expression("objref", _number(1, _COUNTER_OBJECT), _text(2, counter))


def decide(verdict: Verdict, chain: str = "") -> bytes:
    """End with a verdict; JUMP and GOTO name a chain."""
    code = _number(1, verdict) + (_text(2, chain) if chain else b"")
    return _expression("immediate", _number(1, _VERDICT_REGISTER), attribute(2, attribute(2, code, nested=True), nested=True))


def key(*parts: bytes) -> bytes:
    """A set's member: each part is filled up to whole registers."""
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


def interface(name: str) -> bytes:
    """An interface's name as the kernel compares it."""
    return name.encode()[:15].ljust(16, b"\0")


@dataclass(frozen=True, slots=True)
class Message:
    """One request of a batch. `about` is what it is about, for whoever reads an error."""

    kind: int
    flags: int
    family: int
    payload: bytes
    about: str


def new_table(family: int, table: str) -> Message:
    return Message(_NEW_TABLE, _CREATE, family, _text(1, table), f"table {table}")


def delete_table(family: int, table: str) -> Message:
    return Message(_DELETE_TABLE, 0, family, _text(1, table), f"table {table}")


def new_chain(family: int, table: str, chain: str) -> Message:
    return Message(_NEW_CHAIN, _CREATE, family, _text(1, table) + _text(3, chain), f"chain {chain}")


def new_base_chain(family: int, table: str, chain: str, hook: int, priority: int) -> Message:
    """A chain of type filter at a hook, with policy accept. A lower priority comes earlier."""
    place = attribute(4, _number(1, hook) + attribute(2, struct.pack(">i", priority)), nested=True)
    payload = _text(1, table) + _text(3, chain) + place + _number(5, Verdict.ACCEPT) + _text(7, "filter")
    return Message(_NEW_CHAIN, _CREATE, family, payload, f"chain {chain}")


def new_set(family: int, table: str, name: str, types: Sequence[KeyType], number: int) -> Message:
    """A hash set of concatenated keys. `number`: any that no other new set of the batch has."""
    kind = 0
    for part in types:
        kind = kind << 6 | part
    size = sum((KEY_BYTES[part] + 3) // 4 * 4 for part in types) if len(types) > 1 else KEY_BYTES[types[0]]
    payload = _text(1, table) + _text(2, name) + _number(3, 0) + _number(4, kind) + _number(5, size) + _number(10, number)
    return Message(_NEW_SET, _CREATE, family, payload, f"set {name}")


def new_counter(family: int, table: str, name: str) -> Message:
    payload = _text(1, table) + _text(2, name) + _number(3, _COUNTER_OBJECT) + attribute(4, b"", nested=True)
    return Message(_NEW_OBJECT, _CREATE, family, payload, f"counter {name}")


def new_rule(family: int, table: str, chain: str, *expressions: bytes) -> Message:
    """A rule behind the chain's last one."""
    payload = _text(1, table) + _text(2, chain) + attribute(4, b"".join(expressions), nested=True)
    return Message(_NEW_RULE, _CREATE | _APPEND, family, payload, f"rule of {chain}")


def elements(family: int, table: str, set_name: str, keys: Iterable[bytes], *, delete: bool = False) -> Iterator[Message]:
    """Messages that add or delete members, some hundreds in each. Adding one that is there changes nothing."""
    every = list(keys)
    for start in range(0, len(every), _KEYS_IN_MESSAGE):
        nested = b"".join(attribute(1, _data(1, one), nested=True) for one in every[start : start + _KEYS_IN_MESSAGE])
        payload = _text(1, table) + _text(2, set_name) + attribute(3, nested, nested=True)
        kind, flags = (_DELETE_ELEMENT, 0) if delete else (_NEW_ELEMENT, _CREATE)
        yield Message(kind, flags, family, payload, f"members of {set_name}")


_KEYS_IN_MESSAGE = 500
"""Keys of one message: an attribute's length has 16 bits, and a key with its attributes takes 60 bytes at most."""


class Refused(OSError):
    """The kernel refused a batch; nothing of it was done. The text names the message."""


class NftLink:
    """A socket to nf_tables in the network namespace in which it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12)
        self._socket.bind((0, 0))
        self._socket.settimeout(_ANSWER_SECONDS)
        for option in (socket.SO_SNDBUF, _SEND_BUFFER_BY_FORCE):  # a whole batch goes in one send
            with contextlib.suppress(PermissionError):  # force takes the machine's root: elsewhere the kernel's limit holds
                self._socket.setsockopt(socket.SOL_SOCKET, option, _SEND_BUFFER_BYTES)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def commit(self, messages: Sequence[Message]) -> None:
        """All of `messages`, or nothing. Raises Refused with the first message that the kernel did not take, or OSError."""
        first = self._sequence + 1
        mark = struct.pack(">BBH", 0, 0, 10)
        parts = [self._packed(_BATCH_BEGIN, 0, mark)]
        for message in messages:
            last = _ACK if message is messages[-1] else 0
            genmsg = struct.pack(">BBH", message.family, 0, 0)
            parts.append(self._packed(_SUBSYSTEM | message.kind, message.flags | last, genmsg + message.payload))
        parts.append(self._packed(_BATCH_END, 0, mark))
        self._socket.send(b"".join(parts))
        refused: Refused | None = None
        for sequence, answer, body in self._answers():
            if answer != _ERROR or sequence < first:
                continue
            number = -struct.unpack_from("=i", body)[0]
            position = sequence - first - 1
            about = messages[position].about if 0 <= position < len(messages) else "the batch"
            if number and refused is None:
                refused = Refused(number, f"{about}: {os.strerror(number)}")
            if refused is not None or position == len(messages) - 1:
                break
        if refused is not None:
            self._drain()
            raise refused

    def members(self, family: int, table: str, set_name: str) -> frozenset[bytes]:
        """A set's keys as they are. Raises OSError; ENOENT when there is no such set."""
        payload = struct.pack(">BBH", family, 0, 0) + _text(1, table) + _text(2, set_name)
        found: set[bytes] = set()
        for body in self._dump(_GET_ELEMENT, payload):
            for element in _list(attributes(body[4:]).get(3, b"")):
                found.add(attributes(attributes(element).get(1, b"")).get(1, b""))
        return frozenset(found)

    def rules(self, family: int, table: str) -> frozenset[bytes]:
        """The handles of all rules of a table. Raises OSError."""
        payload = struct.pack(">BBH", family, 0, 0) + _text(1, table)
        return frozenset(attributes(body[4:]).get(3, b"") for body in self._dump(_GET_RULE, payload))

    def counters(self, family: int, table: str) -> dict[str, int]:
        """Packets of each counter of the table. Raises OSError."""
        found = {}
        for body in self._dump(_GET_OBJECT, struct.pack(">BBH", family, 0, 0) + _text(1, table) + _number(3, _COUNTER_OBJECT)):
            values = attributes(body[4:])
            packets = attributes(values.get(4, b"")).get(2, b"")
            found[values.get(2, b"").rstrip(b"\0").decode()] = int.from_bytes(packets, "big")
        return found

    def _packed(self, kind: int, flags: int, payload: bytes) -> bytes:
        self._sequence += 1
        return _HEADER.pack(_HEADER.size + len(payload), kind, flags | _REQUEST, self._sequence, 0) + payload

    def _dump(self, kind: int, payload: bytes) -> Iterator[bytes]:
        self._socket.send(self._packed(_SUBSYSTEM | kind, _DUMP, payload))
        wanted = self._sequence
        for sequence, answer, body in self._answers():
            if sequence != wanted:
                continue
            if answer in (_ERROR, _DONE):
                number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                if number:
                    raise OSError(number, os.strerror(number))
                return
            yield body

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        """(sequence, kind, payload) of each message that comes."""
        while True:
            yield from parts(self._socket.recv(_RECEIVE_BYTES))

    def _drain(self) -> None:
        self._socket.setblocking(False)
        try:
            while self._socket.recv(_RECEIVE_BYTES):
                pass
        except BlockingIOError:
            pass
        finally:
            self._socket.settimeout(_ANSWER_SECONDS)


def _list(data: bytes) -> Iterator[bytes]:
    """The values of repeated attributes, in order."""
    offset = 0
    while offset + 4 <= len(data):
        length = struct.unpack_from("=H", data, offset)[0]
        if length < 4:
            return
        yield data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
