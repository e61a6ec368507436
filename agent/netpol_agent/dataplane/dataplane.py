"""Desired and programmed are two maps; a sync writes their difference, in the order that is safe at every step.

    sets: create, add --> chains and hook (one transaction per family) --> sets: del, destroy

So a rule never names a set that is not there yet or not there any more, and what a new rule needs is in its set
before the rule. A process killed between two steps leaves the kernel in a state that the next sync completes.
In: a Ruleset. Out: the kernel, and a `SyncResult`. Excluded: what should be in force, and when to sync.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from netpol_agent.dataplane.backend import Backend
from netpol_agent.dataplane.ipsets import IPSets, SetFailure, failed_members, member_changes
from netpol_agent.dataplane.iptables import FilterTable, Outcome, TableState
from netpol_agent.dataplane.runner import Runner
from netpol_agent.dataplane.transactions import SizeLimit
from netpol_agent.errors import Failure, KernelError
from netpol_agent.netlink.ipset import KernelSets
from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.changes import (
    CreateSet,
    DeleteMember,
    DestroySet,
    SetChange,
    TableChange,
    add_members,
    create_set,
    delete_members,
)
from netpol_compiler.ruleset.render import set_change_text
from netpol_compiler.ruleset.rules import Rules
from netpol_compiler.ruleset.values import IPSet, Ruleset, Touched, element, is_exception, set_prefix
from netpol_kube.backoff import Backoff

T = TypeVar("T")

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.2, 30.0
"""Until what failed is tried again: the first wait and the longest."""

BUSY_TRIES = 8
"""After so many tries a set that cannot be destroyed counts as a failure, not as one that a rule still lets go of."""


@dataclass(frozen=True, slots=True)
class SyncResult:
    """`changed`: something was written. `tightened`: a connection that was allowed may be refused now.
    `failures`: everything that is not as desired at present, old failures included. `pending`: to be tried again."""

    changed: bool = False
    tightened: bool = False
    failures: tuple[Failure, ...] = ()
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Drift:
    """What the kernel really holds where that differs from what we wrote. None: it is gone.
    `hooks`: the changes that put the hook right again, for the families where it is not."""

    chains: Mapping[Family, Mapping[str, Rules | None]] = field(default_factory=dict)
    sets: Mapping[str, IPSet | None] = field(default_factory=dict)
    hooks: Mapping[Family, Sequence[TableChange]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sets or self.hooks or any(self.chains.values()))

    @property
    def touched(self) -> Touched:
        return Touched({f: frozenset(c) for f, c in self.chains.items() if c}, frozenset(self.sets))

    @property
    def words(self) -> str:
        lost = [f"the hook (IPv{int(f)})" for f in sorted(self.hooks)]
        lost += [f"{len(c)} chains (IPv{int(f)})" for f, c in sorted(self.chains.items()) if c]
        return ", ".join([*lost, *([f"{len(self.sets)} sets"] if self.sets else [])])


@dataclass(frozen=True, slots=True)
class Behind:
    """What of a ruleset the kernel lacks, as far as we know. `everything`: no packet reaches our chains, or nothing is known."""

    everything: bool = False
    chains: Mapping[Family, frozenset[str]] = field(default_factory=dict)
    sets: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self.everything or bool(self.sets) or any(self.chains.values())


@dataclass(slots=True)
class _Work:
    """One sync on its way."""

    ruleset: Ruleset
    sets: frozenset[str]
    chains: dict[Family, frozenset[str]]
    changed: bool = False
    tightened: bool = False


class Dataplane:
    """One node's kernel. `sync(ruleset, touched)` may be called for every change; it starts no process for none."""

    def __init__(
        self,
        backend: Backend,
        families: Iterable[Family],
        run: Runner,
        clock: Callable[[], float] = time.monotonic,
        kernel_sets: KernelSets | None = None,
    ) -> None:
        self.backend = backend
        self.families = tuple(families)
        self.sets: dict[str, IPSet] = {}
        self.chains: dict[Family, dict[str, Rules]] = {f: {} for f in self.families}
        self.warnings: tuple[str, ...] = ()
        self.retry_at: float | None = None
        size = SizeLimit()
        self.tables = {f: FilterTable(backend, f, run, size) for f in self.families}
        self.ipsets = IPSets(backend.ipset, run, kernel_sets)
        self._clock = clock
        self._loaded = False
        self._hook_changes: dict[Family, Sequence[TableChange]] = {}
        self._failures: dict[tuple[str, str], Failure] = {}
        self._busy: dict[str, int] = {}
        self._pending_sets: set[str] = set()
        self._pending_chains: dict[Family, set[str]] = {f: set() for f in self.families}
        self._backoff = Backoff(RETRY_SECONDS, LONGEST_RETRY_SECONDS)

    # -- reading ---------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take what is programmed as the starting point, whoever left it. Raises KernelError."""
        sets = self.ipsets.read()
        states = {f: self.tables[f].read() for f in self.families}
        self.sets = {n: s for n, s in sets.items() if n.startswith(tuple(map(set_prefix, self.families)))}
        for family, state in states.items():
            self.chains[family] = dict(state.chains)
            self.note_hook(family, state)
        self.warnings = tuple(dict.fromkeys(w for s in states.values() for w in s.warnings))
        self._loaded = True

    def note_hook(self, family: Family, state: TableState) -> None:
        """Remember what the next transaction has to do to have the hook first."""
        self._hook_changes[family] = state.hook_changes

    def adopt(self, drift: Drift) -> None:
        """Believe the kernel where it differs from what we wrote; the next sync then repairs the difference."""
        for family, chains in drift.chains.items():
            _merge(self.chains[family], chains)
        _merge(self.sets, drift.sets)
        self._hook_changes.update(drift.hooks)

    # -- writing ---------------------------------------------------------------------------------------

    def sync(self, ruleset: Ruleset, touched: Touched | None = None) -> SyncResult:
        """Move the kernel to `ruleset`. `touched`: the names that may differ from the last call; None: look at all.

        Never raises for what the kernel refuses: it is in the result, is tried again when `retry_at` has come, and
        the rest is in force.
        """
        if not self._loaded:
            try:
                self.load()
            except KernelError as error:
                return self._failed_whole("reading the kernel's state", str(error))
            touched = None
        work = _Work(ruleset, *self._names(ruleset, touched))
        try:
            absent = self._sets_up(work)
        except KernelError as error:
            self._pending_sets |= work.sets
            for family, names in work.chains.items():
                self._pending_chains[family] |= names
            return self._failed_whole("sets", str(error))
        self._sets_down(work, self._chains_steps(work, absent))
        return self._result(work)

    def _chains_steps(self, work: _Work, absent: frozenset[str]) -> list[Family]:
        """Each family's transaction, at the same time: returns those that went through.

        iptables-nft ends only when the kernel has freed what was replaced, some 15 ms after the new rules are in force,
        and one family must not wait for that of the other. What a step notes belongs to its family alone.
        """
        if len(self.families) == 1:
            went = [self._chains_step(work, self.families[0], absent)]
        else:
            with ThreadPoolExecutor(len(self.families)) as threads:
                went = list(threads.map(lambda family: self._chains_step(work, family, absent), self.families))
        return [family for family, through in zip(self.families, went, strict=True) if through]

    def _names(self, ruleset: Ruleset, touched: Touched | None) -> tuple[frozenset[str], dict[Family, frozenset[str]]]:
        if touched is None:
            touched = Touched(
                {f: frozenset(ruleset.chains.get(f, {}).keys() | self.chains[f].keys()) for f in self.families},
                frozenset(ruleset.sets.keys() | self.sets.keys()),
            )
            # What failed and is neither there nor wanted any more is not pending either.
            retry = True
        else:
            retry = self.retry_at is not None and self._clock() >= self.retry_at
        sets = touched.sets | (self._pending_sets if retry else frozenset())
        chains = {
            f: touched.chains.get(f, frozenset()) | (self._pending_chains[f] if retry else frozenset()) for f in self.families
        }
        return frozenset(sets), {f: frozenset(names) for f, names in chains.items()}

    def _sets_up(self, work: _Work) -> frozenset[str]:
        """Create sets, add members. Returns the desired sets that do not exist."""
        changes: list[SetChange] = []
        for name in sorted(work.sets & work.ruleset.sets.keys()):
            desired, now = work.ruleset.sets[name], self.sets.get(name)
            if now is None or now.type != desired.type:
                changes.append(create_set(desired))
            added, _ = member_changes(now.members if now else frozenset(), desired.members)
            changes += add_members(name, added)
            work.tightened = work.tightened or (now is not None and any(map(is_exception, added)))
        failures = self.ipsets.write(changes)
        work.changed = work.changed or bool(changes)
        self._note_sets(work, failures)
        missing = work.ruleset.sets.keys() - self.sets.keys()
        # A set that could not take an exception would admit what it must not: its rules count as impossible.
        open_sets = {name for name, member in failed_members(failures) if is_exception(member)}
        return frozenset(missing | open_sets | _uncreated(failures))

    def _note_sets(self, work: _Work, failures: list[SetFailure]) -> None:
        failed, uncreated = failed_members(failures), _uncreated(failures)
        for name in work.sets & work.ruleset.sets.keys():
            desired, now = work.ruleset.sets[name], self.sets.get(name)
            self._settle("set", name, None)
            if name not in uncreated:
                added = {m for m in desired.members if (name, m) not in failed}
                replaced = set(map(element, added))
                kept = {m for m in (now.members if now else ()) if m in added or element(m) not in replaced}
                self.sets[name] = IPSet(name, desired.type, desired.family, frozenset(added | kept))
        for failure in failures:
            self._settle("set", failure.change.name, _failure(failure))

    def _chains_step(self, work: _Work, family: Family, absent: frozenset[str]) -> bool:
        """One family's transaction. Returns whether it went through, so that sets may go."""
        outcome = self._try_chains(work, family, absent)
        if outcome.hook_moved:
            # Somebody moved the hook between our last look and now.
            try:
                self.note_hook(family, self.tables[family].read())
            except KernelError as error:
                outcome = Outcome(whole=str(error))
            else:
                outcome = self._try_chains(work, family, absent)
        what = f"chains (IPv{int(family)})"
        if outcome.whole:
            self._settle("family", str(int(family)), Failure(what, "", outcome.whole))
            self._pending_chains[family] |= work.chains[family]
            return False
        self._settle("family", str(int(family)), None)
        self._hook_changes[family] = ()
        now, desired = self.chains[family], work.ruleset.chains.get(family, {})
        now.update(outcome.up)
        for name in outcome.down:
            now.pop(name, None)
        for name in work.chains[family]:
            failure = outcome.failures.get(name)
            self._settle(f"chain{int(family)}", name, failure)
            pending = desired.get(name) != now.get(name)
            (self._pending_chains[family].add if pending else self._pending_chains[family].discard)(name)
        return True

    def _try_chains(self, work: _Work, family: Family, absent: frozenset[str]) -> Outcome:
        now, desired = self.chains[family], work.ruleset.chains.get(family, {})
        up = {n: desired[n] for n in work.chains[family] if n in desired and desired[n] != now.get(n)}
        down = {n for n in work.chains[family] if n in now and n not in desired}
        hook = self._hook_changes.get(family, ()) if desired else ()
        if not up and not down and not hook:
            return Outcome()
        work.changed = True
        work.tightened = work.tightened or bool(up or hook)
        return self.tables[family].write(up, down, hook, now, absent)

    def _sets_down(self, work: _Work, families: list[Family]) -> None:
        """Remove members and sets that nothing needs any more; only of families whose chains are in force."""
        changes: list[SetChange] = []
        there = sorted(n for n in work.sets if n in self.sets and self.sets[n].family in families)
        for name in there:
            desired = work.ruleset.sets.get(name)
            if desired is not None and self.sets[name].type == desired.type:
                changes += delete_members(name, member_changes(self.sets[name].members, desired.members)[1])
        work.tightened = work.tightened or bool(changes)
        changes += [DestroySet(name) for name in there if name not in work.ruleset.sets]
        work.changed = work.changed or bool(changes)
        try:
            failures = self.ipsets.write(changes)
        except KernelError as error:
            failures = [SetFailure(change, str(error)) for change in changes]
        self._note_removals(work, changes, failures)

    def _note_removals(self, work: _Work, changes: list[SetChange], failures: list[SetFailure]) -> None:
        failed = {f.change: f for f in failures}
        deleted: dict[str, set[str]] = {}
        for change in changes:
            name, failure = change.name, failed.get(change)
            if isinstance(change, DestroySet):
                self._note_destroyed(name, failure)
            elif failure is not None:
                self._settle("set", name, _failure(failure))
            elif isinstance(change, DeleteMember):
                deleted.setdefault(name, set()).add(change.member)
        for name, members in deleted.items():
            now = self.sets[name]
            self.sets[name] = replace(now, members=frozenset(m for m in now.members if element(m) not in members))
        for name in work.sets:
            pending = self.sets.get(name) != work.ruleset.sets.get(name)
            (self._pending_sets.add if pending else self._pending_sets.discard)(name)

    def _note_destroyed(self, name: str, failure: SetFailure | None) -> None:
        if failure is None:
            del self.sets[name]
            self._busy.pop(name, None)
            self._settle("set", name, None)
            return
        self._busy[name] = self._busy.get(name, 0) + 1
        if not failure.busy or self._busy[name] >= BUSY_TRIES:
            self._settle("set", name, _failure(failure))

    def behind(self, ruleset: Ruleset) -> Behind:
        """What the kernel lacks of `ruleset`. What only has to go does not count."""
        hooks = any(self._hook_changes.get(f) and ruleset.chains.get(f) for f in self.families)
        return Behind(
            everything=hooks or not self._loaded or ("whole", "") in self._failures,
            chains={f: frozenset(names & ruleset.chains.get(f, {}).keys()) for f, names in self._pending_chains.items()},
            sets=frozenset(n for n in self._pending_sets & ruleset.sets.keys() if self.sets.get(n) != ruleset.sets[n]),
        )

    # -- results ---------------------------------------------------------------------------------------

    def _settle(self, kind: str, name: str, failure: Failure | None) -> None:
        """Note a failure, or that there is none any more. The first failure of a set is the one that explains it."""
        if failure is None:
            self._failures.pop((kind, name), None)
        else:
            self._failures.setdefault((kind, name), failure)

    def _failed_whole(self, what: str, error: str) -> SyncResult:
        self._failures[("whole", "")] = Failure(what, "", error)
        self._schedule()
        return SyncResult(failures=tuple(self._failures.values()), pending=True)

    def _result(self, work: _Work) -> SyncResult:
        self._failures.pop(("whole", ""), None)
        hooks = any(changes and work.ruleset.chains.get(f) for f, changes in self._hook_changes.items())
        pending = bool(self._pending_sets or any(self._pending_chains.values()) or hooks)
        if pending:
            self._schedule()
        else:
            self.retry_at = None
            self._backoff.reset()
        return SyncResult(work.changed, work.tightened, tuple(self._failures.values()), pending)

    def _schedule(self) -> None:
        now = self._clock()
        if self.retry_at is None or now >= self.retry_at:
            self.retry_at = now + self._backoff.next_seconds()


def _uncreated(failures: Iterable[SetFailure]) -> set[str]:
    return {f.change.name for f in failures if isinstance(f.change, CreateSet)}


def _failure(failure: SetFailure) -> Failure:
    return Failure(f"set {failure.change.name}", set_change_text(failure.change), failure.error)


def _merge(into: dict[str, T], drift: Mapping[str, T | None]) -> None:
    for name, actual in drift.items():
        if actual is None:
            into.pop(name, None)
        else:
            into[name] = actual
