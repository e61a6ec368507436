"""Remove everything of ours from this node: both backends, both families, the sets. Nothing else is touched.

In: the kernel. Out: a `Removed`. Tables that do not exist are not looked at, because looking would create them.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field

from netpol_agent.dataplane.backend import SEARCH_PATH, Backend, BackendKind, all_saved, find_backend
from netpol_agent.dataplane.ipsets import IPSets
from netpol_agent.dataplane.iptables import FilterTable
from netpol_agent.dataplane.runner import Processes, Runner
from netpol_agent.errors import AgentError, KernelError
from netpol_compiler.model.kinds import FAMILIES
from netpol_compiler.ruleset.changes import DestroySet, RemoveRule
from netpol_compiler.ruleset.values import CHAIN_PREFIX, HOOK_PARENT, HOOK_RULE

PATIENCE = 5.0
"""Seconds until a set must have been let go of by the rules that were just removed."""


@dataclass(slots=True)
class Removed:
    """How much was removed, and what could not be."""

    chains: int = 0
    sets: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        return "\n".join([f"removed {self.chains} chains and {self.sets} sets", *self.failures])


def run_cleanup(run: Runner | None = None) -> Removed:
    """Remove all of ours. Raises AgentError when there is no iptables to do it with."""
    run = run or Processes()
    removed = Removed()
    backends = [find_backend(kind) for kind in BackendKind if shutil.which(f"iptables-{kind.value}", path=SEARCH_PATH)]
    if not backends:
        raise AgentError("iptables is not installed", "install the package iptables: apt-get install iptables")
    for backend in backends:
        clean_chains(backend, run, removed)
    _clean_sets(IPSets(backends[0].ipset, run), removed)
    return removed


def clean_chains(backend: Backend, run: Runner, removed: Removed) -> None:
    """Remove our chains and all that leads into them from one backend's filter tables."""
    for family in FAMILIES:
        if CHAIN_PREFIX not in all_saved(backend.save[family], run):
            continue
        try:
            error = _clean_table(FilterTable(backend, family, run), removed)
        except KernelError as problem:
            error = str(problem)
        if error:
            removed.failures.append(f"iptables-{backend.kind.value}, IPv{int(family)}: {error}")


def _clean_table(table: FilterTable, removed: Removed) -> str:
    state = table.read()
    hooks = [*[RemoveRule(HOOK_PARENT, HOOK_RULE)] * state.hooks, *state.strays]
    outcome = table.write({}, state.chains, hooks, state.chains)
    removed.chains += len(outcome.down)
    return outcome.whole or "; ".join(f.words for f in outcome.failures.values())


def _clean_sets(ipsets: IPSets, removed: Removed) -> None:
    deadline = time.monotonic() + PATIENCE
    try:
        names = sorted(ipsets.read())
        removed.sets = len(names)
        failures = ipsets.write([DestroySet(n) for n in names])
        # nf_tables lets go of a removed rule's sets a moment after the transaction.
        while any(f.busy for f in failures) and time.monotonic() < deadline:
            time.sleep(0.02)
            failures = ipsets.write([f.change for f in failures])
    except KernelError as error:
        removed.failures.append(str(error))
        return
    removed.sets -= len(failures)
    removed.failures += [f"set {f.change.name}: {f.error}" for f in failures]


def clean_other_backend(kind: BackendKind, run: Runner) -> Removed:
    """Remove what an earlier run left in the backend that is not ours any more; nothing when it is not installed."""
    removed = Removed()
    if shutil.which(f"iptables-{kind.other.value}", path=SEARCH_PATH):
        clean_chains(find_backend(kind.other), run, removed)
    return removed
