"""Numbers of restore lines, from text, by fewer forms than the restore programs read and by none that they refuse.

In: a word. Out: an int, or SimulateError. Excluded: what the number means.
"""

from __future__ import annotations

import re

from netpol_compiler.simulate.errors import SimulateError

_DECIMAL = re.compile(r"0|[1-9][0-9]*")
_NUMBER = re.compile(r"0|[1-9][0-9]*|0x[0-9a-fA-F]+")


def decimal(text: str, most: int, what: str) -> int:
    """A number from 0 to `most`, in plain digits."""
    if not _DECIMAL.fullmatch(text) or int(text) > most:
        raise SimulateError(f"{what} must be 0 to {most}, not {text!r}")
    return int(text)


def number(text: str) -> int:
    """32 bits: decimal, or hexadecimal after 0x."""
    if not _NUMBER.fullmatch(text) or int(text, 0) > 0xFFFFFFFF:
        raise SimulateError(f"{text!r} is not a number of 32 bits")
    return int(text, 0)
