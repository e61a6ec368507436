"""One transaction, or several where the kernel takes no message of that size.

As root of the machine iptables-nft sends a transaction of any size. An ordinary user's namespaces are bound to
net.core.wmem_max (about 200 KB), and a node's first ruleset is more. Then: new chains in order of reference, which
nothing leads to yet; then the changed chains and the hook; then the chains that go. A chain too long for one part
is filled in several, fewer allowances first, so that it is never more open than it will be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from netpol_compiler.ruleset.render import chains_transaction
from netpol_compiler.ruleset.values import Rules

TOO_LONG = "Message too long"

_TARGET = re.compile(r"(?:^| )-[jg] (\S+)")


@dataclass(slots=True)
class SizeLimit:
    """Characters of one text at most, as learned so far; None: no limit met yet. Both families share one."""

    characters: int | None = None


def targets_of(rules: Iterable[str]) -> set[str]:
    """Where rules lead."""
    return {target for rule in rules for target in _TARGET.findall(rule)}


def transactions(
    up: Mapping[str, Rules], down: Iterable[str], hook: Sequence[str], existing: Iterable[str], limit: int | None
) -> list[str]:
    """The texts to submit one after the other; one text when it is within `limit` (characters; None: no limit).
    Empty when nothing is to do."""
    text = chains_transaction(up, down, hook)
    if limit is None or len(text) <= limit:
        return [text] if text else []
    there = set(existing)
    fresh = {name: rules for name, rules in up.items() if name not in there}
    changed = {name: rules for name, rules in up.items() if name in there}
    texts = _packed(_lines(fresh), limit)
    # What is in force already changes in one step wherever that fits.
    texts += _packed([*_lines(changed), *hook], limit)
    gone = sorted(down)
    texts += _packed([f":{name} - [0:0]" for name in gone], limit)
    return texts + _packed([f"-X {name}" for name in gone], limit)


def _lines(chains: Mapping[str, Rules]) -> Iterator[str]:
    for name in in_order_of_reference(chains):
        yield f":{name} - [0:0]"
        yield from (f"-A {name} {rule}" for rule in chains[name])


def _packed(lines: Iterable[str], limit: int) -> list[str]:
    texts: list[str] = []
    part: list[str] = []
    size = 0
    for line in lines:
        if part and size + len(line) > limit:
            texts.append(_transaction(part))
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    return [*texts, _transaction(part)] if part else texts


def _transaction(lines: Sequence[str]) -> str:
    return "\n".join(["*filter", *lines, "COMMIT", ""])


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
