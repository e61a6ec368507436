"""Matches of iptables: what an option with its values asks of a packet.

In: the words of an option. Out: a function from packet and sets to yes or no. Each option names the modules that
bring it (`--dport` comes with tcp, udp or sctp), and takes a fixed number of values; the table at the end is all there is.
Values are taken in fewer forms than the restore programs take (no names of services, no octal numbers), and never in more.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from netpol_compiler.model.addresses import host_network, parse_address, parse_network
from netpol_compiler.model.kinds import Family
from netpol_compiler.simulate.errors import SimulateError
from netpol_compiler.simulate.numbers import decimal, number
from netpol_compiler.simulate.packets import STATES, TCP_FLAGS, Packet, protocol_number
from netpol_compiler.simulate.sets import SetData, Sets

Match = Callable[[Packet, Sets], bool]
Builder = Callable[[list[str]], Match]

MAX_MULTIPORT = 15
MAX_COMMENT = 255
MAX_INTERFACE = 15
_RATE = re.compile(r"[1-9][0-9]*(?:/(?:s|sec|second|m|min|minute|h|hour|d|day))?")
_ICMP_NAMES: dict[str, tuple[int, int | None]] = {
    "echo-reply": (0, None),
    "destination-unreachable": (3, None),
    "fragmentation-needed": (3, 4),
    "echo-request": (8, None),
    "time-exceeded": (11, None),
}
_ICMP6_NAMES: dict[str, tuple[int, int | None]] = {
    "destination-unreachable": (1, None),
    "packet-too-big": (2, None),
    "time-exceeded": (3, None),
    "parameter-problem": (4, None),
    "echo-request": (128, None),
    "echo-reply": (129, None),
    "router-solicitation": (133, None),
    "router-advertisement": (134, None),
    "neighbour-solicitation": (135, None),
    "neighbor-solicitation": (135, None),
    "neighbour-advertisement": (136, None),
    "neighbor-advertisement": (136, None),
    "redirect": (137, None),
}


class Option(NamedTuple):
    """How one option is read: the modules that bring it ("" the core), how many values follow, and their meaning.

    `negatable`: a ! may stand before it. Of the options with one `slot`, a module takes one only.
    """

    modules: tuple[str, ...]
    values: int
    build: Builder
    negatable: bool = True
    slot: str = ""


def _address(attribute: str) -> Builder:
    def build(values: list[str]) -> Match:
        text = values[0]
        if "," in text:
            raise SimulateError(f"a list of addresses is several rules: {text}")
        network = parse_network(text)[0] if "/" in text else host_network(parse_address(text))

        def match(packet: Packet, _sets: Sets) -> bool:
            if packet.family is not network.family:
                raise SimulateError(f"a rule for {text} in a table of IPv{int(packet.family)}")
            return network.contains(getattr(packet, attribute))

        return match

    return build


def _protocol(values: list[str]) -> Match:
    number = protocol_number(values[0])
    return lambda packet, _sets: number in (0, packet.number)


def _interface(attribute: str) -> Builder:
    def build(values: list[str]) -> Match:
        name = values[0]
        if not 1 <= len(name) <= MAX_INTERFACE:
            raise SimulateError(f"an interface's name has 1 to {MAX_INTERFACE} characters, not {name!r}")

        def match(packet: Packet, _sets: Sets) -> bool:
            seen: str = getattr(packet, attribute)
            if not seen:
                raise SimulateError(f"the rule asks for interface {name}, and the packet's is not known")
            return seen.startswith(name[:-1]) if name.endswith("+") else seen == name

        return match

    return build


def _port_range(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    low = decimal(first, 65535, "a port") if first or not colon else 0
    high = decimal(last, 65535, "a port") if last else 65535 if colon else low
    if low > high:
        raise SimulateError(f"impossible port range {text!r}")
    return low, high


def _port(attribute: str) -> Builder:
    def build(values: list[str]) -> Match:
        low, high = _port_range(values[0])
        return lambda packet, _sets: low <= getattr(packet, attribute) <= high

    return build


def _multiport(*attributes: str) -> Builder:
    def build(values: list[str]) -> Match:
        ranges = [_port_range(each) for each in values[0].split(",")]
        if sum(1 if low == high else 2 for low, high in ranges) > MAX_MULTIPORT:
            raise SimulateError(f"multiport takes {MAX_MULTIPORT} ports at most, a range counting as two")
        return lambda packet, _sets: any(low <= getattr(packet, a) <= high for a in attributes for low, high in ranges)

    return build


def _tcp_flags(values: list[str]) -> Match:
    mask, wanted = (_flag_set(v) for v in values)
    return lambda packet, _sets: packet.flags & mask == wanted


def _flag_set(text: str) -> frozenset[str]:
    flags = {"ALL": frozenset(TCP_FLAGS), "NONE": frozenset[str]()}.get(text, frozenset(text.split(",")))
    if not flags <= set(TCP_FLAGS):
        raise SimulateError(f"unknown TCP flags {text!r}")
    return flags


def _states(values: list[str]) -> Match:
    states = frozenset(values[0].split(","))
    if not states <= set(STATES):
        raise SimulateError(f"unknown connection state in {values[0]!r}")
    return lambda packet, _sets: packet.state in states


def value_and_mask(text: str) -> tuple[int, int]:
    value, slash, mask = text.partition("/")
    return number(value), number(mask) if slash else 0xFFFFFFFF


def _mark(values: list[str]) -> Match:
    value, mask = value_and_mask(values[0])
    return lambda packet, _sets: packet.mark & mask == value


def _icmp(names: dict[str, tuple[int, int | None]]) -> Builder:
    def build(values: list[str]) -> Match:
        text = values[0]
        if text == "any":
            return lambda packet, _sets: True
        kind, code = names.get(text) or _icmp_number(text)
        return lambda packet, _sets: packet.icmp[0] == kind and code in (None, packet.icmp[1])

    return build


def _icmp_number(text: str) -> tuple[int, int | None]:
    kind, slash, code = text.partition("/")
    return decimal(kind, 255, "an ICMP type"), decimal(code, 255, "an ICMP code") if slash else None


def _match_set(values: list[str]) -> Match:
    name, text = values
    sides = text.split(",")
    if not set(sides) <= {"src", "dst"}:
        raise SimulateError(f"unknown direction of a set: {text!r}")

    def match(packet: Packet, sets: Sets) -> bool:
        each = sets.get(name)
        if each is None:
            raise SimulateError(f"there is no set {name!r}")
        return _in_set(each, sides, packet)

    return match


def _in_set(each: SetData, sides: list[str], packet: Packet) -> bool:
    """The kernel takes fewer directions than the set has dimensions, and then never matches: an error here."""
    if len(sides) != 1 + each.has_ports:
        raise SimulateError(f"set {each.name!r} is a {each.type}: {','.join(sides)} does not fit it")
    if each.family is not packet.family:
        raise SimulateError(f"set {each.name!r} is of IPv{int(each.family)}, in a table of IPv{int(packet.family)}")
    address = packet.source if sides[0] == "src" else packet.destination
    if not each.has_ports:
        return each.contains(address)
    port = packet.sport if sides[1] == "src" else packet.dport
    return packet.has_ports and each.contains(address, (packet.number, port))


def _comment(values: list[str]) -> Match:
    if len(values[0].encode()) > MAX_COMMENT:
        raise SimulateError(f"the comment is longer than {MAX_COMMENT} bytes")
    return _always


def _limit(values: list[str]) -> Match:
    if not _RATE.fullmatch(values[0]):
        raise SimulateError(f"{values[0]!r} is no rate such as 10/sec")
    return _always


def _burst(values: list[str]) -> Match:
    decimal(values[0], 10000, "a burst")
    return _always


def _always(_packet: Packet, _sets: Sets) -> bool:
    return True


_PORTED = ("tcp", "udp", "sctp")

OPTIONS: dict[str, Option] = {
    "-s": Option(("",), 1, _address("source")),
    "-d": Option(("",), 1, _address("destination")),
    "-p": Option(("",), 1, _protocol),
    "-i": Option(("",), 1, _interface("in_interface")),
    "-o": Option(("",), 1, _interface("out_interface")),
    "--dport": Option(_PORTED, 1, _port("dport")),
    "--sport": Option(_PORTED, 1, _port("sport")),
    "--tcp-flags": Option(("tcp",), 2, _tcp_flags, slot="flags"),
    "--syn": Option(("tcp",), 0, lambda _values: _tcp_flags(["FIN,SYN,RST,ACK", "SYN"]), slot="flags"),
    "--dports": Option(("multiport",), 1, _multiport("dport"), slot="ports"),
    "--sports": Option(("multiport",), 1, _multiport("sport"), slot="ports"),
    "--ports": Option(("multiport",), 1, _multiport("sport", "dport"), slot="ports"),
    "--match-set": Option(("set",), 2, _match_set),
    "--ctstate": Option(("conntrack",), 1, _states),
    "--state": Option(("state",), 1, _states),
    "--mark": Option(("mark",), 1, _mark),
    "--comment": Option(("comment",), 1, _comment, negatable=False),
    "--limit": Option(("limit",), 1, _limit, negatable=False),
    "--limit-burst": Option(("limit",), 1, _burst, negatable=False),
    "--icmp-type": Option(("icmp",), 1, _icmp(_ICMP_NAMES)),
    "--icmpv6-type": Option(("icmp6",), 1, _icmp(_ICMP6_NAMES)),
}

LONG_FORMS = {
    "--source": "-s",
    "--src": "-s",
    "--destination": "-d",
    "--dst": "-d",
    "--protocol": "-p",
    "--proto": "-p",
    "--in-interface": "-i",
    "--out-interface": "-o",
    "--match": "-m",
    "--jump": "-j",
    "--goto": "-g",
    "--destination-port": "--dport",
    "--source-port": "--sport",
    "--destination-ports": "--dports",
    "--source-ports": "--sports",
}

NEEDS_PROTOCOL = {"tcp": (6,), "udp": (17,), "sctp": (132,), "icmp": (1,), "icmp6": (58,), "multiport": (6, 17, 33, 132, 136)}
"""Modules that are refused without `-p` of one of these protocols."""

OF_FAMILY = {"icmp": Family.V4, "icmp6": Family.V6}
"""Modules that only one family's tables know."""

MEANINGLESS_ALONE = frozenset({"set", "conntrack", "state", "mark", "multiport", "comment", "icmp", "icmp6"})
"""Modules that need an option: without one they would match everything unseen."""
