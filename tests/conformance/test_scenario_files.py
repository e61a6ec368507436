"""A scenario file: what is wrong in it is said with file, line and field, before anything is applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from netpol_lab.errors import LabError
from netpol_lab.scenarios.cases import run_cases
from netpol_lab.scenarios.drivers import SimulateDriver
from netpol_lab.scenarios.json_patch import patched
from netpol_lab.scenarios.scenario import SCENARIO_FILE, ScenarioError, read_scenario

HEAD = "apiVersion: lab.npctl.dev/v1\nkind: Scenario\nmetadata: {name: mine}\nnames: {one: a/one, two: a/two}\n"
PODS = "".join(
    f"---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: a, name: {name}}}, "
    f"spec: {{containers: [{{name: main, image: x, ports: [{{containerPort: 80}}]}}]}}}}\n"
    for name in ("one", "two")
)
DENY = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: a, name: deny}, spec: {podSelector: {}}}\n"

Write = Callable[[str], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Write:
    """Writes a scenario beside two pods and a policy; returns the folder."""
    (tmp_path / "pods.yaml").write_text(PODS)
    (tmp_path / "deny.yaml").write_text(DENY)

    def write(text: str) -> Path:
        (tmp_path / SCENARIO_FILE).write_text(HEAD + text)
        return tmp_path

    return write


def one_step(line: str) -> str:
    return f"environment: pods.yaml\ncases:\n- case: c\n  steps:\n  - step: s\n    {line}\n"


def test_lists_are_multiplied_out(folder):
    text = one_step("checks: [{from: [one, two], to: [one, two], port: [80, 53/udp, icmp], expect: allowed}]")
    checks = read_scenario(folder(text)).cases[0].steps[0].checks
    assert len(checks) == 12
    assert {c.port_text for c in checks} == {"80", "53/udp", "icmp"}


@pytest.mark.parametrize(
    ("line", "field", "words"),
    [
        ("apply: missing.yaml", "apply", "missing.yaml is not a file"),
        ("checks: [{from: one, to: two, port: 80, expect: maybe}]", "expect", "expected allowed or refused"),
        ("checks: [{from: nobody, to: two, port: 80, expect: allowed}]", "from", "none of the names"),
        ("checks: [{from: one, to: two, port: 0, expect: allowed}]", "port", "expected a port"),
        ("checks: [{from: one, to: two, port: 80/xtp, expect: allowed}]", "port", "expected a port"),
        ("checks: [{from: one, to: two, resolve: x.y, expect: allowed}]", "resolve", "in place of"),
        ("checks: {from: one}", "checks", "expected a list"),
        ("lables: {}", "lables", "not known here"),
        ("patch: {object: deny, ops: []}", "patch.object", "KIND/NAMESPACE/NAME"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_field(folder, line, field, words):
    with pytest.raises(ScenarioError) as caught:
        read_scenario(folder(one_step(line)))
    (rejected,) = caught.value.rejected
    assert rejected.file.endswith(SCENARIO_FILE)
    assert rejected.line == 10
    assert rejected.field.startswith("cases[0].steps[0].")
    assert rejected.field.endswith(field)
    assert words in rejected.reason


def test_a_folder_without_a_scenario_is_refused_in_words(tmp_path):
    with pytest.raises(ScenarioError, match=SCENARIO_FILE):
        read_scenario(tmp_path)


def test_yaml_that_cannot_be_read_is_refused_with_its_line(folder):
    with pytest.raises(ScenarioError, match=rf"{SCENARIO_FILE}:\d+"):
        read_scenario(folder("cases: [\n"))


def test_a_difference_is_told_and_a_case_leaves_nothing_behind(folder):
    text = one_step("apply: deny.yaml\n    checks: [{from: one, to: two, port: 80, expect: allowed}]")
    text += "- case: after\n  steps:\n  - {step: s, checks: [{from: one, to: two, port: 80, expect: allowed}]}\n"
    driver = SimulateDriver()
    try:
        first, second = run_cases(folder(text), driver)
    finally:
        driver.close()
    assert (first.seen.verdict, first.as_expected) == ("refused", False)
    assert "a/deny" in first.seen.decided
    assert (second.seen.verdict, second.as_expected) == ("allowed", True)


def test_labels_of_a_case_are_taken_back(folder):
    text = one_step("label: {pod: one, labels: {mark: 'yes'}}")
    driver = SimulateDriver()
    try:
        run_cases(folder(text), driver)
        assert "mark" not in driver.labels("a/one")
    finally:
        driver.close()


def test_a_patch_changes_a_copy():
    before = {"spec": {"ports": [{"port": 1}, {"port": 2}]}}
    operations = [
        {"op": "replace", "path": "/spec/ports/0/port", "value": 9},
        {"op": "remove", "path": "/spec/ports/1"},
        {"op": "add", "path": "/spec/ports/-", "value": {"port": 3}},
        {"op": "add", "path": "/spec/a~1b", "value": 1},
    ]
    assert patched(before, operations) == {"spec": {"ports": [{"port": 9}, {"port": 3}], "a/b": 1}}
    assert before == {"spec": {"ports": [{"port": 1}, {"port": 2}]}}


@pytest.mark.parametrize("path", ["/spec/ports/7/port", "/nothing/here", "/spec/ports/x"])
def test_a_patch_that_does_not_fit_is_refused(path):
    with pytest.raises(LabError, match="does not fit"):
        patched({"spec": {"ports": [{"port": 1}]}}, [{"op": "replace", "path": path, "value": 1}])
