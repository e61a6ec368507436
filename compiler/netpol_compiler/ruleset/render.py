"""Text for `iptables-restore --noflush` and `ipset restore`, from a ruleset or from parts of one.

The order that makes a change safe is the agent's: sets up, members added, chains, members removed, sets down.
Each function here renders one of those steps. Rules are written as iptables-save prints them (addresses before the protocol,
prefix lengths always there), so that text that was written and text that is read back are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.changes import (
    AddMember,
    AppendRule,
    DeclareChain,
    DeleteChain,
    DeleteMember,
    DestroySet,
    InsertRule,
    RemoveRule,
    SetChange,
    TableChange,
    add_members,
    chain_changes,
    create_set,
)
from netpol_compiler.ruleset.rules import (
    EVERY_PORT,
    AddressMatch,
    ConntrackMatch,
    End,
    Goto,
    Icmp6Match,
    Jump,
    LimitMatch,
    Log,
    MarkMatch,
    PortMatch,
    Rule,
    SetMark,
    SetMatch,
    TcpFlagsMatch,
    UnknownRule,
    Verdict,
)
from netpol_compiler.ruleset.values import Ruleset

MAXELEM = 1048576
"""maxelem of every set: the default of 65,536 has stopped other controllers in the field."""


# -- rules -------------------------------------------------------------------------------------------


def rule_text(rule: Rule) -> str:
    """One rule without its `-A CHAIN`: `-p tcp -m tcp --dport 80 -g npc-allow`."""
    if isinstance(rule, UnknownRule):
        return rule.text
    words = [_WRITE[type(match)](match) for match in rule.matches]
    if rule.comment:
        words.append(f'-m comment --comment "{rule.comment}"')
    words.append(_WRITE[type(rule.action)](rule.action))
    return " ".join(words)


def _address(match: AddressMatch) -> str:
    return f"{'-s' if match.end is End.SOURCE else '-d'} {match.network.text}"


def _ports(match: PortMatch) -> str:
    name, ranges = match.protocol.value.lower(), match.ranges
    if ranges == EVERY_PORT:
        return f"-p {name}"
    if len(ranges) == 1:
        return f"-p {name} -m {name} --dport {_port_range(*ranges[0])}"
    return f"-p {name} -m multiport --dports {','.join(_port_range(*r) for r in ranges)}"


def _port_range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}:{last}"


def _tcp_flags(match: TcpFlagsMatch) -> str:
    return f"-p tcp -m tcp {'! ' * match.negated}--tcp-flags {','.join(match.mask)} {','.join(match.flags)}"


_WRITE: Mapping[type, Callable[[Any], str]] = {
    AddressMatch: _address,
    ConntrackMatch: lambda m: f"-m conntrack --ctstate {','.join(m.states)}",
    PortMatch: _ports,
    TcpFlagsMatch: _tcp_flags,
    Icmp6Match: lambda m: f"-p ipv6-icmp -m icmp6 --icmpv6-type {m.type}",
    SetMatch: lambda m: f"-m set --match-set {m.name} {','.join(end.value for end in m.ends)}",
    MarkMatch: lambda m: f"-m mark --mark {m.value:#x}/{m.mask:#x}",
    LimitMatch: lambda m: f"-m limit --limit {m.per_second}/sec --limit-burst {m.burst}",
    Verdict: lambda a: f"-j {a.value}",
    Jump: lambda a: f"-j {a.chain}",
    Goto: lambda a: f"-g {a.chain}",
    SetMark: lambda a: f"-j MARK --set-xmark {a.value:#x}/{a.mask:#x}",
    Log: lambda a: f'-j NFLOG --nflog-prefix "{a.prefix}" --nflog-group {a.group}',
}


# -- chains ------------------------------------------------------------------------------------------


def change_text(change: TableChange) -> str:
    """The line of one change."""
    match change:
        case AppendRule(chain, rule):
            return f"-A {chain} {rule_text(rule)}"
        case DeclareChain(chain):
            return f":{chain} - [0:0]"
        case DeleteChain(chain):
            return f"-X {chain}"
        case InsertRule(chain, rule):
            return f"-I {chain} 1 {rule_text(rule)}"
        case RemoveRule(chain, rule):
            return f"-D {chain} {rule_text(rule)}"


def table_text(changes: Iterable[TableChange]) -> str:
    """One `*filter` transaction, of which change n is line n + 2; empty text when there is nothing to do."""
    lines = [change_text(change) for change in changes]
    return "\n".join(["*filter", *lines, "COMMIT", ""]) if lines else ""


def full_iptables_text(ruleset: Ruleset, family: Family, hook: Iterable[TableChange] = ()) -> str:
    """The whole `iptables-restore --noflush` text of one family; `hook` comes last."""
    return table_text(chain_changes(ruleset.chains.get(family, {}), hook=hook))


# -- sets --------------------------------------------------------------------------------------------


def set_change_text(change: SetChange) -> str:
    """The line of one change, repeatable (-exist) where that is possible."""
    if isinstance(change, AddMember):  # first, and no `match`: a node has a hundred thousand of these
        return f"add {change.name} {change.member} -exist"
    if isinstance(change, DeleteMember):
        return f"del {change.name} {change.member} -exist"
    if isinstance(change, DestroySet):
        return f"destroy {change.name}"
    family = "inet" if change.family is Family.V4 else "inet6"
    return f"create {change.name} {change.type} family {family} maxelem {MAXELEM} -exist"


def sets_text(changes: Iterable[SetChange]) -> str:
    """`ipset restore` text, of which change n is line n + 1."""
    return "".join(f"{set_change_text(change)}\n" for change in changes)


def full_ipset_text(ruleset: Ruleset) -> str:
    """The whole `ipset restore` text of a ruleset, both families."""
    ordered = [ruleset.sets[name] for name in sorted(ruleset.sets)]
    changes: list[SetChange] = []
    for ipset in ordered:
        changes += [create_set(ipset), *add_members(ipset.name, ipset.members)]
    return sets_text(changes)
