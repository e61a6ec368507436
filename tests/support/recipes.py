"""The recipes of tests/recipes: their policies, and the connections that their tables expect, as values.

In: a recipe's file, ordinary YAML with a table in its comments. Out: `Recipe`. A table that is not complete, or has a cell
that means nothing, is refused: what is left out would be promised and never looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "recipes"
WORLD = FOLDER / "world.yaml"
PLACES = {
    "web": "shop/web", "api": "shop/api", "db": "shop/db", "job": "shop/job", "dns": "ops/dns", "monitor": "ops/monitor",
    "demo": "play/demo", "client": "play/client", "outside": "host/outside",
}  # fmt: skip
"""Rows of every table: names, and what the lab calls them."""

GOALS = (
    "web:80", "api:8080", "api:9090", "api:9999/sctp", "db:5432", "job:icmp", "dns:53", "dns:53/udp", "monitor:3000", "demo:8080",
    "client:icmp", "outside:443",
)  # fmt: skip
"""Columns of every table: all that is listened to; ICMP where that is nothing."""

FAMILIES = {"": (4, 6), "IPv4": (4,), "IPv6": (6,)}
ALLOWED, REFUSED, ITSELF = ".", "X", "-"
_FAMILY = re.compile(r"^# family: (\S+)$", re.MULTILINE)


class Cell(NamedTuple):
    """One cell of a table: `source` and `target` are names of PLACES, `port` as the lab takes it."""

    source: str
    target: str
    port: str
    allowed: bool

    @property
    def words(self) -> str:
        return f"{self.source} -> {self.target}:{self.port} should be {'allowed' if self.allowed else 'refused'}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """`cells` hold for each of `families`."""

    path: Path
    families: tuple[int, ...]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        return self.path.stem


def read_recipe(path: Path) -> Recipe:
    """Raises ValueError, with the file, for a table that is not whole."""
    text = path.read_text(encoding="utf-8")
    families = "".join(_FAMILY.findall(text))
    rows = [line.removeprefix("#|").split() for line in text.splitlines() if line.startswith("#|")]
    if families not in FAMILIES or not rows or tuple(rows[0]) != GOALS or [r[0] for r in rows[1:]] != list(PLACES):
        raise ValueError(f"{path}: the table must have the columns {' '.join(GOALS)} and the rows {' '.join(PLACES)}")
    return Recipe(path, FAMILIES[families], tuple(c for row in rows[1:] for c in _cells(path, row)))


def _cells(path: Path, row: list[str]) -> list[Cell]:
    source, *marks = row
    found = []
    for goal, mark in zip(GOALS, marks, strict=True):
        target, _, port = goal.partition(":")
        if (mark == ITSELF) != (source == target) or mark not in (ALLOWED, REFUSED, ITSELF):
            raise ValueError(f"{path}: {source} to {goal} is {mark!r}; expected . or X, and - for itself")
        if mark != ITSELF:
            found.append(Cell(source, target, port, mark == ALLOWED))
    return found


def all_recipes() -> list[Path]:
    """Every recipe's file."""
    return [path for path in sorted(FOLDER.glob("*.yaml")) if path != WORLD]
