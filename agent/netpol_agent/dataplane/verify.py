"""Whether the kernel still holds what we wrote: somebody may flush a table, or put a rule before our hook.

In: the dataplane's programmed maps and the kernel read back. Out: a `Drift`. Excluded: the repair (`Dataplane.adopt`
and `sync`). iptables prints some rules in other words than we wrote them; each such pair of words is learned the
first time that it is read, if both lead to the same place through the same sets, addresses and ports.
"""

from __future__ import annotations

from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.dataplane import Dataplane, Drift
from netpol_agent.dataplane.ipsets import parse_save
from netpol_agent.dataplane.iptables import FilterTable, our_lines
from netpol_agent.netlink.messages import nft_generation
from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.changes import TableChange
from netpol_compiler.ruleset.rules import Rules
from netpol_compiler.ruleset.values import IPSet, set_prefix


class Verifier:
    """Compares one dataplane with its kernel."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane
        self._generation: int | None = None
        self._tables_read: int | None = None
        self._chains_read: dict[Family, tuple[int, dict[str, Rules]]] = {}
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
        hooks: dict[Family, list[TableChange]] = {}
        # Taken before reading: what others commit meanwhile belongs to the next check.
        generation = nft_generation() if self._dataplane.backend.kind is BackendKind.NFT else None
        if generation is None or generation != self._tables_read:
            for family, table in self._dataplane.tables.items():
                found, hook = self._table(family, table)
                if found:
                    chains[family] = found
                if hook:
                    hooks[family] = hook
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

    def _table(self, family: Family, table: FilterTable) -> tuple[dict[str, Rules | None], list[TableChange]]:
        """The chains that differ, and what puts the hook right. The same lines mean the same rules and need not be parsed."""
        ours, saved = self._dataplane.chains[family], table.save()
        read = (hash(tuple(our_lines(saved.out))), ours)
        if self._chains_read.get(family) == read:
            return {}, []
        state = table.read(saved)
        found = {n: state.chains.get(n) for n in ours.keys() | state.chains.keys() if ours.get(n) != state.chains.get(n)}
        self._chains_read.pop(family, None)
        if not found and state.hook_right:
            self._chains_read[family] = (read[0], dict(ours))
        return found, state.hook_changes
