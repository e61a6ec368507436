"""Words of a restore line: separated by blanks, or in double quotes with backslash escapes. Single quotes mean nothing."""

from __future__ import annotations

import re

from netpol_compiler.simulate.errors import SimulateError

_WORD = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"(?=\s|$)|([^\s"]+)(?=\s|$))')


def split(line: str) -> list[str]:
    """The words of `line`. Raises SimulateError for a quote that is not closed or inside a word."""
    if '"' not in line:
        return line.split()
    words, place, line = [], 0, line.rstrip()
    while place < len(line):
        found = _WORD.match(line, place)
        if found is None:
            raise SimulateError(f"unbalanced quotes at character {place + 1}")
        quoted, plain = found.groups()
        words.append(plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        place = found.end()
    return words
