"""Breaks the product in many small ways, one at a time, and sees whether the tests notice. For `./dev mutate`.

In: tests/mutants (see `mutants`), and options. Out: the table and the score on stdout, progress on stderr; exit code 1 when a
mutant survived. A survivor is a missing test.

    checkout --copies of the packages--> temporary folders --one file broken--> pytest, on PYTHONPATH before the checkout

The checkout itself is never changed, and the tests run from it. That it is the copy that they import is proved for every mutant
by a variable that only the broken module has.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mutant_notes import MODULE_VARIABLE, NOTES_VARIABLE
from mutants import Mutant, MutantError, Result, Seen, broken_text, judged, marks, read_mutants, recorded, score, table

TOP = Path(__file__).resolve().parents[1]
PAGE = Path("docs", "testing.md")
LIMIT = 300
"""Seconds of processor time that the tests of one mutant may take: far more than they take without one. Not by the clock: a
test that is slow because the machine is busy must not count as one that notices."""
PATIENCE = 8
"""Times that limit, by the clock, until a process that waits for ever is ended."""
_EPOCH = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Tree:
    """One worker's copy of all packages. `top`: the checkout that it is of."""

    top: Path
    folder: Path

    def make(self) -> None:
        """Copy what `pip install -e` puts on the path."""
        project = tomllib.loads((self.top / "pyproject.toml").read_text(encoding="utf-8"))
        for root in project["tool"]["hatch"]["build"]["dev-mode-dirs"]:
            shutil.copytree(self.top / root, self.packages, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))

    @property
    def packages(self) -> Path:
        return self.folder / "packages"

    @contextmanager
    def broken(self, mutant: Mutant, number: int) -> Iterator[None]:
        """The mutant's file broken, for as long as this lasts."""
        path = self.packages / mutant.file.split("/", 1)[1]
        whole, then = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(broken_text(mutant, whole), encoding="utf-8")
        # Compiled files are told apart by whole seconds and size: each text of a file gets a time of its own.
        os.utime(path, (_EPOCH + number, _EPOCH + number))
        try:
            yield
        finally:
            path.write_text(whole, encoding="utf-8")
            os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))

    def run(self, tests: Sequence[str], module: str, log: Path, limit: int) -> Seen:
        """Run tests of the checkout on this copy, up to the first that fails."""
        notes = self.folder / "notes"
        notes.write_text("", encoding="utf-8")
        tools = Path(__file__).resolve().parent
        environment = {
            **os.environ,
            "PYTHONPATH": f"{self.packages}:{tools}",
            "NPCTL_REQUIRE_KERNEL": "1",  # a test that is skipped notices nothing
            NOTES_VARIABLE: str(notes),
            MODULE_VARIABLE: module,
        }
        quiet = ("-p", "mutant_notes", "-p", "no:cacheprovider", "--override-ini", "timeout=0")
        # The shell sets the limit, because Python offers only a hook between fork and exec, which threads must not use.
        command = ["sh", "-c", f'ulimit -t {limit}; exec "$@"', "sh", sys.executable, "-m", "pytest", "-x", *quiet, *tests]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as out:
            process = subprocess.Popen(
                command, cwd=self.top, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
            try:
                code: int | None = process.wait(limit * PATIENCE)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        ended = code is None or code < 0  # by the clock, or by the system when the processor time was used up
        return marks([json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()], None if ended else code)


class Runner:
    """Runs mutants side by side, each worker in a copy of its own."""

    def __init__(self, top: Path, folder: Path, jobs: int, limit: int = LIMIT) -> None:
        self._logs = top / "build" / "logs" / "mutate"
        self._jobs = jobs
        self._limit = limit
        self._trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        self._began = time.monotonic()
        for number in range(jobs):
            tree = Tree(top, folder / str(number))
            tree.make()
            self._trees.put(tree)

    def check_whole(self, mutants: Sequence[Mutant]) -> None:
        """The tests must pass as long as nothing is broken. Raises MutantError."""
        wanted = sorted({test for m in mutants for test in m.tests})
        _say(f"without mutants: {len(wanted)} files of tests")
        with ThreadPoolExecutor(self._jobs) as pool:
            for test, seen in zip(wanted, pool.map(self._whole, wanted), strict=True):
                if seen.code != 0:
                    what = seen.failed or seen.running or f"pytest's exit code {seen.code}"
                    raise MutantError(f"{test} fails without any mutant: {what}; mend that first (log: {self._log(test)})")
        _say(f"they pass ({time.monotonic() - self._began:.0f} s)")

    def _log(self, name: str) -> Path:
        return self._logs / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.log"

    def _whole(self, test: str) -> Seen:
        tree = self._trees.get()
        try:
            return tree.run([test], "", self._log(test), self._limit)
        finally:
            self._trees.put(tree)

    def run(self, mutants: Sequence[Mutant]) -> list[Result]:
        """What became of each, in their order."""
        with ThreadPoolExecutor(self._jobs) as pool:
            return list(pool.map(self._one, range(1, len(mutants) + 1), mutants, [len(mutants)] * len(mutants)))

    def _one(self, number: int, mutant: Mutant, of: int) -> Result:
        tree = self._trees.get()
        begun = time.monotonic()
        try:
            with tree.broken(mutant, number):
                result = judged(mutant, tree.run(mutant.tests, mutant.module, self._log(mutant.id), self._limit))
        finally:
            self._trees.put(tree)
        _say(f"[{number}/{of}] {mutant.id}: {result.words} ({time.monotonic() - begun:.0f} s)")
        return result


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    what = "Break the product in small ways, and see whether the tests notice."
    parser = argparse.ArgumentParser(prog="./dev mutate", description=what)
    parser.add_argument("--only", action="append", metavar="ID", help="this mutant alone; may be given again")
    parser.add_argument("--record", action="store_true", help=f"write the table and the score into {PAGE}")
    jobs = os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=jobs, metavar="N", help="side by side (default: one for each processor)")
    options = parser.parse_args(arguments)
    if options.record and options.only:
        parser.error("--record takes all mutants: leave --only out")
    if options.jobs < 1:
        parser.error("--jobs must be 1 at least")
    return options


def main(arguments: Sequence[str] | None = None, top: Path = TOP) -> int:
    """0: every mutant was noticed. 1: one survived, or nothing can be said."""
    options = _options(arguments)
    begun = time.monotonic()
    try:
        mutants = read_mutants(top / "tests" / "mutants", top)
        if options.only:
            if unknown := sorted(set(options.only) - {m.id for m in mutants}):
                raise MutantError(f"no mutant {', '.join(unknown)}; tests/mutants has their ids")
            mutants = tuple(m for m in mutants if m.id in options.only)
        with tempfile.TemporaryDirectory(prefix="npctl-mutate-") as folder:
            runner = Runner(top, Path(folder), options.jobs)
            runner.check_whole(mutants)
            results = runner.run(mutants)
        if options.record:
            page = (top / PAGE).read_text(encoding="utf-8")
            (top / PAGE).write_text(recorded(page, results), encoding="utf-8")
    except MutantError as error:
        _say(f"./dev mutate: {error}")
        return 1
    print(table(results))
    print(f"\n{score(results)}")
    _say(f"{time.monotonic() - begun:.0f} s")
    return 0 if all(r.noticed for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
