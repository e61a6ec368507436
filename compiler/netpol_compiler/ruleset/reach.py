"""Which chains lead where, and which sets their rules match: of compiled chains, and of chains that were read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netpol_compiler.ruleset.rules import Rules, sets_of, targets_of


def reachable(chains: Mapping[str, Rules], roots: Iterable[str]) -> list[str]:
    """Those of `chains` that `roots` lead to, themselves included, each once, in the order in which a packet may meet them."""
    found: dict[str, None] = {}
    waiting = [r for r in roots if r in chains]
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found[name] = None
            waiting += [rule.target for rule in chains[name] if rule.target in chains]
    return list(found)


def leading_to(chains: Mapping[str, Rules], goals: Iterable[str]) -> set[str]:
    """The chains from which one of `goals` is reached, the goals left out."""
    into: dict[str, set[str]] = {}
    for name, rules in chains.items():
        for target in targets_of(rules):
            into.setdefault(target, set()).add(name)
    goal_names, found = set(goals), set[str]()
    waiting = list(goal_names)
    while waiting:
        for name in into.get(waiting.pop(), ()):
            if name not in found and name not in goal_names:
                found.add(name)
                waiting.append(name)
    return found


def matched_sets(chains: Mapping[str, Rules], names: Iterable[str]) -> set[str]:
    """The sets that the rules of some chains match."""
    return set().union(*(sets_of(chains.get(name, ())) for name in names))
