"""`npctl lab`: what needs no lab here; the lab itself is tested in tests/lab, and with packets below."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netpol_lab.errors import LabError, LabForbidden, LabLacksPrograms, LabMissing, LabTimeout
from npctl.errors import CommandError, ExitCode
from npctl.lab.commands import kind_of, parse_labels
from npctl.lab.common import lab_errors

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labs of this test only, also beside a session's lab in the same process."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("NPCTL_LAB_DIR", str(tmp_path / "labs"))


def test_labels_are_set_and_removed_as_kubectl_does() -> None:
    assert parse_labels(["a=b", "c-", "d="]) == {"a": "b", "c": None, "d": ""}


@pytest.mark.parametrize("word", ["a", "=b", "ä=b", "a=b c", "-"])
def test_a_word_that_is_no_label_is_refused(word: str) -> None:
    with pytest.raises(CommandError) as error:
        parse_labels([word])
    assert error.value.code is ExitCode.BAD_INPUT


@pytest.mark.parametrize(("word", "kind"), [("po", "Pod"), ("pods", "Pod"), ("netpol", "NetworkPolicy"), ("SVC", "Service")])
def test_kinds_have_kubectls_short_names(word: str, kind: str) -> None:
    assert kind_of(word) == kind


@pytest.mark.parametrize("words", [("status",), ("get",), ("connect", "a", "b"), ("matrix",), ("apply", "-f", str(EXAMPLES))])
def test_without_a_lab_every_command_says_how_to_start_one(cli: Any, words: tuple[str, ...]) -> None:
    result = cli("lab", *words, "--name", "nobody")
    assert result.code == 3 and "npctl lab up" in result.err


def test_files_with_a_mistake_never_reach_the_lab(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("kind: NetworkPolicy\n")
    result = cli("lab", "apply", "-f", "bad.yaml", "--name", "nobody")
    assert result.code == 2 and "bad.yaml:1" in result.err


def test_a_wrong_choice_names_the_right_ones(cli: Any) -> None:
    result = cli("lab", "up", "--network", "token-ring", "--name", "nobody")
    assert result.code == 2 and "host-gw, vxlan, routed" in result.err


def test_down_without_a_lab_is_fine(cli: Any) -> None:
    assert cli("lab", "down", "--name", "nobody").code == 0


def test_a_machine_that_forbids_namespaces_is_exit_code_3_with_the_way_out() -> None:
    with pytest.raises(CommandError) as error, lab_errors():
        raise LabForbidden("unshare failed", "allow it")
    assert error.value.code is ExitCode.MISSING and "--simulate" in error.value.remedy


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LabError("no such pod"), ExitCode.BAD_INPUT),
        (LabMissing("no lab"), ExitCode.MISSING),
        (LabLacksPrograms("the lab needs ipset"), ExitCode.MISSING),
        (LabTimeout("not in force"), ExitCode.TIMEOUT),
    ],
)
def test_a_labs_errors_have_their_exit_codes(error: LabError, code: ExitCode) -> None:
    with pytest.raises(CommandError) as ended, lab_errors():
        raise error
    assert ended.value.code is code and str(error) in ended.value.lines


def test_a_simulated_run_is_as_expected_and_says_so_in_every_line(cli: Any) -> None:
    result = cli("lab", "run", str(EXAMPLES), "--simulate")
    lines = [line for line in result.out.splitlines() if line]
    assert result.code == 0 and len(lines) > 100
    assert all("simulated" in line.lower() for line in lines)
    assert "all as expected" in lines[-1]


def test_the_shape_of_a_run(cli: Any) -> None:
    data = cli("lab", "run", str(EXAMPLES), "--simulate", "-o", "json").data
    assert data["summary"]["differing"] == 0 and data["summary"]["simulated"] is True
    assert {r["case"] for r in data["rows"]} >= {f"case{n}" for n in range(1, 10)}
    assert {"case", "from", "to", "port", "expected", "seen", "decided", "simulated"} <= set(data["rows"][0])


def test_a_run_that_differs_is_exit_code_1(cli: Any, tmp_path: Path) -> None:
    for path in EXAMPLES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    scenario = tmp_path / "expected.scenario"
    scenario.write_text(scenario.read_text().replace("expect: refused", "expect: allowed"))
    result = cli("lab", "run", ".", "--simulate")
    assert result.code == 1 and "DIFFERS" in result.out and " differ" in result.out.splitlines()[-1]


def test_a_folder_without_a_scenario_is_bad_input(cli: Any) -> None:
    result = cli("lab", "run", ".", "--simulate")
    assert result.code == 2 and "expected.scenario" in result.err


@contextlib.contextmanager
def a_lab(cli: Any, name: str, *options: str) -> Iterator[Any]:
    started = cli("lab", "up", *options, "--name", name, "-o", "json")
    try:
        yield started
    finally:
        cli("lab", "down", "--name", name)


@pytest.mark.kernel
def test_a_lab_from_beginning_to_end(cli: Any) -> None:
    tomcat = "python/python-tomcat-app1-deployment"
    name = ("--name", "cli")
    with a_lab(cli, "cli", "-f", str(EXAMPLES / "nodes.yaml"), "-f", str(EXAMPLES / "environment.yaml")) as started:
        assert started.code == 0, started.err
        assert cli("lab", "list", "-o", "json").data == {"labs": [{"name": "cli"}]}
        assert cli("lab", "status", *name).code == 0
        before = cli("lab", "connect", "linux/net-test-centos-pod1", tomcat, "--port", "8080", *name)
        assert before.code == 0 and "allowed" in before.out
        policy = str(EXAMPLES / "case4-ingress-podSelector-ns.yaml")
        assert "created" in cli("lab", "apply", "-f", policy, *name).out
        assert cli("lab", "connect", "linux/net-test-centos-pod1", tomcat, "--port", "8080", *name).code == 1
        assert cli("lab", "label", "pod/net-test-centos-pod1", "a=b", "-n", "linux", *name).code == 0
        assert cli("lab", "get", "pods", "-n", "linux", *name).out.count("\nPod ") == 3
        assert cli("lab", "exec", "linux/net-test-centos-pod1", *name, "--", "sh", "-c", "exit 7").code == 7
        assert "X" in cli("lab", "matrix", *name).out
        assert "deleted" in cli("lab", "delete", "-f", policy, *name).out
        assert cli("lab", "connect", "linux/net-test-centos-pod1", tomcat, "--port", "8080", *name).code == 0
    assert cli("lab", "list", "-o", "json").data == {"labs": []}
