"""The one way in which tests wait: look until it is so; when it never is, fail with what was seen last.

until(lambda: lab.status()["in_force"], 20, "all is in force")
until(node.report, 20, "in sync", good=lambda report: report.get("in_sync"))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    see: Callable[[], T],
    limit_seconds: float,
    what: str = "",
    *,
    good: Callable[[T], object] = bool,
    wait: Callable[[], object] = lambda: time.sleep(0.02),
) -> T:
    """Return what `see` gives as soon as it is `good`, waiting between two looks. Raises AssertionError after the limit."""
    deadline = time.monotonic() + limit_seconds
    while not good(seen := see()):
        assert time.monotonic() < deadline, _too_late(limit_seconds, what, seen)
        wait()
    return seen


async def until_async(
    see: Callable[[], T],
    limit_seconds: float,
    what: str = "",
    *,
    good: Callable[[T], object] = bool,
    pause_seconds: float = 0.01,
) -> T:
    """The same inside an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + limit_seconds
    while not good(seen := see()):
        assert time.monotonic() < deadline, _too_late(limit_seconds, what, seen)
        await asyncio.sleep(pause_seconds)
    return seen


def until_it_holds(check: Callable[[], T], limit_seconds: float) -> T:
    """Return what `check` returns as soon as it does not fail. Raises its last AssertionError after the limit."""
    deadline = time.monotonic() + limit_seconds
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _too_late(limit_seconds: float, what: str, seen: object) -> str:
    return f"not within {limit_seconds:g} s: {what}; last seen: {seen!r}"
