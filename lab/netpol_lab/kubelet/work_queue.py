"""Requests that must come true, asked for again and again by who compares what is with what should be.

    every pass: begin() ──▶ ask(slot, basis, work) for all that is still wanted ──▶ end()

A slot is one thing to be done to one object. What was done is not done again for the same basis (the version of the object that
it was worked out from), so the time until the watch shows it costs no second request. What fails is tried again, later and later;
what is not asked for in a pass is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from netpol_kube.backoff import Backoff
from netpol_kube.client import ApiError, KubeError

log = logging.getLogger("npctl.lab")

Slot = tuple[str, ...]
"""What is done, then the kind and the name of the object: ("create", "Pod", "default/web")."""

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.05, 1.0
"""Until the next try: the first wait and the longest."""
CONCURRENT = 32
"""Requests under way at the same time."""


@dataclass(slots=True)
class _Entry:
    basis: object
    lasting: bool
    asked: bool = True
    newest: object = None
    done: bool = False
    task: asyncio.Task[None] | None = None
    backoff: Backoff = field(default_factory=lambda: Backoff(RETRY_SECONDS, LONGEST_RETRY_SECONDS))
    again: float = 0.0
    words: str = ""


class RequestQueue:
    """Lives in one event loop. `wake` is called when there is reason for another pass."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._entries: dict[Slot, _Entry] = {}
        self._turns = asyncio.Semaphore(CONCURRENT)

    def begin(self) -> None:
        for entry in self._entries.values():
            entry.asked = False

    def ask(self, slot: Slot, basis: object, work: Callable[[], Awaitable[Any]], *, lasting: bool = False) -> None:
        """Have `work` done, unless it is under way, was done for this `basis`, or failed a moment ago.

        `lasting`: it is asked for also after it was done, so that nobody should wait for the end of that.
        """
        entry = self._entries.setdefault(slot, _Entry(basis, lasting))
        entry.asked, entry.newest = True, basis
        if entry.task is not None:
            return
        if entry.basis != basis:
            entry.basis, entry.done, entry.again = basis, False, 0.0
        if entry.done or asyncio.get_running_loop().time() < entry.again:
            return
        entry.task = asyncio.ensure_future(self._do(slot, entry, basis, work))

    def end(self) -> None:
        """Forget what nobody asks for any more."""
        self._entries = {s: e for s, e in self._entries.items() if e.asked or e.task}

    @property
    def under_way(self) -> int:
        """How many requests wait for their answer, or for their turn."""
        return sum(1 for e in self._entries.values() if e.task)

    @property
    def open(self) -> tuple[str, ...]:
        """What is not known to be there yet, with the last error."""
        entries = [(slot, e) for slot, e in self._entries.items() if not (e.lasting and e.done)]
        return tuple(" ".join(slot) + (f" ({e.words})" if e.words else "") for slot, e in entries)

    async def _do(self, slot: Slot, entry: _Entry, basis: object, work: Callable[[], Awaitable[Any]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._turns:
                await work()
            entry.done, entry.words = True, ""
            entry.backoff.reset()
        except Exception as error:  # one object's fault must not end the loop that serves all others
            expected = isinstance(error, KubeError)
            words = str(error) if expected else repr(error)
            quiet = isinstance(error, ApiError) and _is_overtaken(error)
            if words != entry.words and not quiet:
                log.warning("%s: %s", " ".join(slot), words, exc_info=not expected)
            entry.words = words
            delay = entry.backoff.next_seconds()
            entry.again = loop.time() + delay
            loop.call_later(delay, self._wake)
        finally:
            entry.task = None
        if entry.done and (entry.newest != basis or not entry.asked):
            self._wake()


def _is_overtaken(error: ApiError) -> bool:
    """Whether somebody was faster: the watch will show what came of it."""
    return error.status in (404, 409) or (error.status == 403 and "being terminated" in error.message)


__all__ = ["RequestQueue"]
