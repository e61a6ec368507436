"""Starting a program with text on its input: the one way in which the dataplane acts on the kernel's tables.

A `Runner` is given by constructor, so that tests count, delay or kill what is started.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

TIMEOUT = 60.0
"""Seconds after which a program counts as stuck. Well above the 10 s that we wait for the xtables lock."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended. `code` is -1 when it never started or was stuck; then `err` says so."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def words(self) -> str:
        """Its complaint in one line."""
        noise = ("Try `", "# Warning")
        lines = [line.strip() for line in self.err.splitlines() if line.strip() and not line.startswith(noise)]
        return " ".join(lines) or f"exit code {self.code}"


class Runner(Protocol):
    """Runs `command` with `text` as its standard input, to its end."""

    def __call__(self, command: Sequence[str], text: str = "") -> Done: ...


class Processes:
    """The real runner.

    `ahead`: programs, by name, of which the next process is started before there is work for it, and waits for its input: half of
    what a small change takes is the start of the process. One that waits has read nothing of the kernel yet, and one whose
    starter dies reads an empty input, which changes nothing.
    """

    def __init__(self, timeout: float = TIMEOUT, ahead: frozenset[str] = frozenset()) -> None:
        self._timeout = timeout
        self._ahead = ahead
        self._waiting: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}
        # The programs' words are parsed, so they must not be translated.
        self._environment = {**os.environ, "LC_ALL": "C"}

    def __call__(self, command: Sequence[str], text: str = "") -> Done:
        process = self._waiting.pop(tuple(command), None)
        if process is not None and process.poll() is not None:
            process.communicate()  # it ended while it waited: take its leftovers away, and start another
            process = None
        try:
            done = self._finish(process or self._start(command), command[0], text)
        except OSError as error:
            return Done(-1, "", f"{command[0]}: {error.strerror}")
        if os.path.basename(command[0]) in self._ahead:
            with contextlib.suppress(OSError):  # then the next one is started when it is needed, and says why it cannot
                self._waiting[tuple(command)] = self._start(command)
        return done

    def close(self) -> None:
        """End the processes that still wait for work."""
        while self._waiting:
            _, process = self._waiting.popitem()
            process.kill()
            process.communicate()

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Raises OSError."""
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment)

    def _finish(self, process: subprocess.Popen[bytes], program: str, text: str) -> Done:
        try:
            out, err = process.communicate(text.encode(), self._timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Done(-1, "", f"{program} did not end within {self._timeout:g} s")
        return Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
