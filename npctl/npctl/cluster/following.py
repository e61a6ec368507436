"""Following lists of a cluster: each is listed once, then watched, and what comes is handed over in order through one queue.

In: paths. Out: `Change`s: a whole list (also after a watch that broke or grew too old), or one object that came, changed or went.
Each path has a thread; an answer that waiting cannot cure (403, 404) ends the iteration with its error.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from npctl.cluster.api import Api, ApiError, Json, Unreachable
from npctl.errors import CommandError

_PAUSE = 0.5
"""Seconds between attempts to reach an API server that does not answer."""


@dataclass(frozen=True, slots=True)
class Change:
    """`listed`: everything there is now; else one object, and whether it is gone."""

    path: str
    listed: tuple[Json, ...] | None = None
    item: Json | None = None
    gone: bool = False


class Following:
    """A context manager; leaving it ends the watches."""

    def __init__(self, api: Api, seconds: float) -> None:
        self._api = api
        self._deadline = time.monotonic() + seconds
        self._changes: queue.SimpleQueue[Change | CommandError] = queue.SimpleQueue()
        self._streams: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over.set()
            for response in self._streams:
                _end(response)
        for thread in self._threads:
            thread.join(_PAUSE * 2)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def follow(self, path: str, **params: object) -> None:
        """Begin to list and watch `path`."""
        thread = threading.Thread(target=self._run, args=(path, params), name=f"follow {path}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def batches(self) -> Iterator[list[Change]]:
        """What has come since the last batch, as soon as something has; ends at the deadline. Raises CommandError."""
        while True:
            try:
                batch = [self._changes.get(timeout=self.left)] if self.left else [self._changes.get_nowait()]
            except queue.Empty:
                return
            while not self._changes.empty():
                batch.append(self._changes.get())
            yield [_change(c) for c in batch]

    def _run(self, path: str, params: dict[str, object]) -> None:
        known = False
        while not self._over.is_set():
            try:
                listing = self._api.listed(path, **params)
                known = True
                self._changes.put(Change(path, listed=tuple(listing.items)))
                self._watch(path, listing.resource_version, params)
            except CommandError as error:
                if self.left <= 0 or not (known or _passes(error)):
                    self._changes.put(error)
                    return
                self._over.wait(_PAUSE)

    def _watch(self, path: str, resource_version: str, params: dict[str, object]) -> None:
        """Until the watch ends."""
        for event in self._api.watch(path, resource_version, max(1.0, self.left), self._opened, **params):
            kind, item = event.get("type"), event.get("object") or {}
            if kind == "ERROR":
                return  # most often too old a version: the next round lists again
            if kind in ("ADDED", "MODIFIED", "DELETED"):
                self._changes.put(Change(path, item=item, gone=kind == "DELETED"))

    def _opened(self, response: Any) -> None:
        with self._lock:
            self._streams.append(response)
            if self._over.is_set():
                _end(response)


def _end(response: Any) -> None:
    """Wake the thread that reads it, which would wait for the server's next word; one that has ended already says so."""
    with suppress(ValueError, OSError, RuntimeError, AttributeError):
        response.shutdown()


def _passes(error: CommandError) -> bool:
    """Whether waiting may cure it. What has been listed once may be listed again, whatever a server that starts says."""
    return isinstance(error, Unreachable) or (isinstance(error, ApiError) and (error.is_gone or error.is_busy))


def _change(change: Change | CommandError) -> Change:
    if isinstance(change, CommandError):
        raise change
    return change
