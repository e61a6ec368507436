"""Which peers may use which ports of one protocol: rules in, disjoint port segments out.

    rule A: 80        from x          segment 80..80        x, y
    rule B: 1..1000   from y    -->   segments 1..79, 81..1000   y

Segments with the same peers form one group; a group's peers are tested by a few matches or by one union set.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from netpol_compiler.node.peers import ANY, Atom


@dataclass(frozen=True, slots=True)
class Allowance:
    """Ports `first`..`last` (inclusive) are open to `peers`; `why` is the provenance in words."""

    first: int
    last: int
    peers: frozenset[Atom]
    why: str


@dataclass(frozen=True, slots=True)
class Group:
    """`ranges`: sorted, disjoint, not adjacent. `peers`: who may use them. `whys`: the rules behind it."""

    ranges: tuple[tuple[int, int], ...]
    peers: frozenset[Atom]
    whys: tuple[str, ...]


def group_ports(allowances: Iterable[Allowance], everywhere: frozenset[Atom] = frozenset()) -> tuple[Group, ...]:
    """Group the ports of one protocol by who may use them. `everywhere`: peers to leave out, because they
    may use every port anyway. Sorted by first port; ports that nobody may use are in no group."""
    spread: dict[frozenset[Atom], list[tuple[int, int]]] = {}
    whys: dict[frozenset[Atom], dict[str, None]] = {}
    for first, last, active in _segments(list(allowances)):
        peers = frozenset().union(*(a.peers for a in active))
        peers = frozenset({ANY}) if ANY in peers else peers - everywhere
        if not peers:
            continue
        ranges = spread.setdefault(peers, [])
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
        whys.setdefault(peers, {}).update(dict.fromkeys(a.why for a in active))
    groups = [Group(tuple(r), p, tuple(whys[p])) for p, r in spread.items()]
    return tuple(sorted(groups, key=lambda g: g.ranges))


def _segments(allowances: list[Allowance]) -> Iterable[tuple[int, int, list[Allowance]]]:
    """Maximal ranges in which the same allowances are in force."""
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for number, allowance in enumerate(allowances):
        starts.setdefault(allowance.first, []).append(number)
        ends.setdefault(allowance.last + 1, []).append(number)
    active: dict[int, None] = {}
    edges = sorted({*starts, *ends})
    for edge, following in itertools.pairwise(edges):
        for number in ends.get(edge, ()):
            del active[number]
        active.update(dict.fromkeys(starts.get(edge, ())))
        if active:
            yield edge, following - 1, [allowances[n] for n in sorted(active)]
