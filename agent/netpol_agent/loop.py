"""The agent of one node: the loop in which its parts meet. `start` wires it to folders or to the Kubernetes API.

    Source (own pods, policy IR) --Delta--> NodeCompiler --Touched--> Dataplane --> kernel
       ^ wakes the loop                        |                        |  ^ adopt
       |                                    NodeJudge                   |  |
    what the API tells                         |                     Verifier <-- kernel, read back each 5 s
                                            Cutter (conntrack) <--tightened
                                               +---------> Reporter --> reports/<node>.json, or a NodeReport

One thread acts on the kernel. Nothing is programmed before all inputs are complete. Stopping leaves enforcement in place.
"""

from __future__ import annotations

import gc
import logging
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from netpol_agent.connections.conntrack_cutter import Cutter
from netpol_agent.dataplane.backend import Backend, BackendKind, Detection, detect_backend, find_backend, self_test
from netpol_agent.dataplane.cleanup import clean_other_backend
from netpol_agent.dataplane.dataplane import Dataplane, SyncResult
from netpol_agent.dataplane.kernel_settings import kernel_problems, load_modules
from netpol_agent.dataplane.legacy_check import cross_check
from netpol_agent.dataplane.runner import Runner
from netpol_agent.dataplane.verify import Verifier
from netpol_agent.errors import AgentError, Failure, KernelError
from netpol_agent.inputs.source import Source
from netpol_agent.netlink.ipset import KernelSets
from netpol_agent.reporting.in_force import policies_in_force
from netpol_agent.reporting.report import Report, Reporter, sizes
from netpol_agent.threads.requests import Requests
from netpol_compiler.model.kinds import FAMILIES, Family
from netpol_compiler.node import AcceptAction, LowerOptions, NodeCompiler
from netpol_compiler.ruleset.values import Touched

log = logging.getLogger("agent")

VERIFY_SECONDS = 5.0
GLANCE_SECONDS = 1.0
CROSS_CHECK_EVERY = 60
"""Verifications (5 minutes) between two readings by python-iptables, which takes a process of some 200 ms."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """`backend` None: detect. `cut`: end established connections that a tighter policy refuses. `mark`: one bit."""

    node: str
    backend: BackendKind | None = None
    cut: bool = True
    accept: AcceptAction = AcceptAction.RETURN
    mark: int = 0x40000


class Observer(Protocol):
    """Who is told of what happens, for metrics. Called in the agent's thread; must be quick."""

    def synced(self, seconds: float, result: SyncResult) -> None:
        """The kernel was written."""
        ...


class Agent:
    """See the module's docstring. `run` until stopped, or `step` by hand in tests.

    For other threads: `alive_at` is when the loop last went round (time.monotonic), `report` how the node stood then, and
    `requests` takes their questions.
    """

    def __init__(
        self, options: AgentOptions, source: Source, reporter: Reporter, run: Runner, observer: Observer | None = None
    ) -> None:
        self._options = options
        self._source = source
        self._reporter = reporter
        self._run = run
        self._observer = observer
        self.alive_at = time.monotonic()
        self.report: Report | None = None
        self.requests = Requests()
        load_modules(run)
        kind, self._fixed_problems = _choose(options.backend, run)
        self._backend = find_backend(kind)
        self._families, refused = _tested(self._backend, run)
        self._fixed_problems += refused
        self.compiler = NodeCompiler(
            options.node, LowerOptions(families=self._families, accept=options.accept, mark=options.mark)
        )
        self.dataplane = Dataplane(self._backend, self._families, run, kernel_sets=KernelSets())
        self._verifier = Verifier(self.dataplane)
        self._cutter = Cutter(self.compiler, self._families) if options.cut else None
        self._revisions = (0, 0)
        self._api_revisions: Mapping[str, str] = {}
        self._in_force: Mapping[str, str] = {}
        self._sizes = sizes(self.compiler.ruleset)
        self._first = True
        self._last = SyncResult()
        self._syncs = self._repairs = self._checks = 0
        self._read_problem: tuple[str, ...] = ()
        self._kernel_problems = kernel_problems(self._families)
        self._cross_problems: tuple[str, ...] = ()
        self._next_glance = self._next_check = 0.0
        log.info("node %s: iptables-%s, %s", options.node, kind.value, " and ".join(f"IPv{int(f)}" for f in self._families))
        for problem in (*self._fixed_problems, *self._kernel_problems):
            log.warning("%s", problem)

    def run(self, stopped: int) -> None:
        """Until the file descriptor `stopped` is readable."""
        while True:
            self.step()
            ready, _, _ = select.select([self._source.fileno(), self.requests.fileno(), stopped], [], [], self.patience())
            if stopped in ready:
                return
            if self._source.fileno() in ready:
                self._source.drain()
            if self.requests.fileno() in ready:
                self.requests.run()

    def step(self) -> None:
        """Everything that is due now; returns without waiting."""
        self.alive_at = time.monotonic()
        news = self._take_changes()
        if not self._source.complete:
            self._report()
            return
        touched = self.compiler.flush()
        retry = self.dataplane.retry_at is not None and time.monotonic() >= self.dataplane.retry_at
        if self._first or touched or retry:
            self._sync(None if self._first else touched)
        elif news:
            self._note_in_force()  # a policy whose pods have no address yet changes no rule
        self._verify()
        if self._cutter is not None:
            self._cutter.step()
        self._report()

    def patience(self) -> float:
        """Seconds until something is due even if no input changes."""
        due = [self._next_glance, self._next_check] if self._source.complete else [time.monotonic() + GLANCE_SECONDS]
        if self.dataplane.retry_at is not None:
            due.append(self.dataplane.retry_at)
        if self._cutter is not None and self._cutter.due is not None:
            due.append(self._cutter.due)
        return max(0.0, min(due) - time.monotonic())

    def _take_changes(self) -> bool:
        """Whether there were any."""
        delta = self._source.changes()
        delta.apply_to(self.compiler)
        self._revisions = (delta.ir_revision, delta.objects_revision)
        self._api_revisions = delta.revisions
        return bool(delta)

    def _sync(self, touched: Touched | None) -> None:
        started = time.perf_counter()
        before, self._last = self._last, self.dataplane.sync(self.compiler.ruleset, touched)
        seconds = time.perf_counter() - started
        self._verifier.note()
        self._syncs += self._last.changed
        self._note_in_force()
        self._sizes = sizes(self.compiler.ruleset)
        if self._observer is not None and self._last.changed:
            self._observer.synced(seconds, self._last)
        if self._last.tightened and self._cutter is not None:
            self._cutter.request()
        for failure in self._last.failures:
            if failure not in before.failures:
                log.error("%s", failure.words)
        for failure in before.failures:
            if failure not in self._last.failures:
                log.info("%s: in force again", failure.what)
        if self._last.changed:
            log.info("IR %d, objects %d: programmed in %.0f ms", *self._revisions, seconds * 1000)
        if self._first and not self._last.pending:
            self._first = False
            # What was read for the start stays for long: looking through it for garbage again and again would hold up changes.
            gc.collect()
            gc.freeze()
            other = clean_other_backend(self._backend.kind, self._run)
            if other.chains or other.failures:
                log.warning("iptables-%s: %s", self._backend.kind.other.value, other.words)

    def _note_in_force(self) -> None:
        self._in_force = policies_in_force(self.compiler, self.dataplane.behind(self.compiler.ruleset))

    def _verify(self) -> None:
        now = time.monotonic()
        try:
            if now >= self._next_glance:
                self._next_glance = now + GLANCE_SECONDS
                if self._verifier.hook_lost():
                    self._next_check = now
            if now < self._next_check:
                return
            self._next_check = now + VERIFY_SECONDS
            self._kernel_problems = kernel_problems(self._families)
            drift = self._verifier.check()
            self._read_problem = ()
        except KernelError as error:
            self._read_problem = (str(error),)
            return
        if drift:
            self._repairs += 1
            log.warning("repairing: somebody changed %s", drift.words)
            self.dataplane.adopt(drift)
            self._sync(drift.touched)
        self._cross_check()

    def _cross_check(self) -> None:
        if self._backend.kind is not BackendKind.LEGACY:
            return
        if self._checks % CROSS_CHECK_EVERY == 1:
            problems = cross_check(self.dataplane.chains, self._run)
            for problem in problems:
                if problem not in self._cross_problems:
                    log.warning("%s", problem)
            self._cross_problems = problems
        self._checks += 1

    def _report(self) -> None:
        programmed = not self._first
        waiting = bool(self.compiler.problems or self._read_problem)
        failures: tuple[Failure, ...] = self._last.failures
        report = Report(
            node=self._options.node,
            ir_revision=self._revisions[0] if programmed else 0,
            objects_revision=self._revisions[1] if programmed else 0,
            backend=self._backend.kind,
            families=self._families,
            in_sync=programmed and not failures and not waiting and not self._last_incomplete(),
            failures=failures,
            problems=self._problems(),
            sizes=self._sizes,
            syncs=self._syncs,
            repairs=self._repairs,
            cut=self._cutter.deleted if self._cutter is not None else 0,
            complete=self._source.complete,
            policies=self._in_force,
            revisions=self._api_revisions,
        )
        self.report = report
        self._reporter.write(report)

    @property
    def programmed(self) -> bool:
        """Whether this node's rules were in force once since the start."""
        return not self._first

    def _problems(self) -> tuple[str, ...]:
        cutting = (self._cutter.problem,) if self._cutter is not None and self._cutter.problem else ()
        problems = (
            *self._fixed_problems,
            *self._kernel_problems,
            *self._cross_problems,
            *self._read_problem,
            *self.dataplane.warnings,
            *self._source.problems,
            *self.compiler.problems,
            *cutting,
        )
        return tuple(dict.fromkeys(problems))

    def _last_incomplete(self) -> bool:
        """Whether something that decides about packets is still to be written (a set that only has to go does not)."""
        return self._last.pending and bool(self.dataplane.behind(self.compiler.ruleset))


def _choose(kind: BackendKind | None, run: Runner) -> tuple[BackendKind, tuple[str, ...]]:
    """The backend to use for good, and what is wrong with the choice."""
    detected = detect_backend(run) if kind is None else Detection(kind, "as told")
    log.info("backend %s: %s", detected.kind.value, detected.why)
    return detected.kind, (detected.problem,) if detected.problem else ()


def _tested(backend: Backend, run: Runner) -> tuple[tuple[Family, ...], tuple[str, ...]]:
    """The families that can be programmed here. Raises AgentError when IPv4 cannot."""
    complaints = {family: self_test(backend, family, run) for family in FAMILIES}
    if complaints[Family.V4]:
        raise AgentError(
            f"this node cannot match sets in iptables-{backend.kind.value}: {complaints[Family.V4]}",
            "the agent needs NET_ADMIN and the kernel's ip_set, xt_set and conntrack modules",
        )
    problems = (f"IPv6 cannot be filtered on this node: {complaints[Family.V6]}",) if complaints[Family.V6] else ()
    return tuple(f for f in FAMILIES if not complaints[f]), problems
