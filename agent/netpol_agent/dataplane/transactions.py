"""One transaction, or several where the kernel takes no message of that size.

As root of the machine iptables-nft sends a transaction of any size. An ordinary user's namespaces are bound to
net.core.wmem_max (about 200 KB), and a node's first ruleset is more. Then: new chains in order of reference, which
nothing leads to yet; then the changed chains and the hook; then the chains that go. A chain too long for one part
is filled in several, fewer allowances first, so that it is never more open than it will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from netpol_compiler.ruleset.changes import AppendRule, DeclareChain, DeleteChain, TableChange, chain_changes
from netpol_compiler.ruleset.render import change_text, table_text
from netpol_compiler.ruleset.rules import Rules, targets_of

TOO_LONG = "Message too long"


@dataclass(slots=True)
class SizeLimit:
    """Characters of one text at most, as learned so far; None: no limit met yet. Both families share one."""

    characters: int | None = None


def transactions(
    up: Mapping[str, Rules], down: Iterable[str], hook: Sequence[TableChange], existing: Iterable[str], limit: int | None
) -> list[list[TableChange]]:
    """What to submit one after the other; all at once when its text is within `limit` (characters; None: no limit).
    Empty when nothing is to do."""
    whole = chain_changes(up, down, hook)
    if limit is None or len(table_text(whole)) <= limit:
        return [whole] if whole else []
    there = set(existing)
    fresh = {name: rules for name, rules in up.items() if name not in there}
    changed = {name: rules for name, rules in up.items() if name in there}
    parts = _packed(_filled(fresh), limit)
    # What is in force already changes in one step wherever that fits.
    parts += _packed([*_filled(changed), *hook], limit)
    gone = sorted(down)
    parts += _packed([DeclareChain(name) for name in gone], limit)
    return parts + _packed([DeleteChain(name) for name in gone], limit)


def _filled(chains: Mapping[str, Rules]) -> Iterator[TableChange]:
    for name in in_order_of_reference(chains):
        yield DeclareChain(name)
        yield from (AppendRule(name, rule) for rule in chains[name])


def _packed(changes: Iterable[TableChange], limit: int) -> list[list[TableChange]]:
    parts: list[list[TableChange]] = []
    size = 0
    for change in changes:
        length = len(change_text(change))
        if not parts or size + length > limit:
            parts.append([])
            size = 0
        parts[-1].append(change)
        size += length + 1
    return parts


def in_order_of_reference(chains: Mapping[str, Rules]) -> list[str]:
    """Names such that a chain comes after all that it leads to."""
    ordered: dict[str, None] = {}
    for root in sorted(chains):
        stack = [(root, False)]
        while stack:
            name, ready = stack.pop()
            if ready:
                ordered[name] = None
            elif name in chains and name not in ordered:
                stack.append((name, True))
                stack += [(t, False) for t in sorted(targets_of(chains[name]), reverse=True)]
    return list(ordered)
