"""Figures: several values of one measurement, and how they are printed. Nothing here judges; tests are not timed."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

WIDTH = 72


@dataclass(slots=True)
class Figure:
    """`values` in `unit`; `aim` says in words what is hoped for."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    aim: str = ""
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def line(self) -> str:
        if not self.values:
            return f"{self.name:<{WIDTH}} not measured: {self.note}"
        low, middle, high = (shown(v) for v in (min(self.values), self.median, max(self.values)))
        return f"{self.name:<{WIDTH}} {low:>9} {middle:>9} {high:>9} {self.unit:<8} {self.aim:<14} {self.note}".rstrip()


HEADER = f"{'':<{WIDTH}} {'min':>9} {'median':>9} {'max':>9} {'unit':<8} {'aim':<14}"


def shown(value: float) -> str:
    """Three digits that count, and no less than whole numbers."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def timed(function: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each of `rounds` calls."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found


def scaled(seconds: Sequence[float], factor: float) -> list[float]:
    return [s * factor for s in seconds]


def show(figures: Iterator[Figure]) -> None:
    """Print each figure as soon as it is there."""
    for figure in figures:
        print(figure.line, flush=True)


def progress(text: str) -> None:
    """What is being measured, on a terminal's error output only: figures go to the output."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
