"""The agent of one node: the loop in which its parts meet. `main` wires it to folders or to the Kubernetes API.

    Source (own pods, policy IR) --Delta--> NodeEnforcement (compiler, dataplane) --> kernel
       ^ wakes the loop                        |         ^ repair                       |
       |                                       |     Verification <-- read back, each 5 s
    what the API tells                         +--tightened--> ConntrackCutter
                                               +---------> Reporter --> reports/<node>.json, or a NodeReport

One thread acts on the kernel. Nothing is programmed before all inputs are complete. Stopping leaves enforcement in place.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from netpol_agent.connections.conntrack_cutter import ConntrackCutter
from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.dataplane import Drift
from netpol_agent.dataplane.runner import Runner
from netpol_agent.enforcement.kernel_access import kernel_access
from netpol_agent.enforcement.node_enforcement import NodeEnforcement, SyncObserver
from netpol_agent.enforcement.verification import HOOK_CHECK_SECONDS, Verification
from netpol_agent.guard.node_guard import GuardOptions, NodeGuard
from netpol_agent.inputs.source import Source
from netpol_agent.reporting.agent_report import AgentReport, Reporter
from netpol_agent.reporting.in_force import pods_in_force
from netpol_agent.threads.requests import Requests
from netpol_compiler.model.addresses import Network
from netpol_compiler.node import AcceptAction, LowerOptions, NodeCompiler

log = logging.getLogger("agent")


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """`backend` None: detect. `cut`: end established connections that a tighter policy refuses. `mark`: one bit."""

    node: str
    backend: BackendKind | None = None
    cut: bool = True
    accept: AcceptAction = AcceptAction.RETURN
    mark: int = 0x40000
    guard: GuardOptions = field(default_factory=GuardOptions)


@dataclass(frozen=True, slots=True)
class _Revisions:
    """Of the inputs, as of the last change: of IR and objects (0: unknown), and the API server's, by kind."""

    ir: int = 0
    objects: int = 0
    api: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return f"IR {self.ir}, objects {self.objects}"


class Agent:
    """See the module's docstring. `run` until stopped, or `step` by hand in tests."""

    def __init__(
        self,
        options: AgentOptions,
        source: Source,
        reporter: Reporter,
        run: Runner,
        observer: SyncObserver | None = None,
        blocks: Callable[[], tuple[Network, ...]] | None = None,
    ) -> None:
        self.alive_at = time.monotonic()
        """When the loop last went round; for other threads."""
        self.report: AgentReport | None = None
        """How the node stood then; for other threads."""
        self.requests = Requests()
        """Of other threads, run between two steps."""
        access = kernel_access(options.backend, run)
        compiler = NodeCompiler(options.node, LowerOptions(families=access.families, accept=options.accept, mark=options.mark))
        self.enforcement = NodeEnforcement(compiler, access, run, observer)
        """What is wanted in the kernel, and what is there."""
        self._verification = Verification(self.enforcement.dataplane, run, self._repair)
        """Compares the kernel with what was written."""
        self._cutter = ConntrackCutter(compiler, access.families) if options.cut else None
        """Cuts connections that are refused now."""
        self._guard = NodeGuard(options.guard, blocks or (lambda: options.guard.blocks))
        """Drops what carries an address that is not its pod's."""
        self._node = options.node
        """The node's name."""
        self._source = source
        """Where changes come from."""
        self._reporter = reporter
        """Where reports go."""
        self._start_problems = access.problems
        """What is wrong for as long as the agent runs."""
        self._revisions = _Revisions()
        """Which inputs the compiler has."""
        families = " and ".join(f"IPv{int(f)}" for f in access.families)
        log.info("node %s: iptables-%s, %s", options.node, access.backend.kind.value, families)
        for problem in (*self._start_problems, *self._verification.problems):
            log.warning("%s", problem)

    def run(self, stopped: int) -> None:
        """Until the file descriptor `stopped` is readable."""
        while True:
            self.step()
            waits = [self._source.fileno(), self.requests.fileno(), *self._guard.descriptors, stopped]
            ready, _, _ = select.select(waits, [], [], self.seconds_until_due())
            if stopped in ready:
                return
            if self._source.fileno() in ready:
                self._source.drain()
            if self.requests.fileno() in ready:
                self.requests.run()
            if not {*self._guard.descriptors}.isdisjoint(ready):
                self._guard.drain()

    def step(self) -> None:
        """Everything that is due now; returns without waiting."""
        self.alive_at = time.monotonic()
        changed = self._take_changes()
        if self._source.complete:
            if self.enforcement.step(changed, str(self._revisions)):
                self._note_sync()
            self._verification.step()
            self._keep_guard()
            if self._cutter is not None:
                self._cutter.step()
        self.report = self._make_report()
        self._reporter.write(self.report)

    def seconds_until_due(self) -> float:
        """Until something is due even if no input changes."""
        now = time.monotonic()
        due = [self._verification.due_at if self._source.complete else now + HOOK_CHECK_SECONDS]
        retry_at, cut_at = self.enforcement.dataplane.retry_at, self._cutter.due if self._cutter is not None else None
        guard_at = self._guard.due if self.enforcement.programmed else None
        due += [at for at in (retry_at, cut_at, guard_at) if at is not None]
        return max(0.0, min(due) - now)

    def _keep_guard(self) -> None:
        """Not before the rules were in force once: whoever is not known by then is shut out."""
        enforcement = self.enforcement
        if not enforcement.programmed or self._guard.idle:
            return
        compiler = enforcement.compiler
        ready = pods_in_force(compiler, enforcement.dataplane.behind(compiler.ruleset))
        isolated = {
            key: frozenset(d for policy in compiler.policies_of(key) for d in compiler.policies[policy].directions)
            for key in compiler.pods
        }
        self._guard.step(compiler.pods, ready, isolated)

    def _take_changes(self) -> bool:
        """Whether there were any."""
        delta = self._source.changes()
        delta.apply_to(self.enforcement.compiler)
        self._revisions = _Revisions(delta.ir_revision, delta.objects_revision, delta.revisions)
        return bool(delta)

    def _repair(self, drift: Drift) -> None:
        self.enforcement.dataplane.adopt(drift)
        self.enforcement.sync(drift.touched, str(self._revisions))
        self._note_sync()

    def _note_sync(self) -> None:
        self._verification.note_sync()
        if self.enforcement.result.tightened and self._cutter is not None:
            self._cutter.request()

    def _make_report(self) -> AgentReport:
        enforcement, revisions = self.enforcement, self._revisions
        return AgentReport(
            node=self._node,
            ir_revision=revisions.ir if enforcement.programmed else 0,
            objects_revision=revisions.objects if enforcement.programmed else 0,
            backend=enforcement.dataplane.backend.kind,
            families=enforcement.dataplane.families,
            in_sync=enforcement.in_sync and not self._verification.read_problem,
            failures=enforcement.result.failures,
            problems=self._problems(),
            sizes=enforcement.sizes,
            syncs=enforcement.syncs,
            repairs=self._verification.repairs,
            cut=self._cutter.deleted if self._cutter is not None else 0,
            complete=self._source.complete,
            policies=enforcement.in_force,
            revisions=revisions.api or {},
        )

    def _problems(self) -> tuple[str, ...]:
        problems = (
            *self._start_problems,
            *self._verification.problems,
            *self.enforcement.dataplane.warnings,
            *self._source.problems,
            *self.enforcement.compiler.problems,
            *(self._guard.problems if self.enforcement.programmed else ()),
            *((self._cutter.problem,) if self._cutter is not None and self._cutter.problem else ()),
        )
        return tuple(dict.fromkeys(problems))
