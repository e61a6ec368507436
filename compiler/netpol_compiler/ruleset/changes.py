"""Changes of the filter table and of sets as values, in the order in which it is safe to make them.

`render` writes them for the restore programs; the agent's `netlink` says those of sets to the kernel itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.rules import Rule, Rules
from netpol_compiler.ruleset.values import IPSet, element, is_exception


@dataclass(frozen=True, slots=True)
class DeclareChain:
    """Make a chain, or empty it."""

    chain: str


@dataclass(frozen=True, slots=True)
class AppendRule:
    chain: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class InsertRule:
    """As the chain's first rule."""

    chain: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class RemoveRule:
    """The first rule that is equal: named by content, never by number, so that no rule that moved meanwhile can be hit."""

    chain: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class DeleteChain:
    chain: str


TableChange = DeclareChain | AppendRule | InsertRule | RemoveRule | DeleteChain


def chain_changes(up: Mapping[str, Rules], down: Iterable[str] = (), hook: Iterable[TableChange] = ()) -> list[TableChange]:
    """One transaction: `up` chains declared (which empties them) and filled, `hook` after them, `down` chains emptied and
    deleted last."""
    names, gone = sorted(up), sorted(down)
    changes: list[TableChange] = [DeclareChain(name) for name in (*names, *gone)]
    changes += [AppendRule(name, rule) for name in names for rule in up[name]]
    changes += hook
    changes += [DeleteChain(name) for name in gone]
    return changes


# -- sets --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateSet:
    """Make a set, unless it is there."""

    name: str
    type: str
    family: Family


@dataclass(frozen=True, slots=True)
class AddMember:
    """Put a member in, unless it is there."""

    name: str
    member: str


@dataclass(frozen=True, slots=True)
class DeleteMember:
    """Take a member out, if it is there."""

    name: str
    member: str


@dataclass(frozen=True, slots=True)
class DestroySet:
    name: str


SetChange = CreateSet | AddMember | DeleteMember | DestroySet
"""Every one but DestroySet can be repeated."""


def create_set(ipset: IPSet) -> CreateSet:
    return CreateSet(ipset.name, ipset.type, ipset.family)


def add_members(name: str, members: Iterable[str]) -> list[AddMember]:
    """Sorted. Exceptions first: a block must never be there without them, not even for a moment."""
    return [AddMember(name, m) for m in sorted(members, key=lambda m: (not is_exception(m), m))]


def delete_members(name: str, members: Iterable[str]) -> list[DeleteMember]:
    """Sorted. An exception goes last: until then the block it is cut from is closed there."""
    return [DeleteMember(name, element(m)) for m in sorted(members, key=lambda m: (is_exception(m), m))]
