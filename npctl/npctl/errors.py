"""Exit codes and the one exception that ends a command with a message for people.

Everything that a user can do wrong becomes a `CommandError`; a traceback is always a fault of npctl itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Protocol


class ExitCode(IntEnum):
    """What scripts can rely on; documented in docs/cli.md."""

    OK = 0
    NEGATIVE = 1  # the answer is no: differs, refused, lint errors
    BAD_INPUT = 2  # files or usage
    MISSING = 3  # a requirement of this machine: namespaces, a program
    TIMEOUT = 4


class CommandError(Exception):
    """Ends the command: `lines` go to stderr, one each, then `remedy` if there is one."""

    def __init__(self, code: ExitCode, lines: Iterable[str] | str, remedy: str = "") -> None:
        self.code = code
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        self.remedy = remedy
        super().__init__("; ".join(self.lines))


class HasWords(Protocol):
    """What bad input looks like here: `Rejected` of the compiler, or an unreadable file."""

    @property
    def words(self) -> str: ...


def bad_input(problems: Iterable[HasWords]) -> CommandError:
    """All problems of all files at once, because fixing one by one wastes people's time."""
    lines = [problem.words for problem in problems]
    count = f"{len(lines)} problems" if len(lines) > 1 else "1 problem"
    return CommandError(ExitCode.BAD_INPUT, lines, f"{count}; nothing was done. Correct the lines named above and run it again.")


def usage(message: str, remedy: str = "") -> CommandError:
    """A mistake on the command line itself."""
    return CommandError(ExitCode.BAD_INPUT, message, remedy)
