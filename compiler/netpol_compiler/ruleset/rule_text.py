"""One rule's text from its fields: a table of fragments, so that every place writes a match the same way.

In: keyword fields. Out: the rule without its `-A CHAIN`, as iptables-save prints it (addresses before the protocol, prefix
lengths always there), so that an agent that starts again knows its own rules by their text.
"""

from __future__ import annotations

from functools import lru_cache

from netpol_compiler.model.kinds import Direction, Family, Protocol

ALLOW_CHAIN = "npc-allow"
MAX_COMMENT = 240
"""Bytes of a comment at most; the kernel's limit is 256 with its closing zero."""

_PEER_FLAG = {Direction.INGRESS: "-s", Direction.EGRESS: "-d"}
_LOCAL_FLAG = {Direction.INGRESS: "-d", Direction.EGRESS: "-s"}
_PEER_WORD = {Direction.INGRESS: "src", Direction.EGRESS: "dst"}
_LOCAL_WORD = {Direction.INGRESS: "dst", Direction.EGRESS: "src"}


def chain_of(direction: Direction) -> str:
    """The root of a direction's dispatch tree."""
    return f"npc-{direction.value}"


def peer_address(direction: Direction, cidr: str) -> str:
    """Matches the peer's address: the source for ingress, the destination for egress."""
    return f"{_PEER_FLAG[direction]} {cidr}"


def local_address(direction: Direction, cidr: str) -> str:
    """Matches the selected pod's address: the destination for ingress, the source for egress."""
    return f"{_LOCAL_FLAG[direction]} {cidr}"


def peer_set(direction: Direction, name: str) -> str:
    return f"-m set --match-set {name} {_PEER_WORD[direction]}"


def local_set(direction: Direction, name: str) -> str:
    return f"-m set --match-set {name} {_LOCAL_WORD[direction]}"


def endpoint_set(name: str) -> str:
    """Matches (destination address, protocol, destination port); only egress rules need it."""
    return f"-m set --match-set {name} dst,dst"


def ports(protocol: Protocol, ranges: tuple[tuple[int, int], ...]) -> str:
    """Matches a protocol and any of `ranges` (inclusive, 15 slots of multiport at most; see `chunks`)."""
    name = protocol.value.lower()
    if ranges == ((0, 65535),):
        return f"-p {name}"
    if len(ranges) == 1:
        return f"-p {name} -m {name} --dport {port_range(*ranges[0])}"
    return f"-p {name} -m multiport --dports {','.join(port_range(*r) for r in ranges)}"


def port_range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}:{last}"


def chunks(ranges: tuple[tuple[int, int], ...]) -> list[tuple[tuple[int, int], ...]]:
    """Split ranges so that each part fits one multiport match: 15 slots, of which a true range takes two."""
    parts: list[list[tuple[int, int]]] = [[]]
    slots = 0
    for first, last in ranges:
        need = 1 if first == last else 2
        if slots + need > 15:
            parts.append([])
            slots = 0
        parts[-1].append((first, last))
        slots += need
    return [tuple(p) for p in parts if p]


@lru_cache(maxsize=8192)
def comment(text: str) -> str:
    """A comment match, cut to the kernel's length; quotes and backslashes never reach the shell-like parser."""
    clean = "".join(c if c.isascii() and c.isprintable() and c not in "\"\\'`$" else "?" for c in text)
    if len(clean) > MAX_COMMENT:
        clean = clean[: MAX_COMMENT - 3] + "..."
    return f'-m comment --comment "{clean}"'


def rule(*matches: str, goto: str = "", jump: str = "") -> str:
    """Join the non-empty matches and the action; addresses stand first, the source before the destination."""
    action = f"-g {goto}" if goto else f"-j {jump}" if jump else ""
    return " ".join([*sorted(filter(None, matches), key=_place), action]).strip()


def _place(match: str) -> int:
    return {"-s": 0, "-d": 1}.get(match[:2], 2)


NEIGHBOUR_DISCOVERY = tuple(
    rule(f"-p ipv6-icmp -m icmp6 --icmpv6-type {number}", jump="RETURN") for number in (133, 134, 135, 136, 137)
)
"""Router and neighbour solicitation, advertisement and redirect: without them no IPv6 works (SEMANTICS 13)."""


def family_rules(family: Family) -> tuple[str, ...]:
    return NEIGHBOUR_DISCOVERY if family is Family.V6 else ()
