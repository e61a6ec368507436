"""Waiting for a condition, with a limit and with an eye on the program that is to bring it about."""

from __future__ import annotations

import time
from collections.abc import Callable

from netpol_lab.errors import LabError, LabTimeout
from netpol_lab.processes import Processes

_POLL = 0.05


def until(good: Callable[[], bool], what: str, limit: float, processes: Processes, program: str) -> None:
    """Return as soon as `good` says so.

    Raises LabError when `program` has ended, LabTimeout after `limit` seconds; both with `what` and the end of the program's log.
    """
    deadline = time.monotonic() + limit
    while not good():
        if processes.pid(program) is None:
            raise LabError(f"{what}: {program} has ended{processes.tail(program)}")
        if time.monotonic() > deadline:
            raise LabTimeout(f"not within {limit:g} s: {what}{processes.tail(program)}")
        time.sleep(_POLL)
