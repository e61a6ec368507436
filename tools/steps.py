"""How the programs of this folder work: commands as steps with one line of progress each, and one builder at a time.

In: command lines. Out: lines on stderr as `step` in ./dev writes them; each command's output in build/logs. Errors: StepError.
"""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
LOGS = TOP / "build" / "logs"
_NETWORK = re.compile(
    r"dial tcp|no such host|connection refused|connection reset|i/o timeout|TLS handshake|network is unreachable|proxyconnect"
    r"|x509:|module lookup disabled|Temporary failure resolving|Failed to establish a new connection",
    re.IGNORECASE,
)


class StepError(Exception):
    """One line for people: what failed, and what to do."""


def step(
    text: str, command: Sequence[str], *, directory: Path = TOP, environment: Mapping[str, str] | None = None, given: str = ""
) -> None:
    """Runs `command` with `given` as its input. Raises StepError, after the end of what the command printed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{re.sub(r'[^a-z0-9]+', '-', text.lower())}.log"
    begin = time.monotonic()
    print(f"{text} ... ", end="", file=sys.stderr, flush=True)
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(
            command, cwd=directory, env=environment, input=given, text=True, stdout=out, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        print("failed", file=sys.stderr)
        raise StepError(_why(log))
    print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr)


def _why(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    place = f"all it printed is in {log.relative_to(TOP)}"
    unreachable = [line for line in lines if _NETWORK.search(line)]
    if unreachable:
        return f"the network did not give what that step needs ({unreachable[-1].strip()[-200:]}); {place}"
    print("\n".join(f"    {line}" for line in lines[-20:]), file=sys.stderr)
    return f"that step failed; {place}"


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """A second builder waits here, and then finds all done. The system ends the lock of one that is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another ./dev builds {what} just now; waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
