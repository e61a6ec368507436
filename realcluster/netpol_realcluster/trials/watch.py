"""Connections that are tried again and again while something happens: whether a policy's word stands all the time.

In: places, targets and what is expected. Out: the tries that fared otherwise, with the moment of each.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from netpol_realcluster.trials.endpoints import Place

_PERIOD = 0.1
_ENOUGH, _LIMIT = 5, 30.0


@dataclass(frozen=True, slots=True)
class Try:
    """`at`: seconds since the watch began."""

    source: str
    target: str
    at: float
    passed: bool


@dataclass(slots=True)
class Watch:
    """`with Watch({(place, target): whether packets are to pass}) as watch:`, then `wrong()`."""

    expected: Mapping[tuple[Place, str], bool]
    tries: list[Try] = field(default_factory=list)
    _begun: float = field(default_factory=time.monotonic)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _failures: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Watch:
        for place, target in self.expected:
            self._threads.append(threading.Thread(target=self._run, args=(place, target), daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more tries; returns when the last one has been judged."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def enough(self, tries: int = _ENOUGH) -> None:
        """Return when every connection has been tried so many times more, begun and judged from now on. Raises AssertionError."""
        now = time.monotonic() - self._begun
        deadline = time.monotonic() + _LIMIT + 2 * tries * _PERIOD
        while any(self._tried(place, target, now) < tries for place, target in self.expected):
            assert not self._failures, self._failures
            assert time.monotonic() < deadline, f"not {tries} tries of each in time"
            time.sleep(_PERIOD)

    def wrong(self) -> list[Try]:
        """Tries that fared otherwise than expected, of those that have been judged."""
        assert not self._failures, self._failures
        wanted = {(place.name, target): expected for (place, target), expected in self.expected.items()}
        return [t for t in self.tries if t.passed is not wanted[t.source, t.target]]

    def _tried(self, place: Place, target: str, since: float) -> int:
        return sum((t.source, t.target) == (place.name, target) and t.at >= since for t in list(self.tries))

    def _run(self, place: Place, target: str) -> None:
        try:
            asyncio.run(self._repeat(place, target))
        except BaseException as error:  # a thread's own end would go unnoticed
            self._failures.append(error)

    async def _repeat(self, place: Place, target: str) -> None:
        """A new connection every _PERIOD, whether or not the last one has been answered."""
        async with asyncio.TaskGroup() as under_way:
            while not self._over.is_set():
                under_way.create_task(self._once(place, target))
                await asyncio.sleep(_PERIOD)

    async def _once(self, place: Place, target: str) -> None:
        at = time.monotonic() - self._begun
        (answer,) = await place.ask(target)
        self.tries.append(Try(place.name, target, round(at, 2), answer.verdict == "allowed"))
