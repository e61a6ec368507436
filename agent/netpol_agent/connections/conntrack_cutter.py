"""When to look for refused connections: soon after a sync that tightened, once more for those in flight, never all the time.

In: requests. Out: passes of `cut_refused` over the state in force. A pass costs time with the size of the conntrack
table, so many changes in a row share passes; the limit of 3 s from the change to the cut stands.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from netpol_agent.connections.conntrack import Cut, cut_refused
from netpol_agent.connections.refused_flows import NodeJudge
from netpol_compiler.model.kinds import Family
from netpol_compiler.node import NodeCompiler

log = logging.getLogger("agent")

AGAIN = 1.0
"""Seconds until the second pass: a packet that passed the old rules may enter the table after the first one."""
REST = 4.0
"""A pass is followed by a rest of this many times its own length, LONGEST_REST seconds at most."""
LONGEST_REST = 2.0


class Cutter:
    """Cuts what a tighter policy refuses. `due`: when `step` has something to do, None for nothing."""

    def __init__(self, compiler: NodeCompiler, families: tuple[Family, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self.due: float | None = None
        self.deleted = 0
        self.problem = ""
        self._compiler = compiler
        self._families = families
        self._clock = clock
        self._passes = 0
        self._rested = 0.0

    def request(self) -> None:
        """Something was tightened just now."""
        self._passes = 2
        soon = max(self._clock(), self._rested)
        self.due = soon if self.due is None else min(self.due, soon)

    def step(self) -> None:
        """Do a pass if one is due."""
        started = self._clock()
        if self.due is None or started < self.due:
            return
        judge = NodeJudge(self._compiler)
        cut = cut_refused(self._families, judge.isolated, judge.refused)
        ended = self._clock()
        self._note(cut)
        self._passes -= 1
        self._rested = ended + min(REST * (ended - started), LONGEST_REST)
        self.due = ended + AGAIN if self._passes > 0 else None

    def _note(self, cut: Cut) -> None:
        self.deleted += cut.deleted
        if cut.problem and cut.problem != self.problem:
            log.warning("%s", cut.problem)
        self.problem = cut.problem
        if cut.deleted:
            log.info("cut %d of %d connections, which policies refuse now", cut.deleted, cut.seen)
