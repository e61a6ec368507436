"""When to look for refused connections: soon after a sync that tightened, once more for those in flight, never all the time.

    IDLE --request--> FIRST_PASS --pass--> SECOND_PASS --pass--> IDLE
                          ^------request-------'

In: requests. Out: passes of `cut_refused` over the state in force. A pass costs time with the size of the conntrack
table, so many changes in a row share passes; the limit of 3 s from the change to the cut stands.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum

from netpol_agent.connections.conntrack import Cut, cut_refused
from netpol_agent.connections.refused_flows import NodeJudge
from netpol_compiler.model.kinds import Family
from netpol_compiler.node import NodeCompiler

log = logging.getLogger("agent")

SECOND_PASS_SECONDS = 1.0
"""After the first pass: a packet that passed the old rules may enter the table after it."""
REST_PER_PASS = 4.0
"""A pass is followed by a rest of this many times its own length."""
LONGEST_REST_SECONDS = 2.0


class CutState(Enum):
    """What is to be done next."""

    IDLE = "nothing was tightened since the last two passes"
    FIRST_PASS = "something was tightened, and the table not read since"
    SECOND_PASS = "the table was read once since"


_AFTER_PASS = {CutState.FIRST_PASS: CutState.SECOND_PASS, CutState.SECOND_PASS: CutState.IDLE}


class ConntrackCutter:
    """Cuts what a tighter policy refuses. Times are seconds of `clock`."""

    def __init__(self, compiler: NodeCompiler, families: tuple[Family, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self.due: float | None = None
        """When `step` has something to do; None while IDLE."""
        self.deleted = 0
        """Connections cut so far."""
        self.problem = ""
        """Why the last pass could not be finished; empty if it could."""
        self._state = CutState.IDLE
        """What is to be done next."""
        self._rested_at = 0.0
        """When the rest after the last pass ends."""
        self._compiler = compiler
        """The state in force."""
        self._families = families
        """Whose tables are read."""
        self._clock = clock
        """Tells the time."""

    def request(self) -> None:
        """Something was tightened just now."""
        self._state = CutState.FIRST_PASS
        soon = max(self._clock(), self._rested_at)
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
        self._state = _AFTER_PASS[self._state]
        self._rested_at = ended + min(REST_PER_PASS * (ended - started), LONGEST_REST_SECONDS)
        self.due = ended + SECOND_PASS_SECONDS if self._state is CutState.SECOND_PASS else None

    def _note(self, cut: Cut) -> None:
        self.deleted += cut.deleted
        if cut.problem and cut.problem != self.problem:
            log.warning("%s", cut.problem)
        self.problem = cut.problem
        if cut.deleted:
            log.info("cut %d of %d connections, which policies refuse now", cut.deleted, cut.seen)
