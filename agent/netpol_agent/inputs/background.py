"""The agent's second thread: one asyncio loop for all that waits for the network, so that enforcement never does.

In: coroutines. Out: nothing; what they learn they hand over by themselves. A task that fails by a fault of its own is logged and
started again, because an agent that silently stopped listening would be worse than one that stopped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

log = logging.getLogger("agent")

AGAIN_SECONDS = 1.0
STOP_SECONDS = 5.0


class Background:
    """Made and stopped by the main thread. `faults`: how often a task had to be started again."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.faults = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._endings: list[Callable[[], Awaitable[None]]] = []
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def forever(self, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` until the end. From any thread."""
        self.loop.call_soon_threadsafe(self._spawn, what, work)

    def wait_for(self, work: Coroutine[Any, Any, Any], seconds: float = STOP_SECONDS) -> Any:
        """The result of `work`; for the main thread, before enforcement begins. Raises what it raises, or TimeoutError."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def at_end(self, work: Callable[[], Awaitable[None]]) -> None:
        self._endings.append(work)

    def stop(self) -> None:
        """End all tasks, then the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self.loop)
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def _spawn(self, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self.loop.create_task(self._guarded(what, work), name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
                return
            except Exception:  # a fault of ours: the other tasks must go on, and this one again
                self.faults += 1
                log.exception("%s failed; starting it again", what)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for ending in self._endings:
            try:
                await ending()
            except Exception:  # the process ends all the same
                log.exception("at the end")
        self.loop.stop()
