"""The kernel's ipsets: reading ours, writing changes, and finding the one change that spoils a batch.

In: changes. Out: what failed, change by change, after everything else was applied. Excluded: what to write and in
which order (`dataplane`). Only names with our prefixes are ever read or written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from netpol_agent.dataplane.runner import Done, Runner
from netpol_agent.errors import KernelError
from netpol_agent.netlink.ipset import KernelSets
from netpol_compiler.model.kinds import FAMILIES, Family
from netpol_compiler.ruleset.changes import AddMember, CreateSet, DeleteMember, DestroySet, SetChange
from netpol_compiler.ruleset.render import sets_text
from netpol_compiler.ruleset.values import IPSet, element, set_prefix

PREFIXES = tuple(set_prefix(f) for f in FAMILIES)
PATIENCE = 3
"""Refused members of one set after which its other new members are not tried any more (a full set refuses all)."""

_ERROR_LINE = re.compile(r"Error in line (\d+): *(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SetFailure:
    """A change that the kernel refused, or that was not tried because its set is refused."""

    change: SetChange
    error: str

    @property
    def busy(self) -> bool:
        """Whether a rule that is about to go still holds the set."""
        return isinstance(self.change, DestroySet) and "in use" in self.error


def parse_save(text: str) -> dict[str, IPSet]:
    """Our sets in what `ipset save` printed. Raises KernelError when a line is cut off."""
    found: dict[str, tuple[str, Family, set[str]]] = {}
    for line in text.splitlines():
        verb, _, rest = line.partition(" ")
        name, _, rest = rest.partition(" ")
        if not name.startswith(PREFIXES):
            continue
        if verb == "create":
            kind, *options = rest.split() or [""]
            if not kind:
                raise KernelError(f"ipset save printed a set without its type: {line}")
            found[name] = (kind, Family.V6 if "inet6" in options else Family.V4, set())
        elif verb == "add" and name in found:
            found[name][2].add(rest)
    return {name: IPSet(name, kind, family, frozenset(members)) for name, (kind, family, members) in found.items()}


def member_changes(old: frozenset[str], new: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Members to add before the chains change, and to remove after. `X` and `X nomatch` are one element of the
    kernel's: adding one replaces the other, so nothing is left to remove."""
    added, removed = new - old, old - new
    kept = set(map(element, new)) if removed else set()
    return added, frozenset(m for m in removed if element(m) not in kept)


class IPSets:
    """Reads and writes our sets. `kernel`: what is plain goes there directly, without the program."""

    def __init__(self, program: str, run: Runner, kernel: KernelSets | None = None) -> None:
        self._program = program
        self._run = run
        self._kernel = kernel

    def read(self) -> dict[str, IPSet]:
        """All sets of ours. Raises KernelError."""
        return parse_save(self.save())

    def save(self) -> str:
        """All sets of the node, as ipset prints them. Raises KernelError."""
        done = self._run([self._program, "save"])
        if not done.ok:
            raise KernelError(f"ipset save: {done.words}")
        return done.out

    def write(self, changes: Sequence[SetChange]) -> list[SetFailure]:
        """Make `changes`. Raises KernelError when it is not the changes that are at fault.

        A refused one stops ipset, and it may not even have made those before it; so the rest is run again.
        """
        remaining, failures = list(changes), list[SetFailure]()
        if self._kernel is not None:
            remaining = remaining[self._kernel.apply(remaining) :]
        created = [change for change in remaining if isinstance(change, CreateSet)]
        refused: Counter[str] = Counter()
        while remaining:
            done = self._submit(remaining)
            if done.ok:
                break
            index, error = self._culprit(done, remaining)
            change = remaining[index]
            failures.append(SetFailure(change, error))
            # What stands before a DestroySet was made, and one that went well cannot be repeated.
            remaining = remaining[index + 1 :] if _once(remaining[:index]) else remaining[:index] + remaining[index + 1 :]
            refused[change.name] += 1
            if isinstance(change, CreateSet) or refused[change.name] >= PATIENCE:
                given_up = [other for other in remaining if other.name == change.name]
                remaining = [other for other in remaining if other.name != change.name]
                failures += [SetFailure(other, f"not tried: {error}") for other in given_up]
        self._learn(created)
        return failures

    def _learn(self, created: Sequence[CreateSet]) -> None:
        """From sets that the program has made the kernel's part learns to make others."""
        for change in created if self._kernel is not None else ():
            if self._kernel is not None and not self._kernel.knows(change.type, change.family):
                self._kernel.learn(change.name)

    def _submit(self, changes: Sequence[SetChange]) -> Done:
        return self._run([self._program, "restore"], sets_text(changes))

    def _culprit(self, done: Done, changes: Sequence[SetChange]) -> tuple[int, str]:
        match = _ERROR_LINE.search(done.err)
        if match and 1 <= int(match[1]) <= len(changes):
            return int(match[1]) - 1, " ".join(match[2].split())
        if done.code < 0 or _once(changes):
            raise KernelError(f"ipset restore: {done.words}")
        return self._bisect(changes), done.words

    def _bisect(self, changes: Sequence[SetChange]) -> int:
        """Index of the change without which what stands before it succeeds. Changes are repeatable, so trying is safe."""
        low, high = 0, len(changes)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._submit(changes[:middle]).ok else (low, middle)
        return low


def failed_members(failures: Iterable[SetFailure]) -> set[tuple[str, str]]:
    """(set, member) of the members among `failures` that could not be added or deleted."""
    return {(f.change.name, f.change.member) for f in failures if isinstance(f.change, AddMember | DeleteMember)}


def _once(changes: Iterable[SetChange]) -> bool:
    """Whether one of `changes` cannot be repeated. Every DestroySet comes after all other changes of its batch."""
    return any(isinstance(change, DestroySet) for change in changes)
