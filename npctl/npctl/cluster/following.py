"""Following lists of a cluster: each is listed, then watched, and the caller judges after every change.

In: paths, and who is told of objects that come, change and go. Out: whether what was waited for has come to be. Failures that
waiting can cure are waited for; another one (403, 404) ends it with a CommandError, unless the list was read before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from netpol_kube.errors import ApiError, Json, KubeError
from netpol_kube.reflector import Reflector
from npctl.cluster.api import Api

# What a reflector says while it tries again is for a daemon's log. Here nobody has set one up; the end of the command says it.
logging.getLogger("npctl.watch").addHandler(logging.NullHandler())


class Told(Protocol):
    """Who is told, and judges."""

    def put(self, path: str, data: Json) -> None:
        """An object of the list `path` that is new or has changed."""
        ...

    def gone(self, path: str, namespace: str, name: str) -> None:
        """A known object was deleted."""
        ...

    def listed(self, path: str) -> None:
        """All objects of the list were told."""
        ...


class Following:
    """One wait. `problem` is what keeps the API server's answer from coming, in words; empty when nothing does."""

    def __init__(self, api: Api, paths: Mapping[str, Mapping[str, str]], told: Told) -> None:
        self._api = api
        self._changed = asyncio.Event()
        self._reflectors = [self._reflector(path, params, told) for path, params in paths.items()]

    def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Follow until `done`, which is asked after changes, for `seconds` at most. Returns whether it is done."""
        log = logging.getLogger("npctl.watch")
        level = log.level
        # What a reflector says while it tries again is for a daemon's log; here the end of the command says it.
        log.setLevel(logging.CRITICAL)
        try:
            return self._api.run(self._until(done, seconds), "", "watch")
        finally:
            log.setLevel(level)

    @property
    def problem(self) -> str:
        return next((r.problem for r in self._reflectors if r.problem), "")

    def _reflector(self, path: str, params: Mapping[str, str], told: Told) -> Reflector:
        def listed() -> None:
            told.listed(path)
            self._changed.set()

        sink = _Sink(path, told, self._changed)
        return Reflector(self._api.client, path, sink, dict(params), on_listed=listed, gives_up=_is_final)

    async def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        tasks = [asyncio.create_task(self._run(reflector)) for reflector in self._reflectors]
        for task in tasks:
            task.add_done_callback(lambda _: self._changed.set())
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    await self._changed.wait()
                    self._changed.clear()
                    for task in tasks:
                        if task.done():
                            task.result()
        except TimeoutError:
            return False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return True

    async def _run(self, reflector: Reflector) -> None:
        try:
            await reflector.run()
        except KubeError as error:
            raise self._api.problem(error, reflector.path, "list") from error


@dataclass(frozen=True, slots=True)
class _Sink:
    """One list's."""

    path: str
    told: Told
    changed: asyncio.Event

    def put(self, data: Json) -> None:
        self.told.put(self.path, data)
        self.changed.set()

    def gone(self, namespace: str, name: str) -> None:
        self.told.gone(self.path, namespace, name)
        self.changed.set()


def _is_final(error: KubeError) -> bool:
    """Whether waiting cannot cure it."""
    return isinstance(error, ApiError) and not error.is_passing
