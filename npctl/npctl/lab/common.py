"""What every lab command shares: the errors of a lab as exit codes, and a progress line on terminals."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from netpol_lab.errors import LabError, LabForbidden, LabLacksPrograms, LabMissing, LabTimeout
from npctl.errors import CommandError, ExitCode

_CLEAR = "\r\x1b[K"
_WIDTH = 100


@contextmanager
def lab_errors() -> Iterator[None]:
    """A lab's errors become the command's end, with the exit code that says what to do about it."""
    try:
        yield
    except LabForbidden as error:
        remedy = f"{error.remedy}; or add --simulate to `npctl lab run`, which needs no namespaces"
        raise CommandError(ExitCode.MISSING, f"this machine forbids the lab's namespaces: {error.reason}", remedy) from error
    except (LabMissing, LabLacksPrograms) as error:
        raise CommandError(ExitCode.MISSING, str(error)) from error
    except LabTimeout as error:
        raise CommandError(ExitCode.TIMEOUT, str(error).splitlines(), "`npctl lab status` shows which node lags") from error
    except LabError as error:
        raise CommandError(ExitCode.BAD_INPUT, str(error).splitlines()) from error


@contextmanager
def progress_line() -> Iterator[Progress]:
    """One line on stderr that is written over, when that is a terminal; nothing else, so that logs stay readable."""
    line = Progress(sys.stderr.isatty())
    try:
        yield line
    finally:
        line.clear()


class Progress:
    """Call it with what is being done now."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def __call__(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"{_CLEAR}{text[:_WIDTH]}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
