"""Starting a program with text on its input: the one way in which the dataplane acts on the kernel's tables.

A `Runner` is given by constructor, so that tests count, delay or kill what is started.
"""

from __future__ import annotations

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
    """The real runner. `started` counts."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.started = 0
        self._timeout = timeout
        # The programs' words are parsed, so they must not be translated.
        self._environment = {**os.environ, "LC_ALL": "C"}

    def __call__(self, command: Sequence[str], text: str = "") -> Done:
        self.started += 1
        try:
            done = subprocess.run(
                command, input=text.encode(), capture_output=True, timeout=self._timeout, env=self._environment, check=False
            )
        except subprocess.TimeoutExpired:
            return Done(-1, "", f"{command[0]} did not end within {self._timeout:g} s")
        except OSError as error:
            return Done(-1, "", f"{command[0]}: {error.strerror}")
        return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
