"""The agent's second thread: one asyncio loop for all that waits for the network, so that enforcement never does.

In: coroutine functions. Out: nothing; they hand over what they learn by themselves. A task that fails by a fault of its own is
logged and started again: an agent that silently stopped listening would be worse than one that stopped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

log = logging.getLogger("agent")

RESTART_DELAY_SECONDS = 1.0
STOP_LIMIT_SECONDS = 5.0

Work = Callable[[], Coroutine[Any, Any, None]]


class Background:
    """Made and stopped by the main thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        """Runs in the background's thread from `start` to `stop`."""
        self.faults = 0
        """How often a task had to be started again."""
        self._tasks: set[asyncio.Task[None]] = set()
        """The tasks that have not ended."""
        self._endings: list[Callable[[], Awaitable[None]]] = []
        """What is called at the end, after all tasks have ended."""
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        """The thread of `loop`."""

    def start(self) -> None:
        self._thread.start()

    def run(self, what: str, work: Work) -> None:
        """Run `work` until it returns or the background stops. From any thread."""
        self.loop.call_soon_threadsafe(self.spawn, what, work)

    def spawn(self, what: str, work: Work) -> None:
        """As `run`, from the background's own thread."""
        task = self.loop.create_task(self._guarded(what, work), name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def wait_for(self, work: Coroutine[Any, Any, Any], seconds: float = STOP_LIMIT_SECONDS) -> Any:
        """The result of `work`; for the main thread, before enforcement begins. Raises what it raises, or TimeoutError."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def at_end(self, work: Callable[[], Awaitable[None]]) -> None:
        self._endings.append(work)

    def stop(self) -> None:
        """End all tasks, then the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self.loop)
            self._thread.join(STOP_LIMIT_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    async def _guarded(self, what: str, work: Work) -> None:
        while True:
            try:
                await work()
                return
            except Exception:  # a fault of ours: the other tasks must go on, and this one again
                self.faults += 1
                log.exception("%s failed; starting it again", what)
                await asyncio.sleep(RESTART_DELAY_SECONDS)

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
