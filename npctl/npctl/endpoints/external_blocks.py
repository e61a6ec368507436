"""The addresses that are nobody's pod, cut into parts that no ipBlock at hand tells apart: one address speaks for each part.

In: the blocks that rules name, the blocks that pods get their addresses from, the pods' addresses. Out: `Part`s.
Blocks lie inside each other or apart, so a part is a block without the blocks inside of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from netpol_compiler.model.addresses import Address, Network
from netpol_compiler.model.kinds import Family


class Part(NamedTuple):
    """`label` for people; `address` is one of the part."""

    label: str
    address: Address


@dataclass(slots=True)
class _Node:
    network: Network
    children: list[_Node] = field(default_factory=list)


def parts(
    blocks: Iterable[Network], homes: Iterable[Network], taken: Iterable[Address], families: Iterable[Family]
) -> list[Part]:
    """One part for each block that has an address outside of `homes` (the pods' blocks) and `taken`, and one for the rest."""
    families = sorted(set(families))
    homes, taken = list(homes), sorted(set(taken))
    found: list[Part] = []
    for family in families:
        root = Network(int(family), 0, 0)
        mine = {b for b in blocks if b.version == int(family)} | {root}
        holes = [(n.value, n.last) for n in homes if n.version == int(family)]
        holes += [(a.value, a.value) for a in taken if a.version == int(family)]
        suffix = f", IPv{int(family)}" if len(families) > 1 else ""
        for node in _walk(_tree(mine)):
            address = _free(node, holes)
            if address is not None:
                found.append(Part(_label(node, root, len(mine) == 1) + suffix, address))
    return found


def _tree(networks: Iterable[Network]) -> _Node:
    """By the order of (first address, length), a block comes right after those that hold it."""
    ordered = sorted(networks, key=lambda n: (n.value, n.prefix))
    stack = [_Node(ordered[0])]
    root = stack[0]
    for network in ordered[1:]:
        while not stack[-1].network.covers(network):
            stack.pop()
        node = _Node(network)
        stack[-1].children.append(node)
        stack.append(node)
    return root


def _walk(node: _Node) -> Iterator[_Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _free(node: _Node, holes: Iterable[tuple[int, int]]) -> Address | None:
    """An address of the block that is in no block inside of it and no hole; None when there is none."""
    network = node.network
    first, last = network.value, network.last
    if network.prefix == 0:
        first += (1 << (network.family.bits - 8)) + 1  # 0.0.0.0/8 is nobody's
    elif last - first > 1:
        first += 1
    inside = [(c.network.value, c.network.last) for c in node.children]
    for low, high in sorted([*inside, *(h for h in holes if h[1] >= first and h[0] <= last)]):
        if low > first:
            break
        first = max(first, high + 1)
    return Address(network.version, first) if first <= last else None


def _label(node: _Node, root: Network, alone: bool) -> str:
    if node.network == root:
        return "anywhere outside" if alone else "anywhere else outside"
    return f"the rest of {node.network}" if node.children else str(node.network)
