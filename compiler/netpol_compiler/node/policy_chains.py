"""The body: what all policies of one bundle allow together, for one direction and family.

    body            peers that may use every port; egress endpoints; then one part per protocol
    part, small     `-p tcp --dport 8080 <peers> -g npc-allow`, one rule per peer (at most FEW) or one union set
    part, large     a tree over port ranges, LEVELS deep at most, so that the cost grows with its logarithm

Pods with the same bundle share one body. A body allows by going to npc-allow, which marks; a packet that comes
back unmarked is refused by the pod's own chain. Provenance is in the comments.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from netpol_compiler.model.kinds import PROTOCOLS, Direction, Family, Protocol
from netpol_compiler.model.objects import NamedPort
from netpol_compiler.node.peers import ANY, Atom, BlockAtom, SetAtom, block_set, kernel_set_name, rule_atoms
from netpol_compiler.node.ports import Allowance, Group, group_ports
from netpol_compiler.policy.ir import CompiledPolicy, CompiledRule
from netpol_compiler.policy.names import chain_name, set_name
from netpol_compiler.ruleset.rules import (
    MAX_COMMENT,
    ChainRule,
    Goto,
    Match,
    PortMatch,
    Rules,
    chunks,
    clean_comment,
    endpoint_set,
    peer_address,
    peer_set,
    rule,
)
from netpol_compiler.ruleset.values import ALLOW_CHAIN, IPSet

FEW = 3
"""Peers of a group that are tested one by one; more are merged into one union set."""

LINEAR = 8
"""Rules of a protocol that are tried in turn; more are found by a tree over ports."""

FAN = 4
"""Children of a tree's chain, as long as LEVELS suffice."""

LEVELS = 5
"""Chains on a path through a port tree at most; see `dispatch` for why there is a limit."""

_ALLOW = Goto(ALLOW_CHAIN)

Way = tuple[Match | None, str]
"""A peer's match and the comment: what a rule that allows a group has beside its ports. A group has as few as its peers need, and
they are made once, however many ranges of ports it has."""

Numbers = Mapping[NamedPort, tuple[int, ...]]
"""What each named port means on the selected pods of this bundle."""


@dataclass(slots=True)
class LoweredBody:
    """`chains`: the body and its parts. `unions`: union set name -> atoms. `blocks`: sets of ipBlocks with exceptions.
    `uses`: the IR sets whose kernel sets the chains name."""

    chains: dict[str, Rules] = field(default_factory=dict)
    unions: dict[str, frozenset[Atom]] = field(default_factory=dict)
    blocks: dict[str, IPSet] = field(default_factory=dict)
    uses: set[SetAtom] = field(default_factory=set)


def lower_body(
    name: str, direction: Direction, family: Family, policies: Sequence[CompiledPolicy], numbers: Numbers
) -> LoweredBody:
    """Lower a bundle. `name` is the body's chain name (stable while the bundle has the same policies)."""
    return _BodyBuilder(name, direction, family, numbers).build(policies)


class _BodyBuilder:
    def __init__(self, name: str, direction: Direction, family: Family, numbers: Numbers) -> None:
        self._name = name
        self._direction = direction
        self._family = family
        self._numbers = numbers
        self._out = LoweredBody()

    def build(self, policies: Sequence[CompiledPolicy]) -> LoweredBody:
        rules = [(policy, rule) for policy in policies for rule in policy.rules_of(self._direction)]
        everywhere, whys = self._every_port(rules)
        allowing = _allow(None, self._ways(everywhere, whys, ["any"]))
        if ANY not in everywhere:
            allowing += self._endpoints(rules)
            for protocol in PROTOCOLS:
                allowing += self._protocol(protocol, group_ports(self._allowances(protocol, rules), everywhere))
        self._out.chains[self._name] = tuple(allowing)
        return self._out

    def _every_port(self, rules: Iterable[tuple[CompiledPolicy, CompiledRule]]) -> tuple[frozenset[Atom], list[str]]:
        """The peers of rules without ports: they may use every port and every protocol (SEMANTICS 3, 13)."""
        atoms: set[Atom] = set()
        whys: list[str] = []
        for policy, each in rules:
            peers = rule_atoms(each, self._family) if each.ports is None else frozenset()
            if peers:
                atoms |= peers
                whys.append(why(policy, each))
        return (frozenset({ANY}) if ANY in atoms else frozenset(atoms)), whys

    def _allowances(self, protocol: Protocol, rules: Iterable[tuple[CompiledPolicy, CompiledRule]]) -> list[Allowance]:
        found = []
        for policy, each in rules:
            ranges = [(p.first, p.last) for p in each.ports or () if p.protocol is protocol]
            ranges += [(n, n) for named in each.named_ports if named.protocol is protocol for n in self._numbers.get(named, ())]
            peers = rule_atoms(each, self._family) if ranges else frozenset()
            if peers:
                found += [Allowance(first, last, peers, why(policy, each)) for first, last in ranges]
        return found

    def _endpoints(self, rules: Iterable[tuple[CompiledPolicy, CompiledRule]]) -> list[ChainRule]:
        """Named ports of egress rules: sets of (address, protocol, port)."""
        atoms: set[SetAtom] = set()
        whys: dict[str, None] = {}
        for policy, each in rules:
            if each.endpoints:
                atoms |= {SetAtom(name, ip_port=True) for name in each.endpoints}
                whys[why(policy, each)] = None
        return _allow(None, self._ways(frozenset(atoms), list(whys), ["endpoints"]))

    # -- one protocol ----------------------------------------------------------------------------------

    def _protocol(self, protocol: Protocol, groups: Sequence[Group]) -> list[ChainRule]:
        # A union set is named by its place, not by its atoms: a peer that joins is one added member.
        ways = [(g.ranges, self._ways(g.peers, g.whys, [protocol.value, [list(r) for r in g.ranges]])) for g in groups]
        rules = [each for ranges, way in ways for part in chunks(ranges) for each in _allow(PortMatch(protocol, part), way)]
        if len(rules) <= LINEAR:
            return rules
        segments = sorted((first, last, way) for ranges, way in ways for first, last in ranges)
        fan = next(fan for fan in itertools.count(FAN) if fan**LEVELS >= len(segments))
        return [rule(PortMatch(protocol), action=Goto(self._tree(protocol, segments, fan)))]

    def _tree(self, protocol: Protocol, segments: Sequence[tuple[int, int, Sequence[Way]]], fan: int) -> str:
        """A chain that finds the segment of a port; returns its name."""
        first, last = segments[0][0], segments[-1][1]
        name = chain_name("pt", protocol.value, [self._name, protocol.value, first, last])
        rules: list[ChainRule] = []
        if len(segments) <= fan:
            for low, high, ways in segments:
                rules += _allow(PortMatch(protocol, ((low, high),)), ways)
        else:
            step = -(-len(segments) // fan)
            for start in range(0, len(segments), step):
                part = segments[start : start + step]
                match = PortMatch(protocol, ((part[0][0], part[-1][1]),))
                rules.append(rule(match, action=Goto(self._tree(protocol, part, fan))))
        self._out.chains[name] = tuple(rules)
        return name

    # -- peers -----------------------------------------------------------------------------------------

    def _ways(self, atoms: frozenset[Atom], whys: Sequence[str], group: list[object]) -> list[Way]:
        """How to allow `atoms`; `group` names the union set, if there must be one."""
        note = clean_comment(summary(whys))
        return [(peer, note) for peer in self._peers(atoms, group)]

    def _peers(self, atoms: frozenset[Atom], group: list[object]) -> list[Match | None]:
        if ANY in atoms:
            return [None]
        if len(atoms) <= FEW:
            return [self._peer(a) for a in sorted(atoms, key=lambda a: (type(a).__name__, a))]
        ip_port = any(isinstance(a, SetAtom) and a.ip_port for a in atoms)
        name = set_name(self._family, ip_port, "union", ["union", self._name, group])
        self._out.unions[name] = atoms
        return [endpoint_set(name) if ip_port else peer_set(self._direction, name)]

    def _peer(self, atom: Atom) -> Match | None:
        if isinstance(atom, SetAtom):
            self._out.uses.add(atom)
            name = kernel_set_name(atom.name, atom.ip_port, self._family)
            return endpoint_set(name) if atom.ip_port else peer_set(self._direction, name)
        if isinstance(atom, BlockAtom):
            if not atom.block.exceptions:
                return peer_address(self._direction, atom.block.cidr)
            ipset = block_set(atom.block)
            self._out.blocks[ipset.name] = ipset
            return peer_set(self._direction, ipset.name)
        return None


def _allow(match: Match | None, ways: Iterable[Way]) -> list[ChainRule]:
    """Rules that allow in these ways where `match` holds."""
    return [rule(match, peer, action=_ALLOW, comment=note) for peer, note in ways]


def why(policy: CompiledPolicy, rule: CompiledRule) -> str:
    """A rule's provenance as comments carry it: `python/tomcat-access ingress[0]`."""
    return f"{policy.key} {rule.direction.value}[{rule.index}]"


def summary(whys: Sequence[str]) -> str:
    """The provenance of several rules, cut where a comment ends, with the number of those left out."""
    text_, shown = "", 0
    for item in dict.fromkeys(whys):
        longer = f"{text_}, {item}" if text_ else item
        if shown and len(longer) > MAX_COMMENT - 16:
            return f"{text_}, +{len(whys) - shown} more"
        text_, shown = longer, shown + 1
    return text_
