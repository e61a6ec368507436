"""What GitHub reads of this tree: workflows that call what exists and have few rights, and forms that ask for what helps."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((TOP / ".github" / "workflows").glob("*.y*ml"))
FORMS = sorted(path for path in (TOP / ".github" / "ISSUE_TEMPLATE").glob("*.y*ml") if path.stem != "config")
BY_NAME = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
FORM_BY_NAME = pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
FIELDS = {"markdown", "input", "textarea", "dropdown", "checkboxes"}


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _jobs(path: Path) -> dict[str, dict[str, Any]]:
    return _read(path)["jobs"]


def _steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in _jobs(path).values():
        yield from job["steps"]


def _scripts(path: Path) -> list[str]:
    return [step["run"] for step in _steps(path) if "run" in step]


def _events(path: Path) -> dict[str, Any]:
    """YAML 1.1 takes the key `on` for a truth value."""
    return {True: None, **_read(path)}[True]


def _verbs() -> set[str]:
    told = subprocess.run([str(TOP / "dev"), "help"], capture_output=True, text=True, timeout=60, check=True).stdout
    return set(re.findall(r"(?m)^  ([a-z]+) {2,}\S", told))


def _not_there(script: str) -> list[str]:
    """Verbs of ./dev and files of this tree that a script calls and that do not exist."""
    verbs = re.findall(r"(?<![\w./])\./dev(?: +([\w-]+))?", script)
    files = re.findall(r"(?<![\w./-])((?:\.ci|tools|tests|charts)/[\w./-]+)", script)
    known = _verbs()
    return [f"./dev {verb}" for verb in verbs if verb not in known] + [file for file in files if not (TOP / file).exists()]


# ---- workflows -------------------------------------------------------------------------------------------------------


def test_there_are_the_workflows_that_the_documents_name() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@BY_NAME
def test_every_script_is_bash_that_parses(path: Path) -> None:
    scripts = _scripts(path)
    assert scripts
    for script in scripts:
        parsed = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert parsed.returncode == 0, f"{script}\n{parsed.stderr}"


@BY_NAME
def test_every_script_calls_verbs_and_files_that_exist(path: Path) -> None:
    assert [missing for script in _scripts(path) for missing in _not_there(script)] == []


def test_a_verb_or_a_file_that_does_not_exist_is_found() -> None:
    assert _not_there("./dev tset && bash .ci/ran\n./dev\npython3 tools/none.py x; ./dev test; bash .ci/run") == [
        "./dev tset", "./dev ", ".ci/ran", "tools/none.py",
    ]  # fmt: skip
