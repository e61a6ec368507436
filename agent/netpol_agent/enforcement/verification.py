"""When the kernel is compared with what was written, and repaired.

    each second         hook check --it is not there--> full check at once
    each 5 seconds      full check --somebody changed something--> repair
    each 60th of those  cross check, on legacy: a second reading by other means, which only reports

In: a dataplane. Out: repairs, by the caller's function, and problems. What differs is `dataplane.verify`'s matter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.dataplane import Dataplane, Drift
from netpol_agent.dataplane.kernel_settings import kernel_problems
from netpol_agent.dataplane.legacy_check import cross_check
from netpol_agent.dataplane.runner import Runner
from netpol_agent.dataplane.verify import Verifier
from netpol_agent.errors import KernelError

log = logging.getLogger("agent")

HOOK_CHECK_SECONDS = 1.0
FULL_CHECK_SECONDS = 5.0
FULL_CHECKS_PER_CROSS_CHECK = 60
"""Five minutes: a cross check takes a process of some 200 ms."""


class Verification:
    """`step` when `due_at` has come (time.monotonic)."""

    def __init__(self, dataplane: Dataplane, run: Runner, repair: Callable[[Drift], None]) -> None:
        self.repairs = 0
        """How often somebody had changed something."""
        self.read_problem: tuple[str, ...] = ()
        """Why the last check could not read the kernel; empty if it could."""
        self._dataplane = dataplane
        """What was written."""
        self._run = run
        """Starts programs."""
        self._repair = repair
        """Writes again what somebody changed."""
        self._verifier = Verifier(dataplane)
        """Compares."""
        self._kernel_problems = kernel_problems(dataplane.families)
        """Settings of the kernel with which packets pass by our rules."""
        self._cross_problems: tuple[str, ...] = ()
        """What the last cross check found."""
        self._full_checks = 0
        """How many there were."""
        self._hook_check_at = self._full_check_at = 0.0
        """When the next ones are due."""

    def note_sync(self) -> None:
        """Call after each write to the kernel."""
        self._verifier.note()

    @property
    def due_at(self) -> float:
        return min(self._hook_check_at, self._full_check_at)

    @property
    def problems(self) -> tuple[str, ...]:
        return (*self._kernel_problems, *self._cross_problems, *self.read_problem)

    def step(self) -> None:
        """Make the checks that are due."""
        now = time.monotonic()
        try:
            if now >= self._hook_check_at:
                self._hook_check_at = now + HOOK_CHECK_SECONDS
                if self._verifier.hook_lost():
                    self._full_check_at = now
            if now < self._full_check_at:
                return
            self._full_check_at = now + FULL_CHECK_SECONDS
            self._kernel_problems = kernel_problems(self._dataplane.families)
            drift = self._verifier.check()
            self.read_problem = ()
        except KernelError as error:
            self.read_problem = (str(error),)
            return
        if drift:
            self.repairs += 1
            log.warning("repairing: somebody changed %s", drift.words)
            self._repair(drift)
        if self._dataplane.backend.kind is BackendKind.LEGACY:
            self._cross_check()

    def _cross_check(self) -> None:
        if self._full_checks % FULL_CHECKS_PER_CROSS_CHECK == 1:
            problems = cross_check(self._dataplane.chains, self._run)
            for problem in problems:
                if problem not in self._cross_problems:
                    log.warning("%s", problem)
            self._cross_problems = problems
        self._full_checks += 1
