"""Tables, JSON and YAML on stdout; warnings and errors on stderr; colours only on a terminal.

In: plain data (dicts, lists, text). Out: text. Nothing here knows what the data means.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any


class Format(str, Enum):
    """The values of -o. `wide` is a table with more columns; both are for people and may change."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"

    @property
    def is_data(self) -> bool:
        """Whether the output is for programs: then its shape is stable."""
        return self in (Format.JSON, Format.YAML)


class Colour(str, Enum):
    """Select Graphic Rendition parameters."""

    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    BOLD = "1"
    DIM = "2"


def paint(text: str, colour: Colour | None, stream: Any = None) -> str:
    """`text` in `colour` when the stream is a terminal and NO_COLOR is not set; else `text`."""
    target = sys.stdout if stream is None else stream
    if colour is None or not text or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{colour.value}m{text}\x1b[0m" if target.isatty() else text


def say(text: str = "") -> None:
    """One line of the answer."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        forget_stdout()
        raise SystemExit(0) from None  # the reader has seen enough, as in `npctl ... | head`


def finish() -> None:
    """Write what is still buffered, now: at the interpreter's end a closed pipe would be reported as a fault."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()


def forget_stdout() -> None:
    """Nobody reads it any more; what is still to be written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(text: str) -> None:
    """One line on stderr: `warning: ...`."""
    sys.stderr.write(f"{paint('warning:', Colour.YELLOW, sys.stderr)} {text}\n")


def fail(text: str) -> None:
    """One line on stderr: `error: ...`."""
    sys.stderr.write(f"{paint('error:', Colour.RED, sys.stderr)} {text}\n")


def hint(text: str) -> None:
    """One line on stderr that says what to do now."""
    sys.stderr.write(f"{paint('hint:', Colour.DIM, sys.stderr)} {text}\n")


def emit(data: Any, form: Format) -> None:
    """Write data as JSON or YAML."""
    if form is Format.YAML:
        import yaml

        say(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=130).rstrip("\n"))
        return
    say(json.dumps(data, indent=2, ensure_ascii=False))


Cell = str | tuple[str, Colour | None]


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[str]:
    """Lines of a table in kubectl's manner: capitals above, columns three blanks apart, no frame.

    A cell is text, or text with a colour (widths are counted without it).
    """
    cells = [list(row) for row in rows]
    plain = [[_text(cell) for cell in row] for row in cells]
    widths = [max([len(h), *(len(r[i]) for r in plain)]) for i, h in enumerate(header)]
    lines = ["   ".join(h.ljust(w) for h, w in zip(header, widths, strict=True)).rstrip()] if any(header) else []
    for row in cells:
        parts = [_pad(cell, width) for cell, width in zip(row, widths, strict=True)]
        lines.append("   ".join(parts).rstrip())
    return lines


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _pad(cell: Cell, width: int) -> str:
    text = _text(cell)
    painted = text if isinstance(cell, str) else paint(text, cell[1])
    return painted + " " * (width - len(text))
