"""How long commands take in all, as a person at a terminal has to wait."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import Figure, scaled, timed

EXAMPLES = Path(__file__).parents[1] / "examples"
ROUNDS, LAB_ROUNDS = 10, 3


def npctl() -> list[str]:
    """The installed command beside this Python; the module where it is not installed."""
    script = Path(sys.executable).parent / "npctl"
    return [str(script)] if script.exists() else [sys.executable, "-m", "npctl"]


def run(*arguments: str) -> None:
    """Raises CalledProcessError, with its output shown, when the command does not end with 0."""
    done = subprocess.run([*npctl(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        done.check_returncode()


def figures() -> Iterator[Figure]:
    explain = ("explain", "deployment/python-tomcat-app1-deployment", "-n", "python", "-f", str(EXAMPLES))
    yield Figure("npctl --help", "ms", scaled(timed(lambda: run("--help"), ROUNDS), 1e3), "under 200")
    yield Figure("npctl explain ... -f examples/", "ms", scaled(timed(lambda: run(*explain), ROUNDS), 1e3), "under 500")
    yield Figure("npctl lab run examples/", "s", timed(lambda: run("lab", "run", str(EXAMPLES)), LAB_ROUNDS), "under 60")
