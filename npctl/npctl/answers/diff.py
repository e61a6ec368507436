"""Which connections a change of policies opens or shuts: two states judged, and only where they can differ.

    now, then --likeness--> groups of pods and outside addresses
    groups whose own side changed --every port that a rule names--> Judge, twice --> Difference

In: two states with the same pods. Out: `Difference`s between groups. Every connection between what is there is covered: all
ports and protocols, and for the world outside one address for each part of it that a rule tells apart. The verdicts are the
compiler's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import DIRECTIONS, Direction
from netpol_compiler.model.objects import PortRange
from netpol_compiler.policy.ir import CompiledPolicy
from netpol_compiler.policy.verdict import SideVerdict, Verdict
from npctl.endpoints import port_spans
from npctl.endpoints.equivalence_classes import Group, Likeness, connection, content, named_ports
from npctl.endpoints.port_spans import Span
from npctl.inputs.state import State

_Policies = tuple[tuple[CompiledPolicy, ...], tuple[CompiledPolicy, ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """All connections from `source` to `target` on `ports` pass now and not then, or the other way round.

    `version` is the family in which that was judged; `both_families`: the other one, if there is one, fares the same.
    `every`: the spans that the ports were cut into. `now` and `then` are the verdicts on one of the connections.
    """

    source: Group
    target: Group
    version: int
    both_families: bool
    ports: tuple[Span, ...]
    every: tuple[Span, ...]
    now: Verdict
    then: Verdict

    @property
    def opened(self) -> bool:
        return self.then.allowed

    @property
    def port_words(self) -> str:
        return port_spans.words(self.ports, self.every)

    @property
    def by(self) -> tuple[str, str]:
        """What decides now, and then, in few words."""
        now, then = deciding(self.now, self.then)
        return now.brief, then.brief


def deciding(now: Verdict, then: Verdict) -> tuple[SideVerdict, SideVerdict]:
    """The side that makes the difference, in both verdicts: the one on which one of the two is refused."""
    refused = then if now.allowed else now
    if not refused.egress.allowed:
        return now.egress, then.egress
    return now.ingress, then.ingress


class Comparison:
    """Compares two states."""

    def __init__(self, now: State, then: State) -> None:
        self.likeness = Likeness(now, then)
        self._states = (now, then)
        self._contents: dict[Hashable, bool] = {}

    def differences(self) -> Iterator[Difference]:
        """Every difference, by source and target."""
        groups = self.likeness.groups
        changed = {d: {id(g) for g in groups if self._side_changed(g, d)} for d in DIRECTIONS}
        if not any(changed.values()):
            return
        outside = self.likeness.outside
        for source in (*groups, *outside):
            for target in groups:
                if id(source) in changed[Direction.EGRESS] or id(target) in changed[Direction.INGRESS]:
                    yield from self._pair(source, target)
            for target in outside if id(source) in changed[Direction.EGRESS] else ():
                yield from self._pair(source, target)

    def _side_changed(self, group: Group, direction: Direction) -> bool:
        now, then = self.likeness.isolating(group.pods[0], direction)
        key = (direction, tuple(p.key for p in now), tuple(p.key for p in then))
        if key not in self._contents:
            contents = [content(s, p, direction) for s, p in zip(self._states, (now, then), strict=True)]
            self._contents[key] = contents[0] != contents[1]
        return self._contents[key]

    def _pair(self, source: Group, target: Group) -> Iterator[Difference]:
        if source is target and len(source.pods) < 2:
            return  # a pod always reaches itself
        egress: _Policies = self.likeness.isolating(source.pods[0], Direction.EGRESS) if source.pods else ((), ())
        ingress: _Policies = self.likeness.isolating(target.pods[0], Direction.INGRESS) if target.pods else ((), ())
        every = tuple(port_spans.spans(self._named(egress, ingress, target)))
        goal = target.pods[1].addresses if source is target else target.addresses
        pairs = [(a, b) for a in source.addresses for b in goal if a.version == b.version]
        first_of_family = {a.version: (a, b) for a, b in reversed(pairs)}
        families = sorted(first_of_family)
        if not self.likeness.has_blocks((*egress[0], *egress[1], *ingress[0], *ingress[1])):
            families = families[:1]
        for version in families:
            yield from self._judged(source, target, first_of_family[version], every, len(families) == 1)

    def _named(self, egress: _Policies, ingress: _Policies, target: Group) -> Iterator[PortRange]:
        for state, out, into in zip(self._states, egress, ingress, strict=True):
            yield from named_ports(state, out, Direction.EGRESS, target)
            yield from named_ports(state, into, Direction.INGRESS, target)

    def _judged(
        self, source: Group, target: Group, ends: tuple[Address, Address], every: tuple[Span, ...], both: bool
    ) -> Iterator[Difference]:
        found: dict[Hashable, tuple[list[Span], Verdict, Verdict]] = {}
        for span in every:
            wanted = connection(*ends, port_spans.port_of(span))
            now, then = (s.judge.judge(wanted) for s in self._states)
            if now.allowed != then.allowed:
                by = (now.allowed, *(side.brief for side in deciding(now, then)))
                found.setdefault(by, ([], now, then))[0].append(span)
        for chosen, now, then in found.values():
            yield Difference(source, target, ends[0].version, both, tuple(chosen), every, now, then)
