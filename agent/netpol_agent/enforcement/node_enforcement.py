"""Desired and programmed state of one node: the compiler's ruleset, and the dataplane that writes it.

    WAITING --inputs complete--> TAKING_OVER --a sync leaves nothing to do--> IN_OPERATION
                                  ^------| a sync that failed in part

In: changes, which the caller gives to `compiler`. Out: the kernel, and what is in force. Excluded: drift (`verification`).
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping
from enum import Enum
from typing import Any, Protocol

from netpol_agent.dataplane.cleanup import clean_other_backend
from netpol_agent.dataplane.dataplane import Dataplane, SyncResult
from netpol_agent.dataplane.runner import Runner
from netpol_agent.enforcement.kernel_access import KernelAccess
from netpol_agent.netlink.ipset import KernelSets
from netpol_agent.reporting.agent_report import sizes
from netpol_agent.reporting.in_force import policies_in_force
from netpol_compiler.node import NodeCompiler
from netpol_compiler.ruleset.values import Touched

log = logging.getLogger("agent")


class EnforcementState(Enum):
    """How far this agent has brought its node."""

    WAITING = "inputs are missing; the kernel keeps what an earlier agent wrote"
    TAKING_OVER = "everything is compared with the kernel, until a sync leaves nothing to do"
    IN_OPERATION = "what a change touches is written"


class SyncObserver(Protocol):
    """Who is called after each write to the kernel, for metrics. Called in the agent's thread; must be quick."""

    def synced(self, seconds: float, result: SyncResult) -> None:
        """The kernel was written."""
        ...


class NodeEnforcement:
    """`step` when all inputs are complete."""

    def __init__(self, compiler: NodeCompiler, access: KernelAccess, run: Runner, observer: SyncObserver | None) -> None:
        self.state = EnforcementState.WAITING
        """How far this node is."""
        self.compiler = compiler
        """The desired state."""
        self.dataplane = Dataplane(access.backend, access.families, run, kernel_sets=KernelSets())
        """The programmed state."""
        self.result = SyncResult()
        """Of the last sync."""
        self.syncs = 0
        """Writes to the kernel."""
        self.in_force: Mapping[str, str] = {}
        """The digests of the policies that are in force, by `namespace/name`."""
        self.sizes: dict[str, Any] = sizes(compiler.ruleset)
        """How much is programmed."""
        self._run = run
        """Starts programs."""
        self._observer = observer
        """Is called after each write."""

    def step(self, changed: bool, origin: str) -> bool:
        """Write what is to be written; `changed`: whether an input did. Returns whether a sync was made."""
        if self.state is EnforcementState.WAITING:
            self.state = EnforcementState.TAKING_OVER
        touched = self.compiler.flush()
        retry_at = self.dataplane.retry_at
        retry = retry_at is not None and time.monotonic() >= retry_at
        if self.state is EnforcementState.TAKING_OVER or touched or retry:
            self.sync(None if self.state is EnforcementState.TAKING_OVER else touched, origin)
            return True
        if changed:
            self._note_in_force()  # a policy whose pods have no address yet changes no rule
        return False

    def sync(self, touched: Touched | None, origin: str) -> None:
        """Write what differs among the names `touched` (None: all). `origin`: which inputs that is, for the log."""
        started = time.perf_counter()
        before, self.result = self.result, self.dataplane.sync(self.compiler.ruleset, touched)
        seconds = time.perf_counter() - started
        self.syncs += self.result.changed
        self._note_in_force()
        self.sizes = sizes(self.compiler.ruleset)
        if self._observer is not None and self.result.changed:
            self._observer.synced(seconds, self.result)
        _log_failures(before, self.result)
        if self.result.changed:
            log.info("%s: programmed in %.0f ms", origin, seconds * 1000)
        if self.state is EnforcementState.TAKING_OVER and not self.result.pending:
            self._take_over()

    def _take_over(self) -> None:
        self.state = EnforcementState.IN_OPERATION
        # What was read for the start stays for long: looking through it for garbage again and again would hold up changes.
        gc.collect()
        gc.freeze()
        kind = self.dataplane.backend.kind
        other = clean_other_backend(kind, self._run)
        if other.chains or other.failures:
            log.warning("iptables-%s: %s", kind.other.value, other.words)

    def _note_in_force(self) -> None:
        self.in_force = policies_in_force(self.compiler, self.dataplane.behind(self.compiler.ruleset))

    @property
    def programmed(self) -> bool:
        """Whether this node's rules were in force once since the start."""
        return self.state is EnforcementState.IN_OPERATION

    @property
    def in_sync(self) -> bool:
        """Whether the kernel holds all that decides about packets (a set that only has to go does not)."""
        behind = self.result.pending and bool(self.dataplane.behind(self.compiler.ruleset))
        return self.programmed and not self.result.failures and not self.compiler.problems and not behind


def _log_failures(before: SyncResult, after: SyncResult) -> None:
    for failure in after.failures:
        if failure not in before.failures:
            log.error("%s", failure.words)
    for failure in before.failures:
        if failure not in after.failures:
            log.info("%s: in force again", failure.what)
