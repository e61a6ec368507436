"""When the publisher works: it wakes when something has changed, rests after a batch, and tries again what has failed.

`Wakeup` says since when there is work, `RetryTimer` when to try again, `Progress` whether a batch gets anywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from netpol_kube.backoff import Backoff

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 2.0
"""Until what failed is tried again: the first wait and the longest."""
REST_FACTOR = 2.0
"""After a batch whose computing took T, the next one waits this many times T: changes of a burst share a batch, and computing
takes a third of a core at most."""
SHORTEST_REST_SECONDS, LONGEST_REST_SECONDS = 0.01, 0.5
STUCK_SECONDS = 120.0
"""Longer than any request may take (see netpol_kube.client.REQUEST_SECONDS), tried again once."""


class Wakeup:
    """An event that remembers when it was first set."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._since = 0.0

    def set(self) -> None:
        if not self._event.is_set():
            self._since = time.perf_counter()
            self._event.set()

    async def wait(self) -> float:
        """Wait until it is set, and clear it. Returns when it was set first (time.perf_counter)."""
        await self._event.wait()
        self._event.clear()
        return self._since


class RetryTimer:
    """Calls `on_due` a while after something has failed, later each time until nothing fails."""

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._on_due = on_due
        self._backoff = Backoff(RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        self._timer: asyncio.TimerHandle | None = None

    def after_batch(self, failed: bool) -> None:
        """A batch has ended, and left something that failed or not."""
        if not failed:
            self._backoff.reset()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._backoff.next_seconds(), self._due)

    def _due(self) -> None:
        self._timer = None
        self._on_due()


class BatchProgress:
    """Whether a batch that is under way gets anywhere.

    Slow is not stuck, and an API server that does not answer is nothing that a restart would mend.
    """

    def __init__(self) -> None:
        self._working = False
        self._last = 0.0

    def begin(self) -> None:
        """A batch begins."""
        self._working, self._last = True, time.monotonic()

    def step(self) -> None:
        """One object was written."""
        self._last = time.monotonic()

    def end(self) -> None:
        """The batch has ended, well or not."""
        self._working = False

    @property
    def stuck(self) -> str:
        """Why a restart would help; empty when it would not."""
        idle = time.monotonic() - self._last
        return f"a batch has been under way for {idle:.0f} s without one write" if self._working and idle >= STUCK_SECONDS else ""


async def rest(computing_seconds: float) -> None:
    """Wait after a batch, in proportion to what its computing took."""
    seconds = min(REST_FACTOR * computing_seconds, LONGEST_REST_SECONDS)
    if seconds > SHORTEST_REST_SECONDS:
        await asyncio.sleep(seconds)
