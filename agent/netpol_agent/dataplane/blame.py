"""Which change spoiled an iptables transaction: from the program's words, or by trying.

nft names the line; legacy names only COMMIT when it is the kernel that refuses. Then the rules are tried in a chain
of their own that nothing leads to, half of them at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from netpol_agent.dataplane.runner import Done
from netpol_compiler.ruleset.changes import AppendRule, DeclareChain, DeleteChain, TableChange
from netpol_compiler.ruleset.rules import ChainRule, Rule, Rules, Verdict
from netpol_compiler.ruleset.values import CHAIN_PREFIX

TRIAL_CHAIN = f"{CHAIN_PREFIX}trial"
TRIALS = 400
"""Processes at most that one search may start."""

_LINE = re.compile(r"\bline:? (\d+)")

Submit = Callable[[Sequence[TableChange]], Done]


def change_of_error(err: str, changes: Sequence[TableChange]) -> TableChange | None:
    """The change whose line `err` complains about; None when it names none of them. The first is on line 2."""
    match = _LINE.search(err)
    place = int(match[1]) - 2 if match else -1
    return changes[place] if 0 <= place < len(changes) else None


def find_bad_chains(chains: Mapping[str, Rules], submit: Submit) -> dict[str, Rule]:
    """The chains of which the kernel refuses a rule, with that rule. Leaves nothing behind."""
    by_rule: dict[Rule, list[str]] = {}
    for name, rules in chains.items():
        for rule in rules:
            by_rule.setdefault(rule, []).append(name)
    budget = [TRIALS]
    bad = _search(list(by_rule), submit, budget)
    return {name: rule for rule in bad for name in by_rule[rule]}


def _search(rules: Sequence[Rule], submit: Submit, budget: list[int]) -> list[Rule]:
    if not rules or budget[0] <= 0 or _accepted(rules, submit, budget):
        return []
    if len(rules) == 1:
        return list(rules)
    middle = len(rules) // 2
    return _search(rules[:middle], submit, budget) + _search(rules[middle:], submit, budget)


def _accepted(rules: Sequence[Rule], submit: Submit, budget: list[int]) -> bool:
    budget[0] -= 1
    done = submit([DeclareChain(TRIAL_CHAIN), *(AppendRule(TRIAL_CHAIN, _leading_nowhere(rule)) for rule in rules)])
    if done.ok:
        submit([DeclareChain(TRIAL_CHAIN), DeleteChain(TRIAL_CHAIN)])
    return done.ok


def _leading_nowhere(rule: Rule) -> Rule:
    """Where a rule leads does not matter here, and that chain may not exist yet."""
    return replace(rule, action=Verdict.RETURN) if isinstance(rule, ChainRule) and rule.target else rule
