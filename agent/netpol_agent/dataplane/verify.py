"""Whether the kernel still holds what we wrote: somebody may flush a table, or put a rule before our hook.

In: the dataplane's programmed maps and the kernel read back. Out: a `Drift`. Excluded: the repair (`Dataplane.adopt`
and `sync`). iptables prints some rules in other words than we wrote them; each such pair of words is learned the
first time that it is read, if both lead to the same place through the same sets, addresses and ports.
"""

from __future__ import annotations

import shlex

from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.dataplane import Dataplane, Drift
from netpol_agent.dataplane.ipsets import parse_save
from netpol_agent.dataplane.iptables import TableState
from netpol_agent.netlink.messages import nft_generation
from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.values import IPSet, Rules, set_prefix

_TELLING = frozenset({"-s", "-d", "-p", "-j", "-g", "--dport", "--dports", "--match-set", "--mark", "--ctstate"})


class Verifier:
    """Compares one dataplane with its kernel."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane
        self._words: dict[Family, dict[str, str]] = {f: {} for f in dataplane.families}
        self._generation: int | None = None
        self._tables_read: int | None = None
        self._sets_read: tuple[int, dict[str, IPSet]] | None = None

    def note(self) -> None:
        """Call after a sync: what is there now is ours, if nobody else was as quick."""
        self._tables_read = self._sets_read = None
        if self._dataplane.backend.kind is BackendKind.NFT:
            self._generation = nft_generation()

    def hook_lost(self) -> bool:
        """A glance that costs nothing while nobody commits to nf_tables. Always False where that cannot be seen (legacy).
        Raises KernelError."""
        if self._dataplane.backend.kind is not BackendKind.NFT:
            return False
        generation = nft_generation()
        if generation is None or generation == self._generation:
            return False
        self._generation = generation
        return not all(table.read_hook().hook_right for table in self._dataplane.tables.values())

    def check(self) -> Drift:
        """Compare everything of ours. What surely did not change since it was last found right is not read again: an
        agent at rest costs one short process. Raises KernelError."""
        chains: dict[Family, dict[str, Rules | None]] = {}
        hooks: dict[Family, list[str]] = {}
        # Taken before reading: what others commit meanwhile belongs to the next check.
        generation = nft_generation() if self._dataplane.backend.kind is BackendKind.NFT else None
        if generation is None or generation != self._tables_read:
            for family, table in self._dataplane.tables.items():
                state = table.read()
                if found := self._chains(family, state):
                    chains[family] = found
                if state.hook_lines:
                    hooks[family] = state.hook_lines
            self._tables_read = None if chains or hooks else generation
        return Drift(chains, self._sets(), hooks)

    def _sets(self) -> dict[str, IPSet | None]:
        """Sets have no generation, but the same text means the same sets."""
        ours, text = self._dataplane.sets, self._dataplane.ipsets.save()
        read = (hash(text), ours)
        if self._sets_read == read:
            return {}
        actual = parse_save(text)
        prefixes = tuple(map(set_prefix, self._dataplane.families))
        found = {n: actual.get(n) for n in ours.keys() | actual.keys() if n.startswith(prefixes) and ours.get(n) != actual.get(n)}
        self._sets_read = None if found else (read[0], dict(ours))
        return found

    def _chains(self, family: Family, state: TableState) -> dict[str, Rules | None]:
        ours, known = self._dataplane.chains[family], self._words[family]
        found: dict[str, Rules | None] = {n: rules for n, rules in state.chains.items() if n not in ours}
        learned: dict[str, str] = {}
        for name, rules in ours.items():
            actual = state.chains.get(name)
            if actual is None or not _all_same(rules, actual, known, learned):
                found[name] = actual
        # Only words in use are kept, so that memory does not grow with churn.
        self._words[family] = learned
        return found


def same_rule(written: str, read: str) -> bool:
    """Whether two texts are the same rule, in our words or in iptables' own."""
    return _same(written, read, {}, {})


def _all_same(written: Rules, read: Rules, known: dict[str, str], learned: dict[str, str]) -> bool:
    return len(written) == len(read) and all(_same(a, b, known, learned) for a, b in zip(written, read, strict=True))


def _same(written: str, read: str, known: dict[str, str], learned: dict[str, str]) -> bool:
    if written == read:
        return True
    if written in known:
        learned[written] = known[written]
        return known[written] == read
    try:
        if _told(written) != _told(read):
            return False
    except ValueError:  # a quote that is not closed: no rule that we wrote
        return False
    learned[written] = read
    return True


def _told(rule: str) -> list[tuple[str, ...]]:
    """The options of a rule that decide where it leads and whom it matches, with their values."""
    words = shlex.split(rule)
    return sorted(
        (words[i], *words[i + 1 : i + (3 if words[i] == "--match-set" else 2)]) for i in range(len(words)) if words[i] in _TELLING
    )
