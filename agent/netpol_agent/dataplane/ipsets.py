"""The kernel's ipsets: reading ours, writing lines, and finding the one line that spoils a batch.

In: restore lines. Out: what failed, line by line, after everything else was applied. Excluded: what to write and in
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
from netpol_compiler.ruleset.values import IPSet, set_prefix

PREFIXES = tuple(set_prefix(f) for f in FAMILIES)
PATIENCE = 3
"""Refused members of one set after which its other new members are not tried any more (a full set refuses all)."""

_ERROR_LINE = re.compile(r"Error in line (\d+): *(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LineFailure:
    """A line that the kernel refused, or that was not tried because its set is refused."""

    line: str
    error: str

    @property
    def set_name(self) -> str:
        return _name(self.line)

    @property
    def is_create(self) -> bool:
        return self.line.startswith("create ")

    @property
    def busy(self) -> bool:
        """Whether a rule that is about to go still holds the set."""
        return self.line.startswith("destroy ") and "in use" in self.error


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
    kept = {_element(m) for m in new} if removed else set()
    return added, frozenset(m for m in removed if _element(m) not in kept)


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

    def write(self, lines: Sequence[str]) -> list[LineFailure]:
        """Apply `lines`, each repeatable. Raises KernelError when it is not the lines that are at fault.

        A refused line stops ipset, and it may not even have applied those before it; so the rest is run again.
        """
        remaining, failures = list(lines), list[LineFailure]()
        if self._kernel is not None:
            remaining = remaining[self._kernel.apply(remaining) :]
        created = [line for line in remaining if line.startswith("create ")]
        refused: Counter[str] = Counter()
        while remaining:
            done = self._submit(remaining)
            if done.ok:
                break
            index, error = self._culprit(done, remaining)
            failure = LineFailure(remaining[index], error)
            failures.append(failure)
            # What stands before a `destroy` was applied, and a destroy that went well cannot be repeated.
            remaining = remaining[index + 1 :] if _once(remaining[:index]) else remaining[:index] + remaining[index + 1 :]
            refused[failure.set_name] += 1
            if failure.is_create or refused[failure.set_name] >= PATIENCE:
                given_up = [line for line in remaining if _name(line) == failure.set_name]
                remaining = [line for line in remaining if _name(line) != failure.set_name]
                failures += [LineFailure(line, f"not tried: {error}") for line in given_up]
        self._learn(created)
        return failures

    def _learn(self, created: Sequence[str]) -> None:
        """From sets that the program has made the kernel's part learns to make others."""
        for line in created if self._kernel is not None else ():
            _, name, kind, *options = line.split()
            if self._kernel is not None and not self._kernel.knows(kind, "inet6" in options):
                self._kernel.learn(name)

    def _submit(self, lines: Sequence[str]) -> Done:
        return self._run([self._program, "restore"], "\n".join([*lines, ""]))

    def _culprit(self, done: Done, lines: Sequence[str]) -> tuple[int, str]:
        match = _ERROR_LINE.search(done.err)
        if match and 1 <= int(match[1]) <= len(lines):
            return int(match[1]) - 1, " ".join(match[2].split())
        if done.code < 0 or _once(lines):
            raise KernelError(f"ipset restore: {done.words}")
        return self._bisect(lines), done.words

    def _bisect(self, lines: Sequence[str]) -> int:
        """Index of the line without which what stands before it succeeds. Lines are repeatable, so trying is safe."""
        low, high = 0, len(lines)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._submit(lines[:middle]).ok else (low, middle)
        return low


def failed_members(failures: Iterable[LineFailure]) -> set[tuple[str, str]]:
    """(set, member) of the `add` and `del` lines among `failures`."""
    out = set()
    for failure in failures:
        verb, name, *rest = failure.line.split()
        if verb in ("add", "del"):
            out.add((name, " ".join(word for word in rest if word != "-exist")))
    return out


def _once(lines: Iterable[str]) -> bool:
    """Whether `lines` hold one that cannot be repeated. Every destroy comes after all other lines of its batch."""
    return any(line.startswith("destroy ") for line in lines)


def _element(member: str) -> str:
    return member.removesuffix(" nomatch")


def _name(line: str) -> str:
    return line.split(" ", 2)[1]
