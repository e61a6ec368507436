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
COMING = {"quick"}
"""Verbs that a workflow calls and that are still being written."""

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
    known = _verbs() | COMING
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


def test_no_verb_is_waited_for_that_is_there() -> None:
    assert COMING & _verbs() == set(), "take it out of COMING"


@BY_NAME
def test_nothing_that_others_write_is_pasted_into_a_script(path: Path) -> None:
    """A branch's name in `${{ }}` would be run as part of the script; an environment variable is not."""
    assert [script for script in _scripts(path) if "${{" in script] == []


@BY_NAME
def test_every_action_is_pinned_to_a_major_version(path: Path) -> None:
    used = [step["uses"] for step in _steps(path) if "uses" in step]
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+", action)] == []


@BY_NAME
def test_every_job_ends_by_itself_and_no_credentials_stay_in_the_checkout(path: Path) -> None:
    assert all(0 < job["timeout-minutes"] <= 90 for job in _jobs(path).values())
    checkouts = [step for step in _steps(path) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts and all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_checks_may_only_read_and_only_the_job_that_publishes_may_write() -> None:
    checks, release = (_read(path) for path in WORKFLOWS)
    assert checks["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in checks["jobs"].values())
    assert release["permissions"] == {}
    granted = {name: job["permissions"] for name, job in release["jobs"].items()}
    assert granted == {"files": {"contents": "read"}, "publish": {"contents": "write", "packages": "write"}}


def test_ci_runs_on_changes_and_calls_what_everybody_can_call() -> None:
    path = TOP / ".github" / "workflows" / "ci.yml"
    assert set(_events(path)) == {"push", "pull_request"}
    whole = _jobs(path)["test"]
    assert whole["timeout-minutes"] == 90
    assert [line for step in whole["steps"] for line in step.get("run", "").splitlines() if ".ci/run" in line] == [
        'sudo env "PATH=$PATH" "HOME=$HOME" CI=true bash .ci/run </dev/null'
    ]
    assert any("./dev quick" in step.get("run", "") for step in _jobs(path)["quick"]["steps"])


def test_a_release_is_a_tag_that_the_script_has_accepted_before_anything_is_pushed() -> None:
    path = TOP / ".github" / "workflows" / "release.yml"
    assert _events(path) == {"push": {"tags": ["v*"]}}
    jobs = _jobs(path)
    assert jobs["publish"]["needs"] == "files"
    files = "\n".join(step.get("run", "") for step in jobs["files"]["steps"])
    assert './dev release --tag "$GITHUB_REF_NAME" --out dist' in files
    pushing = r"--push\b|helm push|gh release|docker push"
    assert not re.search(pushing, files)
    assert len(re.findall(pushing, "\n".join(step.get("run", "") for step in jobs["publish"]["steps"]))) == 3


def test_the_image_is_built_for_both_processors() -> None:
    script = "\n".join(_scripts(TOP / ".github" / "workflows" / "release.yml"))
    assert "--platform linux/amd64,linux/arm64" in script


# ---- forms -----------------------------------------------------------------------------------------------------------


@FORM_BY_NAME
def test_every_form_is_one_that_github_takes(path: Path) -> None:
    form = _read(path)
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "title", "labels", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert ids and len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]+", name) for name in ids)
    for field in form["body"]:
        assert field["type"] in FIELDS
        assert ("value" if field["type"] == "markdown" else "label") in field["attributes"]
        if field["type"] == "dropdown":
            options = field["attributes"]["options"]
            assert all(isinstance(option, str) for option in options) and len(set(options)) == len(options)


def test_a_bug_report_asks_for_what_is_needed_to_repeat_it() -> None:
    form = _read(TOP / ".github" / "ISSUE_TEMPLATE" / "bug_report.yml")
    asked = {field["id"] for field in form["body"] if field.get("validations", {}).get("required")}
    assert asked == {"seen", "policy", "status", "network", "backend", "families"}
    text = str(form)
    for command in ("npctl --version", "npctl status", "npctl explain", "SECURITY.md"):
        assert command in text
    assert _read(TOP / ".github" / "ISSUE_TEMPLATE" / "config.yml") == {"blank_issues_enabled": False}


def test_a_pull_request_says_why_by_which_test_and_what_users_notice() -> None:
    text = (TOP / ".github" / "pull_request_template.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^## (.*)$", text) == ["Why", "Which test would have failed before", "For the reader"]
    assert "CHANGELOG.md" in text
