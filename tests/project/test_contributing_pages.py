"""The pages for contributors and the glossary: what they show is what is printed, and what they name exists."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
CHANGE = (TOP / "docs" / "contributing" / "one-change.md").read_text(encoding="utf-8")
GLOSSARY = (TOP / "docs" / "glossary.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"(?ms)^```sh\n(.*?)\n```\n\n```text\n(.*?)^```$", CHANGE)
ROWS = [tuple(cell.strip() for cell in row.split("|")[1:-1]) for row in GLOSSARY.splitlines() if row.startswith("| ")][1:]


def _functions(place: str) -> set[str]:
    """Every function and class below a folder."""
    found = set()
    for path in (TOP / place).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return found


# ---- one change through the code -------------------------------------------------------------------------------------


def test_every_command_of_the_page_is_shown_with_its_output() -> None:
    assert len(SHOWN) == CHANGE.count("```sh\n") == 4


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[command.split()[1] + str(n) for n, (command, _) in enumerate(SHOWN)])
def test_a_command_prints_every_line_that_the_page_shows_in_that_order(command: str, shown: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "NO_COLOR": "1", "COLUMNS": "200"}
    told = subprocess.run(
        ["bash", "-c", command], cwd=TOP, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode in (0, 1), told.stderr  # 1: the answer is no
    lines = iter(told.stdout.splitlines())
    assert [line for line in shown.splitlines() if line not in lines] == [], told.stdout


def test_every_function_that_the_way_goes_through_is_in_that_room() -> None:
    steps = re.findall(r"(?m)^\| \d [a-z]+ \|.*\| `([a-z_/]+)` \| (.*) \|$", CHANGE)
    assert len(steps) == 8
    missing = {
        f"{root}: {name}" for root, names in steps for name in re.findall(r"`(\w+)`", names) if name not in _functions(root)
    }
    assert missing == set()


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", CHANGE))
    assert len(named) > 6
    assert named - _functions("tests") == set()
    rows = re.findall(r"`(point_\w+)`", CHANGE)
    assert rows and all(f'"{row}"' in (TOP / "tests/compiler/test_lowering.py").read_text(encoding="utf-8") for row in rows)


def test_every_mutant_that_the_page_names_exists() -> None:
    known = {
        mutant["id"]
        for path in (TOP / "tests" / "mutants").glob("*.yaml")
        for mutant in yaml.safe_load(path.read_text(encoding="utf-8"))["mutants"]
    }
    lines = [line for line in CHANGE.splitlines() if line.startswith(("- Mutant", "$ ./dev mutate"))]
    named = {name for line in lines for name in re.findall(r"`([a-z-]+)`|--only ([a-z-]+)", line) for name in name if name}
    assert len(named) == 4
    assert named - known == set()


# ---- the glossary ----------------------------------------------------------------------------------------------------


def test_the_glossary_is_in_order_and_has_each_term_once() -> None:
    terms = [row[0] for row in ROWS]
    assert len(terms) > 40
    assert terms == sorted(set(terms), key=str.casefold)


def test_each_term_has_one_sentence() -> None:
    assert [row[0] for row in ROWS if not re.fullmatch(r"[A-Z][^.]*(?:`[^`]*`[^.]*)*\.", row[1])] == []


def test_each_term_names_a_place_of_this_tree() -> None:
    places = {row[0]: re.findall(r"`([^`]+)`", row[2]) for row in ROWS}
    assert [term for term, named in places.items() if not named or not all((TOP / place).exists() for place in named)] == []
