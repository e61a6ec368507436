"""A file descriptor that one thread makes readable to wake another, which waits in `select`.

In: calls of `wake`. Out: a readable descriptor, until `clear`. What there is to do is the caller's own matter.
"""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """`wake` from any thread; the others in the thread that waits."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Counts the calls of `wake` since the last `clear`."""

    def wake(self) -> None:
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        return self._event

    def clear(self) -> None:
        """Wait for the next `wake`."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def close(self) -> None:
        os.close(self._event)
