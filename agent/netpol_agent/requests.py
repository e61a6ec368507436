"""Questions that other threads ask the agent's loop: run between two steps, where nothing is half done.

In: functions. Out: their results, to the thread that asked. A file descriptor wakes the loop.
"""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Errands:
    """`ask` from any thread; `run` in the agent's."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """The future result of `question`, which must be quick."""
        answer: Future[T] = Future()
        self._waiting.put((answer, question))
        os.eventfd_write(self._event, 1)
        return answer

    def fileno(self) -> int:
        return self._event

    def run(self) -> None:
        """Answer all that wait."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        with contextlib.suppress(queue.Empty):
            while True:
                answer, question = self._waiting.get_nowait()
                if answer.set_running_or_notify_cancel():
                    try:
                        answer.set_result(question())
                    except Exception as error:  # it belongs to the one who asked
                        answer.set_exception(error)
