"""One family's filter table: reading our chains and the hook, writing one transaction.

In: chains up and down. Out: what is in the kernel afterwards and what failed. Excluded: which chains (`dataplane`).
A chain that the kernel refuses is isolated: the others go on; it keeps its last good rules, and one that never had
any drops everything (fail closed).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from netpol_agent.dataplane.backend import Backend
from netpol_agent.dataplane.blame import change_of_error, find_bad_chains
from netpol_agent.dataplane.runner import Done, Runner
from netpol_agent.dataplane.transactions import TOO_LONG, SizeLimit, transactions
from netpol_agent.errors import Failure, KernelError
from netpol_compiler.model.kinds import DIRECTIONS, Family
from netpol_compiler.ruleset.changes import AppendRule, InsertRule, RemoveRule, TableChange
from netpol_compiler.ruleset.reader import read_rule
from netpol_compiler.ruleset.render import change_text, rule_text, table_text
from netpol_compiler.ruleset.rules import Rule, Rules, Verdict, rule, sets_of, targets_of
from netpol_compiler.ruleset.values import ALLOW_CHAIN, CHAIN_PREFIX, FORWARD_CHAIN, HOOK_PARENT, HOOK_RULE, direction_chain

FIXED_CHAINS = frozenset({FORWARD_CHAIN, ALLOW_CHAIN, *map(direction_chain, DIRECTIONS)})
"""Every packet of the node passes these: closing one would cut off the whole node, so they fail as a whole."""

DROP_ALL: Rules = (rule(action=Verdict.DROP),)
ROUNDS = 100
"""Refused chains at most that are found one after the other in one sync; more than that fails as a whole."""

SMALLEST_PART = 2000
"""Characters below which a text is not cut in two any more."""

_LOCKED = ("xtables lock", "Can't lock")


@dataclass(frozen=True, slots=True)
class TableState:
    """What the kernel holds. `hooks`: copies of our hook; `strays`: what removes the other rules outside that lead into
    our chains."""

    chains: Mapping[str, Rules]
    hooks: int = 0
    hook_first: bool = False
    strays: tuple[RemoveRule, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def hook_right(self) -> bool:
        return self.hook_first and self.hooks == 1

    @property
    def hook_changes(self) -> list[TableChange]:
        """What puts the hook first. The transaction is atomic, so there is no moment without the hook."""
        if self.hook_right:
            return []
        return [*[RemoveRule(HOOK_PARENT, HOOK_RULE)] * self.hooks, InsertRule(HOOK_PARENT, HOOK_RULE)]


def parse_save(out: str, err: str = "") -> TableState:
    """Our part of what `iptables-save -t filter` printed."""
    chains: dict[str, list[Rule]] = {}
    hooks, first, seen, strays = 0, False, 0, list[RemoveRule]()
    for line in out.splitlines():
        if line.startswith(f":{CHAIN_PREFIX}"):
            chains[line[1:].split(" ", 1)[0]] = []
        elif line.startswith("-A "):
            chain, _, text = line.removeprefix("-A ").partition(" ")
            seen += chain == HOOK_PARENT
            if chain not in chains and CHAIN_PREFIX not in text:
                continue  # a rule of others, which need not be understood
            found = read_rule(text)
            if chain in chains:
                chains[chain].append(found)
            elif chain == HOOK_PARENT and found == HOOK_RULE:
                hooks += 1
                first = first or seen == 1
            elif found.target.startswith(CHAIN_PREFIX):
                strays.append(RemoveRule(chain, found))
    # nft prints its complaint about foreign native tables and still ends well (exit code 0).
    said = [line.lstrip("# ") for line in (*err.splitlines(), *out.splitlines()) if "incompatible" in line or "Warning" in line]
    return TableState({n: tuple(r) for n, r in chains.items()}, hooks, first, tuple(strays), tuple(dict.fromkeys(said)))


def our_lines(out: str) -> list[str]:
    """All of what `iptables-save -t filter` printed that `parse_save` may make anything of: no times, no counters of others."""
    return [line for line in out.splitlines() if CHAIN_PREFIX in line or line.startswith(f"-A {HOOK_PARENT}")]


@dataclass(slots=True)
class Outcome:
    """What a write did. `up`: the rules that chains now have; `down`: chains that are gone; `failures` by chain name;
    `whole`: why nothing at all was written, or empty."""

    up: dict[str, Rules] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    failures: dict[str, Failure] = field(default_factory=dict)
    whole: str = ""
    hook_moved: bool = False


class FilterTable:
    """Reads and writes one family's filter table."""

    def __init__(self, backend: Backend, family: Family, run: Runner, size: SizeLimit | None = None) -> None:
        self.family = family
        self._backend = backend
        self._run = run
        self._size = size or SizeLimit()

    def save(self) -> Done:
        """What the table's program prints of it. Raises KernelError."""
        done = self._run([self._backend.save[self.family], "-t", "filter"])
        if not done.ok:
            raise KernelError(f"reading the IPv{int(self.family)} filter table: {done.words}")
        return done

    def read(self, saved: Done | None = None) -> TableState:
        """The state of the table, or of what was `saved` of it. Raises KernelError."""
        saved = saved or self.save()
        state = parse_save(saved.out, saved.err)
        # Foreign base chains beside ours are only worth a warning; a table that iptables cannot read at all is not.
        if unreadable := [w for w in state.warnings if "is incompatible" in w]:
            raise KernelError(f"the IPv{int(self.family)} filter table is not iptables' own any more: {unreadable[0]}")
        return state

    def read_hook(self) -> TableState:
        """Only FORWARD, which is cheap on nft. Chains are left out. Raises KernelError."""
        done = self._run([self._backend.list_[self.family], "-w", "1", "-S", HOOK_PARENT])
        if not done.ok:
            raise KernelError(f"reading {HOOK_PARENT}: {done.words}")
        return parse_save(done.out, done.err)

    def submit(self, changes: Sequence[TableChange]) -> Done:
        """One transaction. A failed one changed nothing."""
        return self._run(self._backend.restore_command(self.family), table_text(changes))

    def write(
        self,
        up: Mapping[str, Rules],
        down: Iterable[str],
        hook: Sequence[TableChange],
        programmed: Mapping[str, Rules],
        absent_sets: frozenset[str] = frozenset(),
    ) -> Outcome:
        """Bring `up` to their rules, remove `down`. Usually one process; more only to find what was refused.

        `programmed` is what the kernel has now; chains that need one of `absent_sets` are not even tried.
        """
        attempt = _Attempt(self.family, dict(up), set(down), programmed)
        for name in [n for n, rules in up.items() if absent_sets & sets_of(rules)]:
            missing = ", ".join(sorted(absent_sets & sets_of(up[name])))
            attempt.isolate(name, "", f"needs set {missing}, which could not be made")
        for _ in range(ROUNDS):
            if attempt.whole:
                return Outcome(whole=attempt.whole)
            changes, done = self._submit_all(attempt, hook)
            if done.ok:
                return Outcome(attempt.up, attempt.down, attempt.failures)
            if TOO_LONG in done.err and (size := len(table_text(changes))) > SMALLEST_PART:
                self._size.characters = size // 2
                continue
            if done.code < 0 or any(word in done.err for word in _LOCKED):
                return Outcome(whole=done.words)
            change = change_of_error(done.err, changes)
            if change in hook and isinstance(change, RemoveRule):
                return Outcome(whole=done.words, hook_moved=True)
            if not self._blame(attempt, change, done.words):
                return Outcome(whole=done.words)
        return Outcome(whole=f"more than {ROUNDS} chains were refused; the last: {list(attempt.failures.values())[-1].words}")

    def _submit_all(self, attempt: _Attempt, hook: Sequence[TableChange]) -> tuple[list[TableChange], Done]:
        """Submit up to the first transaction that fails; returns the last one and how it went."""
        changes, done = list[TableChange](), Done(0, "", "")
        for changes in transactions(attempt.up, attempt.down, hook, attempt.programmed, self._size.characters):
            done = self.submit(changes)
            if not done.ok:
                break
        return changes, done

    def _blame(self, attempt: _Attempt, change: TableChange | None, error: str) -> bool:
        """Isolate what spoiled the transaction; False when nothing can be blamed."""
        if change is not None and (change.chain in attempt.up or change.chain in attempt.down):
            line = change_text(change)
            attempt.isolate(change.chain, line, error)
            # The same set is missing everywhere: one round for all chains that match it.
            missing = {s for s in change.rule.sets if s in error} if isinstance(change, AppendRule) else set()
            for other, rules in list(attempt.up.items()):
                if missing & sets_of(rules):
                    attempt.isolate(other, line, error)
            return True
        bad = find_bad_chains(attempt.up, self.submit)
        for other, refused in bad.items():
            attempt.isolate(other, rule_text(refused), error)
        return bool(bad)


class _Attempt:
    """A transaction in the making, from which refused chains are taken out."""

    def __init__(self, family: Family, up: dict[str, Rules], down: set[str], programmed: Mapping[str, Rules]) -> None:
        self.up, self.down = up, down
        self.failures: dict[str, Failure] = {}
        self.whole = ""
        self._family = family
        self.programmed = programmed

    def isolate(self, name: str, line: str, error: str) -> None:
        """Take `name` out: last good rules if it has any, else drop everything."""
        if name in FIXED_CHAINS:
            self.whole = f"chain {name}: {error}"
            return
        again = name in self.failures
        self.failures.setdefault(name, Failure(f"chain {name} (IPv{int(self._family)})", line, error))
        if name in self.down:
            self._keep(name)
        elif name in self.programmed or again:
            self.up.pop(name, None)
            self._keep(name)
        else:
            self.up[name] = DROP_ALL

    def _keep(self, name: str) -> None:
        """The chain stays as it is, so what it leads to has to stay as well."""
        waiting = [name]
        while waiting:
            kept = waiting.pop()
            self.down.discard(kept)
            waiting += sorted(targets_of(self.programmed.get(kept, ())) & self.down)
