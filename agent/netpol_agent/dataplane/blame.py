"""Which line spoiled an iptables transaction: from the program's words, or by trying.

nft names the line; legacy names only COMMIT when it is the kernel that refuses. Then the rules are tried in a chain
of their own that nothing leads to, half of them at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from netpol_agent.dataplane.runner import Done
from netpol_compiler.ruleset.values import CHAIN_PREFIX, Rules

TRIAL_CHAIN = f"{CHAIN_PREFIX}trial"
TRIALS = 400
"""Processes at most that one search may start."""

_LINE = re.compile(r"\bline:? (\d+)")
_SET = re.compile(r"--match-set (\S+)")
_OUR_TARGET = re.compile(rf"-[jg] {CHAIN_PREFIX}\S+")


def sets_of(rules: Iterable[str]) -> frozenset[str]:
    """Names of the sets that rules match on."""
    return frozenset(name for rule in rules for name in _SET.findall(rule))


def line_of_error(err: str, text: str) -> str:
    """The line of `text` that `err` complains about; empty when it names none."""
    match, lines = _LINE.search(err), text.splitlines()
    return lines[int(match[1]) - 1] if match and 1 <= int(match[1]) <= len(lines) else ""


def find_bad_chains(chains: Mapping[str, Rules], submit: Callable[[str], Done]) -> dict[str, str]:
    """The chains of which the kernel refuses a rule, with that rule. Leaves nothing behind."""
    by_rule: dict[str, list[str]] = {}
    for name, rules in chains.items():
        for rule in rules:
            by_rule.setdefault(rule, []).append(name)
    budget = [TRIALS]
    bad = _search(list(by_rule), submit, budget)
    return {name: rule for rule in bad for name in by_rule[rule]}


def _search(rules: Sequence[str], submit: Callable[[str], Done], budget: list[int]) -> list[str]:
    if not rules or budget[0] <= 0 or _accepted(rules, submit, budget):
        return []
    if len(rules) == 1:
        return list(rules)
    middle = len(rules) // 2
    return _search(rules[:middle], submit, budget) + _search(rules[middle:], submit, budget)


def _accepted(rules: Sequence[str], submit: Callable[[str], Done], budget: list[int]) -> bool:
    budget[0] -= 1
    # Where a rule leads does not matter here, and that chain may not exist yet.
    tried = [f"-A {TRIAL_CHAIN} {_OUR_TARGET.sub('-j RETURN', rule)}" for rule in rules]
    done = submit("\n".join(["*filter", f":{TRIAL_CHAIN} - [0:0]", *tried, "COMMIT", ""]))
    if done.ok:
        submit(f"*filter\n:{TRIAL_CHAIN} - [0:0]\n-X {TRIAL_CHAIN}\nCOMMIT\n")
    return done.ok
