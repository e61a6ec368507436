"""The script at the root: what it says of itself, and how it answers wrong use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
VERBS = (
    "quick",
    "lab",
    "cluster",
    "conformance",
    "image",
    "test",
    "fuzz",
    "mutate",
    "release",
    "bench",
    "lint",
    "lock",
    "setup",
    "help",
)


def _dev(*arguments: str, directory: Path = TOP) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(TOP / "dev"), *arguments], cwd=directory, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [("help",), ("--help",), ("-h",), ()])
def test_help_lists_every_verb(arguments: tuple[str, ...]) -> None:
    told = _dev(*arguments)
    assert told.returncode == 0
    assert tuple(re.findall(r"(?m)^  ([a-z]+) {2,}\S", told.stdout)) == VERBS


def test_every_verb_that_help_lists_exists() -> None:
    cases = re.search(r"(?s)case \$verb in\n(.*)esac", (TOP / "dev").read_text(encoding="utf-8"))
    assert cases is not None
    assert {name for line in re.findall(r"(?m)^  ([a-z|-]+)\)", cases[1]) for name in line.split("|")} >= set(VERBS)


def test_an_unknown_verb_is_wrong_usage_and_changes_nothing() -> None:
    told = _dev("lba")
    assert told.returncode == 2
    assert told.stdout == ""
    assert "usage: ./dev VERB" in told.stderr


def test_it_works_from_any_directory(tmp_path: Path) -> None:
    assert _dev("help", directory=tmp_path).stdout.startswith("usage:")


def test_both_scripts_are_bash_that_parses() -> None:
    for script in (TOP / "dev", TOP / ".ci" / "run"):
        assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).returncode == 0
        assert script.stat().st_mode & 0o111


def test_quick_leaves_out_only_what_there_is(pytestconfig: pytest.Config) -> None:
    """A folder or mark that has another name now would be run, or left out, unseen."""
    script = (TOP / "dev").read_text(encoding="utf-8")
    folders, marks = re.search(r"without=\((.+?)\)", script), re.search(r'-m "(not .+?)" ', script)
    assert folders is not None and marks is not None
    assert [name for name in folders[1].split() if not (TOP / "tests" / name).is_dir()] == []
    known = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    assert set(marks[1].removeprefix("not ").split(" and not ")) == {"slow", "searching", "kernel", "networks"} <= known


def test_ci_runs_the_readme_s_test_command() -> None:
    assert re.search(r"(?m)^exec \./dev test\b", (TOP / ".ci" / "run").read_text(encoding="utf-8"))
