"""A change of the filter table as values, in the order in which one transaction makes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netpol_compiler.ruleset.rules import Rule, Rules


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
