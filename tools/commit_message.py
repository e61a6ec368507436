"""Checks a commit message: a short subject, an empty line, and a body that says why. For the commit-msg hook and for CI.

In: the path of a file that holds the message, as git gives it to the hook (comments and what is below a scissors line do not
count). Out: one line on stderr for each thing to mend. Exit codes: 0 good; 1 something to mend; 2 wrong usage.

Messages that git writes itself (merges) pass, and so do those that a rebase will melt away (fixup!, squash!, amend!).
Standard library only: the hook runs before anything is set up.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

MAX_SUBJECT_CHARACTERS = 70

_EXEMPT = re.compile(r"(Merge (branch|remote-tracking branch|tag|commit|pull request)|fixup!|squash!|amend!) ")
_SCISSORS = re.compile(r"# -+ >8 -+")
_TRAILER = re.compile(r"[A-Za-z-]+-by: \S")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print("usage: commit_message.py FILE", file=sys.stderr)
        return 2
    found = problems(Path(arguments[0]).read_text(encoding="utf-8"))
    for problem in found:
        print(f"commit message: {problem}", file=sys.stderr)
    return 1 if found else 0


def problems(text: str) -> tuple[str, ...]:
    """What to mend in a message; empty when it is good."""
    lines = _lines(text)
    if not lines:
        return ("it is empty",)
    subject, rest = lines[0], lines[1:]
    if _EXEMPT.match(subject):
        return ()
    found = []
    if len(subject) > MAX_SUBJECT_CHARACTERS:
        found.append(f"the subject has {len(subject)} characters; {MAX_SUBJECT_CHARACTERS} at most")
    if rest and rest[0]:
        found.append("the line below the subject is not empty")
    if not any(line and not _TRAILER.match(line) for line in rest):
        found.append("there is no body; say in some lines why the change is made")
    return tuple(found)


def _lines(text: str) -> list[str]:
    """The lines that git keeps: no comments, nothing below the scissors, no empty lines at either end."""
    kept: list[str] = []
    for line in text.splitlines():
        if _SCISSORS.match(line):
            break
        if not line.startswith("#"):
            kept.append(line.rstrip())
    return "\n".join(kept).strip("\n").split("\n") if any(kept) else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
