"""A rule of a chain as a value: whom it matches, what happens then, and its comment.

Every writer (`render`, for the restore programs) says the same rule in its own form, and `reader` makes the same value of what a
kernel prints. So where a rule leads and which sets it matches is asked of the value. Matches are in one fixed order: two
rules that match the same are equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from netpol_compiler.model.addresses import Network
from netpol_compiler.model.kinds import Direction, Family, Protocol

MAX_COMMENT = 240
"""Bytes of a comment at most; the kernel's limit is 256 with its closing zero."""

MULTIPORT_SLOTS = 15
"""Ports that one multiport match holds; a range takes two."""

EVERY_PORT = ((0, 65535),)


class End(str, Enum):
    """An end of a packet: whose address or port is looked at."""

    SOURCE = "src"
    DESTINATION = "dst"


# -- matches -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddressMatch:
    """The address of one end is in `network`."""

    end: End
    network: Network


@dataclass(frozen=True, slots=True)
class ConntrackMatch:
    """The packet's connection is in one of these states: `RELATED`, `ESTABLISHED`."""

    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PortMatch:
    """The protocol, and a destination port in one of `ranges` (inclusive; EVERY_PORT: the protocol alone)."""

    protocol: Protocol
    ranges: tuple[tuple[int, int], ...] = EVERY_PORT


@dataclass(frozen=True, slots=True)
class TcpFlagsMatch:
    """TCP, and of the flags `mask` exactly `flags` are set; `negated`: anything else."""

    mask: tuple[str, ...]
    flags: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Icmp6Match:
    """ICMPv6 of one type."""

    type: int


@dataclass(frozen=True, slots=True)
class SetMatch:
    """The set holds the packet's address, or its (address, protocol, port): `ends` says of which end each part is."""

    name: str
    ends: tuple[End, ...]


@dataclass(frozen=True, slots=True)
class MarkMatch:
    """The packet's mark has `value` in the bits of `mask`."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class LimitMatch:
    """At most so many packets a second, after the first `burst`."""

    per_second: int
    burst: int


Match = AddressMatch | ConntrackMatch | PortMatch | TcpFlagsMatch | Icmp6Match | SetMatch | MarkMatch | LimitMatch

_ORDER = (AddressMatch, ConntrackMatch, PortMatch, TcpFlagsMatch, Icmp6Match, SetMatch, MarkMatch, LimitMatch)
_PLACE = {kind: place for place, kind in enumerate(_ORDER, 1)}


# -- actions -----------------------------------------------------------------------------------------


class Verdict(str, Enum):
    """What decides, or ends the chain."""

    ACCEPT = "ACCEPT"
    DROP = "DROP"
    RETURN = "RETURN"


@dataclass(frozen=True, slots=True)
class Jump:
    """Go through a chain and come back behind this rule."""

    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    """Go through a chain, and come back to where this rule's chain was jumped to from."""

    chain: str


@dataclass(frozen=True, slots=True)
class SetMark:
    """The bits of `mask` in the packet's mark become `value`."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Log:
    """Copy the packet to an NFLOG group."""

    prefix: str
    group: int


Action = Verdict | Jump | Goto | SetMark | Log


# -- rules -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChainRule:
    """One rule of ours. Made by `rule`, which puts `matches` in order."""

    matches: tuple[Match, ...]
    action: Action
    comment: str = ""

    @property
    def target(self) -> str:
        """The chain that the rule leads to; empty where it leads to none."""
        return self.action.chain if isinstance(self.action, Jump | Goto) else ""

    @property
    def sets(self) -> frozenset[str]:
        """The sets that it matches."""
        return frozenset(m.name for m in self.matches if isinstance(m, SetMatch))


@dataclass(frozen=True, slots=True)
class UnknownRule:
    """A rule that we would not write, as it is printed: somebody else's, or one that was damaged."""

    text: str
    target: str = ""
    sets: frozenset[str] = frozenset()


Rule = ChainRule | UnknownRule
Rules = tuple[Rule, ...]
"""The rules of a chain in order."""


def rule(*matches: Match | None, action: Action, comment: str = "") -> ChainRule:
    """A rule of the matches that are not None; `comment` as `clean_comment` makes it."""
    some = [m for m in matches if m is not None]
    if len(some) > 1:
        some.sort(key=_place)
    return ChainRule(tuple(some), action, comment)


def _place(match: Match) -> int:
    return 0 if isinstance(match, AddressMatch) and match.end is End.SOURCE else _PLACE[type(match)]


@lru_cache(maxsize=8192)
def clean_comment(text: str) -> str:
    """A comment cut to the kernel's length, without what could end its quotes."""
    clean = "".join(c if c.isascii() and c.isprintable() and c not in "\"\\'`$" else "?" for c in text)
    if len(clean) > MAX_COMMENT:
        return clean[: MAX_COMMENT - 3] + "..."
    return text if clean == text else clean


# -- the matches of a direction ----------------------------------------------------------------------

_PEER_END = {Direction.INGRESS: End.SOURCE, Direction.EGRESS: End.DESTINATION}
_LOCAL_END = {Direction.INGRESS: End.DESTINATION, Direction.EGRESS: End.SOURCE}


def peer_address(direction: Direction, network: Network) -> AddressMatch:
    """Matches the peer's address: the source for ingress, the destination for egress."""
    return AddressMatch(_PEER_END[direction], network)


def local_address(direction: Direction, network: Network) -> AddressMatch:
    """Matches the selected pod's address: the destination for ingress, the source for egress."""
    return AddressMatch(_LOCAL_END[direction], network)


@lru_cache(maxsize=8192)
def peer_set(direction: Direction, name: str) -> SetMatch:
    return SetMatch(name, (_PEER_END[direction],))


def local_set(direction: Direction, name: str) -> SetMatch:
    return SetMatch(name, (_LOCAL_END[direction],))


def endpoint_set(name: str) -> SetMatch:
    """Matches (destination address, protocol, destination port); only egress rules need it."""
    return SetMatch(name, (End.DESTINATION, End.DESTINATION))


def chunks(ranges: tuple[tuple[int, int], ...]) -> list[tuple[tuple[int, int], ...]]:
    """Split ranges so that each part fits one PortMatch."""
    parts: list[list[tuple[int, int]]] = [[]]
    slots = 0
    for first, last in ranges:
        need = 1 if first == last else 2
        if slots + need > MULTIPORT_SLOTS:
            parts.append([])
            slots = 0
        parts[-1].append((first, last))
        slots += need
    return [tuple(p) for p in parts if p]


NEIGHBOUR_DISCOVERY = tuple(rule(Icmp6Match(number), action=Verdict.RETURN) for number in (133, 134, 135, 136, 137))
"""Router and neighbour solicitation, advertisement and redirect: without them no IPv6 works (SEMANTICS 13)."""


def family_rules(family: Family) -> Rules:
    return NEIGHBOUR_DISCOVERY if family is Family.V6 else ()


# -- where rules lead --------------------------------------------------------------------------------


def targets_of(rules: Iterable[Rule]) -> set[str]:
    """Where rules lead."""
    return {r.target for r in rules if r.target}


def sets_of(rules: Iterable[Rule]) -> frozenset[str]:
    """The sets that rules match."""
    return frozenset().union(*(r.sets for r in rules))
