"""The commit-msg hook: which messages it lets through, and what it says of the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from commit_message import MAX_SUBJECT_CHARACTERS, problems

TOP = Path(__file__).resolve().parents[2]
LONGEST = "s" * MAX_SUBJECT_CHARACTERS
NO_BODY = "there is no body; say in some lines why the change is made"
BODY = "Two nodes disagreed about it, since only one had read the list.\n"


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.com")
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "message",
    [
        f"{LONGEST}\n\n{BODY}",
        f"\n\nSubject\n\n{BODY}\nReviewed-by: Somebody <somebody@example.com>\n",
        f"Subject\n# a comment of git\n\n{BODY}",
        "Merge branch 'main' into topic\n",
        "fixup! Subject\n",
    ],
)
def test_a_short_subject_with_a_body_passes_and_so_does_what_git_writes_itself(message: str) -> None:
    assert problems(message) == ()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (f"{LONGEST}s\n\n{BODY}", ["the subject has 71 characters; 70 at most"]),
        (f"Subject\n{BODY}", ["the line below the subject is not empty"]),
        ("Subject\n", [NO_BODY]),
        ("Subject\n\nSigned-off-by: Somebody <somebody@example.com>\n", [NO_BODY]),
        ("Subject\n\n# a comment is no body\n", [NO_BODY]),
        (f"Subject\n# ------ >8 ------\n{BODY}", [NO_BODY]),
        ("Merges of lists\n", [NO_BODY]),
        (f"{LONGEST}s\n", ["the subject has 71 characters; 70 at most", NO_BODY]),
        ("\n# nothing but a comment\n", ["it is empty"]),
    ],
)
def test_what_is_wrong_is_said(message: str, said: list[str]) -> None:
    assert list(problems(message)) == said


def test_as_a_hook_of_git_it_refuses_a_subject_alone(tmp_path: Path) -> None:
    assert _git(tmp_path, "init", "--quiet").returncode == 0
    hook = tmp_path / ".git" / "hooks" / "commit-msg"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f'#!/bin/sh\nexec {sys.executable} {TOP}/tools/commit_message.py "$1"\n', encoding="utf-8")
    hook.chmod(0o755)
    refused = _git(tmp_path, "commit", "--allow-empty", "--message", "Subject")
    assert refused.returncode == 1
    assert "commit message: there is no body" in refused.stderr
    taken = _git(tmp_path, "commit", "--allow-empty", "--message", "Subject", "--message", BODY)
    assert taken.returncode == 0, taken.stderr


def test_wrong_usage_is_told() -> None:
    told = subprocess.run([sys.executable, str(TOP / "tools/commit_message.py")], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (2, "usage: commit_message.py FILE\n")


def test_every_hook_is_a_program_of_this_project() -> None:
    configuration = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in configuration["repos"]] == ["local"]
    hooks = {hook["id"]: hook for hook in configuration["repos"][0]["hooks"]}
    assert {hook["language"] for hook in hooks.values()} == {"system"}
    assert hooks["commit-message"]["entry"] == "python3 tools/commit_message.py"
    assert hooks["commit-message"]["stages"] == ["commit-msg"] and "commit-msg" in configuration["default_install_hook_types"]
    # `./dev setup` puts ruff there; the tests run by that environment, or one that has the same programs.
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["entry"].startswith(".venv/bin/ruff ")
        assert (Path(sys.executable).parent / "ruff").exists()
