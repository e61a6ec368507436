"""Runs the random tests, round after round, until the time is over or one of them finds a counterexample. For `./dev fuzz`.

In: minutes, and arguments for pytest (files, -k). Out: pytest's own words, with the smallest example, on stderr; on stdout how
many verdicts of which witness were compared. Each round has a seed of its own, for its examples and for the order of its tests:
a time that is over in the middle does not always leave out the same ones. Exit codes: 0 nothing found; 1 a test failed; 2 wrong
usage. Whatever was found stays in .hypothesis, from where every later run tries it first.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from steps import TOP

MINUTES = 10.0
WORKERS = 2


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=_minutes, default=MINUTES, help="how long new tests are begun (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="of the first round, to repeat it (default: another one each time)")
    options, more = parser.parse_known_args(arguments)
    begin = time.time()
    end = begin + 60 * options.minutes
    seeds = [options.seed if options.seed is not None else _seed()]
    with tempfile.TemporaryDirectory() as tally:
        while (result := _round(seeds[-1], end, Path(tally), more)) == 0 and time.time() < end:
            seeds.append(_seed())
        _report(_counted(Path(tally)), (time.time() - begin) / 60, seeds)
    if result:
        print(_how_to_repeat(seeds[-1], more), file=sys.stderr)
    return 1 if result else 0


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time to search for")
    return value


def _seed() -> int:
    return random.SystemRandom().randrange(10**9)


def _round(seed: int, end: float, tally: Path, more: Sequence[str]) -> int:
    """pytest's exit code."""
    left = max(0.0, end - time.time()) / 60
    print(f"./dev fuzz: a round with seed {seed}, {left:.1f} minutes left", file=sys.stderr, flush=True)
    search = {"NPCTL_SEARCH": "deep", "NPCTL_SEARCH_SEED": seed, "NPCTL_SEARCH_UNTIL": end, "NPCTL_SEARCH_TALLY": tally}
    command = [sys.executable, "-m", "pytest", "-x", "-m", "searching", f"--hypothesis-seed={seed}"]
    command += [] if any(a.startswith("-n") for a in more) else ["-n", str(WORKERS)]
    environment = os.environ | {name: str(value) for name, value in search.items()}
    return subprocess.run([*command, *more], cwd=TOP, env=environment, stdout=sys.stderr, check=False).returncode


def _counted(tally: Path) -> Counter[tuple[str, str]]:
    """Verdicts by witness and family, from the files that the tests' processes wrote (tests/support/search.py)."""
    found: Counter[tuple[str, str]] = Counter()
    for file in tally.iterdir():
        for line in file.read_text(encoding="ascii").splitlines():
            witness, family, verdicts = line.split()
            found[witness, family] += int(verdicts)
    return found


def _report(found: Counter[tuple[str, str]], minutes: float, seeds: Sequence[int]) -> None:
    print(f"{len(seeds)} rounds in {minutes:.1f} minutes, seeds {' '.join(map(str, seeds))}")
    print(f"{'WITNESS':12}{'FAMILY':8}{'VERDICTS':>10}{'A MINUTE':>10}")
    for (witness, family), verdicts in sorted(found.items()):
        print(f"{witness:12}{'IPv' + family:8}{verdicts:10}{verdicts / minutes:10.0f}")


def _how_to_repeat(seed: int, more: Sequence[str]) -> str:
    words = " ".join(more)
    return f"""./dev fuzz: a test failed; its smallest example is above, below "Falsifying example".
  ./dev test --lf -n0              tries that example again, first of all: it is kept in .hypothesis
  ./dev fuzz --seed {seed}{" " + words if words else ""}    repeats the round elsewhere
docs/testing.md says how it becomes a test of its own."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
