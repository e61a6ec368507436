"""Requests of other threads to the agent's loop: run between two steps, where nothing is half done.

In: functions. Out: their results, to the thread that asked. A file descriptor wakes the loop.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from netpol_agent.threads.wakeup import Wakeup

T = TypeVar("T")


class Requests:
    """`ask` from any thread; `run` in the agent's."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        """Requests that were not run yet, each with where its result goes."""
        self._wakeup = Wakeup()
        """Wakes the agent's loop when there is a request."""

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """The future result of `question`, which must be quick."""
        answer: Future[T] = Future()
        self._queue.put((answer, question))
        self._wakeup.wake()
        return answer

    def fileno(self) -> int:
        return self._wakeup.fileno()

    def run(self) -> None:
        """Answer all requests in the queue."""
        self._wakeup.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                answer, question = self._queue.get_nowait()
                if answer.set_running_or_notify_cancel():
                    try:
                        answer.set_result(question())
                    except Exception as error:  # it belongs to the one who asked
                        answer.set_exception(error)
