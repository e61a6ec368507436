"""How long to wait before the next try: one rule for everything that is tried again after a failure.

In: the first and the longest wait. Out: seconds, growing with each failure in a row until `reset`. Left out: the waiting itself;
an event loop, a thread and a deadline wait in their own ways.
"""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Waits from `initial_seconds`, `factor` times as long after each failure, `maximum_seconds` at most.

    `jitter`: the part of a wait that is random, so that clients which failed together do not come back together; 0.5 means
    between half and all of it.
    """

    __slots__ = ("_factor", "_initial_seconds", "_jitter", "_maximum_seconds", "_random", "seconds")

    def __init__(
        self,
        initial_seconds: float,
        maximum_seconds: float,
        *,
        factor: float = 2.0,
        jitter: float = 0.0,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._initial_seconds = initial_seconds
        self._maximum_seconds = maximum_seconds
        self._factor = factor
        self._jitter = jitter
        self._random = random
        self.seconds = initial_seconds
        """The next wait, before its jitter."""

    def next_seconds(self, at_least: float = 0.0) -> float:
        """The wait after one more failure; `at_least`: what the server asked for (Retry-After), before the jitter."""
        wait = max(at_least, self.seconds)
        self.seconds = min(self.seconds * self._factor, self._maximum_seconds)
        return wait * (1.0 - self._jitter * self._random())

    def reset(self) -> None:
        """It went well: the next failure is the first one again."""
        self.seconds = self._initial_seconds
