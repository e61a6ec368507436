"""docs/semantics.md names the tests that prove its points: they must exist, and no point may be without one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
ORACLE = "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "tests" / "compiler").glob("test_oracle*.py")))
POINTS = [f"{n:02d}" for n in range(1, 17)]


def test_every_test_that_the_page_names_exists() -> None:
    written = {name for path in (ROOT / "tests").rglob("test_*.py") for name in _tests(path.read_text(encoding="utf-8"))}
    named = set(re.findall(r"`(test_point_\w+)`", PAGE))
    assert named, "the page names no tests"
    assert named <= written, sorted(named - written)


def test_every_point_has_a_section_and_a_test_of_the_oracle() -> None:
    sections = [f"{int(n):02d}" for n in re.findall(r"^### (\d+)\. ", PAGE, re.MULTILINE)]
    assert sections == POINTS
    assert {name.split("_")[2] for name in _tests(ORACLE)} == set(POINTS)


def _tests(text: str) -> list[str]:
    return re.findall(r"^def (test_point_\w+)\(", text, re.MULTILINE)
