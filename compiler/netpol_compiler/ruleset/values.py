"""The desired state of one node's kernel: chains, hooks and sets.

Values only; `node` makes them, `render` turns them (or a difference of two) into iptables-restore and
ipset-restore text, the agent writes that text, `simulate` reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netpol_compiler.model.kinds import Direction, Family
from netpol_compiler.ruleset.rules import Jump, Rules, rule

CHAIN_PREFIX = "npc-"
"""Every chain of ours starts with this; nothing else is ever touched in the filter table."""

FORWARD_CHAIN = "npc-forward"
HOOK_PARENT = "FORWARD"
HOOK_RULE = rule(action=Jump(FORWARD_CHAIN))
"""The one rule outside our chains: it must be the first of FORWARD."""

ALLOW_CHAIN = "npc-allow"
"""Sets our mark: what policies allow goes there."""


def direction_chain(direction: Direction) -> str:
    """The root of a direction's dispatch tree."""
    return f"npc-{direction.value}"


def set_prefix(family: Family) -> str:
    """Every set of ours starts with `npc4-` or `npc6-`."""
    return f"npc{int(family)}-"


_NOMATCH = " nomatch"


def is_exception(member: str) -> bool:
    """Whether a member cuts from the blocks of its set."""
    return member.endswith(_NOMATCH)


def element(member: str) -> str:
    """What the kernel knows a member by: `X` and `X nomatch` are one element, and adding one replaces the other."""
    return member.removesuffix(_NOMATCH)


@dataclass(frozen=True, slots=True)
class IPSet:
    """One ipset. `type` is `hash:net` or `hash:ip,port`; family is in the name and here.

    Members are text exactly as `ipset save` prints them: `10.0.0.1`, `10.0.0.0/8`, `10.0.0.0/8 nomatch`,
    `10.0.0.1,tcp:80`, `fd00::1`. A full-length prefix is never written.
    """

    name: str
    type: str
    family: Family
    members: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ruleset:
    """One node's whole state. `chains[family][name]` are the rules of the filter table's chains.

    The hook (`HOOK_RULE` as first rule of `HOOK_PARENT`) belongs to every family that has chains.
    """

    chains: Mapping[Family, Mapping[str, Rules]] = field(default_factory=dict)
    sets: Mapping[str, IPSet] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Touched:
    """Names whose desired state may differ from the one before: what a sync has to look at."""

    chains: Mapping[Family, frozenset[str]] = field(default_factory=dict)
    sets: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.sets) or any(self.chains.values())
