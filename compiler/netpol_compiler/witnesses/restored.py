"""A ruleset as the restore programs are fed it, and that text read back for the simulator.

In: a `Ruleset`. Out: `NodeText` (what `npctl compile` prints and an agent writes from nothing), and from it `ReadBack` (what
a packet is walked through). The only place that knows both rendering and the simulator, which know nothing of each
other. Excluded: how a ruleset is made (`lower`), and differences of two (`render`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Connection
from netpol_compiler.ruleset.changes import InsertRule
from netpol_compiler.ruleset.render import full_ipset_text, full_iptables_text
from netpol_compiler.ruleset.values import HOOK_PARENT, HOOK_RULE, Ruleset
from netpol_compiler.simulate import (
    Sets,
    Tables,
    check_sets,
    first_packet,
    parse_ipset_restore,
    parse_iptables_restore,
    walk,
)


@dataclass(frozen=True, slots=True)
class NodeText:
    """One node's whole state: `ipset restore` text, and `iptables-restore --noflush` text of each family."""

    ipset: str
    iptables: Mapping[Family, str]

    def line(self, family: Family, number: int) -> str:
        """The 1-based line of one family's text, as an error or a `Step` of the simulator names it; empty for 0."""
        return self.iptables[family].splitlines()[number - 1] if number else ""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """The same, parsed: the filter table of each family, and the sets."""

    tables: Mapping[Family, Tables]
    sets: Sets

    def passes(self, connection: Connection) -> bool:
        """Whether the node forwards the connection's first packet. Raises SimulateError."""
        return walk(self.tables[connection.source.family], self.sets, first_packet(connection)).accepted


def node_text(ruleset: Ruleset) -> NodeText:
    """The text of a node whose tables are empty, with the hook."""
    hook = (InsertRule(HOOK_PARENT, HOOK_RULE),)
    texts = {family: full_iptables_text(ruleset, family, hook) for family in sorted(ruleset.chains)}
    return NodeText(full_ipset_text(ruleset), texts)


def read_back(text: NodeText) -> ReadBack:
    """Parse it. Raises SimulateError, with the line, for what is not known or would be refused: also a set that is missing."""
    sets = parse_ipset_restore(text.ipset)
    tables = {family: parse_iptables_restore(each, family=family) for family, each in text.iptables.items()}
    for each in tables.values():
        check_sets(each, sets)
    return ReadBack(tables, sets)
