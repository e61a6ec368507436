"""A set's members in slices of bounded size, in which a member stays where it is: one pod's change rewrites one slice.

In: the members now. Out: which slices changed. A new member goes where there is room first; nothing moves, whatever goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

SLICE_SIZE = 1000
"""Members in one slice at most."""

M = TypeVar("M")


def slice_name(set_name: str, index: int) -> str:
    """The name of one slice of a set, for objects and files."""
    return f"{set_name}.{index}"


def set_of_slice(name: str) -> str:
    """The set that a slice of this name belongs to; empty when it is no slice's name."""
    return name.rpartition(".")[0]


class Slices(Generic[M]):
    """The slices of one set; at least one, which may be empty."""

    def __init__(self) -> None:
        self.parts: list[set[M]] = [set()]
        self._places: dict[M, int] = {}

    def mirror(self, index: int, members: Iterable[M]) -> None:
        """Take over slice `index` as somebody else has published it."""
        while len(self.parts) <= index:
            self.parts.append(set())
        new = set(members)
        for member in self.parts[index] - new:
            del self._places[member]
        for member in new - self.parts[index]:
            old = self._places.get(member)
            if old is not None:
                self.parts[old].discard(member)
            self._places[member] = index
        self.parts[index] = new

    def update(self, members: frozenset[M] | set[M]) -> set[int]:
        """Hold exactly `members`; returns the slices that changed, those that are new among them. Their number is len(parts)."""
        changed: set[int] = set()
        for member in self._places.keys() - members:
            index = self._places.pop(member)
            self.parts[index].discard(member)
            changed.add(index)
        free = 0
        # In order, so that equal histories give equal slices in every process.
        for member in sorted(members - self._places.keys()):  # type: ignore[type-var]  # members are NamedTuples, or text
            while free < len(self.parts) and len(self.parts[free]) >= SLICE_SIZE:
                free += 1
            if free == len(self.parts):
                self.parts.append(set())
            self._places[member] = free
            self.parts[free].add(member)
            changed.add(free)
        while len(self.parts) > 1 and not self.parts[-1]:
            self.parts.pop()
        return {index for index in changed if index < len(self.parts)}
