"""`npctl agent`: on a cluster unless folders are named, and mixtures are mistakes that name both options."""

from __future__ import annotations

from pathlib import Path

import pytest

from npctl.commands.agent import run
from npctl.errors import ExitCode

FOLDERS = ["--objects", "o", "--ir", "i", "--reports", "r"]

MISTAKES = {
    "a folder alone": (["--ir", "i"], ["--ir", "--objects"]),
    "kubeconfig and folders": (["--kubeconfig", "k", *FOLDERS], ["--kubeconfig", "--objects"]),
    "pod and folders": (["--pod", "a/b", "--http", ":9436", *FOLDERS], ["--pod", "--objects"]),
    "pod without a port": (["--pod", "a/b"], ["--pod", "--http"]),
    "no pod": (["--pod", "web", "--http", ":9436"], ["NAMESPACE/NAME"]),
    "no port": (["--http", "9436x"], ["[HOST]:PORT"]),
    "two bits": (["--mark", "3"], ["single bit"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_with_2_and_names_what_does_not_go_together(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = MISTAKES[case]
    with pytest.raises(SystemExit) as caught:
        run(["--node", "n1", *arguments])
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert all(word in said for word in words), said


def test_the_node_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(FOLDERS)
    assert (caught.value.code, "--node" in capsys.readouterr().err) == (2, True)


def test_without_a_cluster_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("netpol_agent.main.LOCK_FOLDER", tmp_path)
    assert run(["--node", "n1"]) == ExitCode.MISSING
    assert "--kubeconfig" in capsys.readouterr().err
