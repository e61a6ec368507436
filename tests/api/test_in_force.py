"""When a policy is in force, and who lags: the function by itself. Who else asks it: test_in_force_everywhere."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from builders import cluster, pod, policy
from netpol_api.compiled_policy import Compiled
from netpol_api.in_force import Control, Placed, Written, absence, policy_state
from netpol_api.node_report import Failure, NodeReport, report_of
from netpol_compiler.model.objects import Key

KEY = Key("a", "p")
WRITTEN = Written("uid-1", 3)
COMPILED = Compiled("uid-1", 3, "d1")
GOOD = NodeReport("n1", {"a/p": "d1"}, in_sync=True)


def lags(compiled: Compiled | None = COMPILED, *reports: NodeReport, nodes: tuple[str, ...] = ("n1",)) -> list[str]:
    control = Control({KEY: compiled} if compiled else {}, {r.node: r for r in reports})
    return [lag.words for lag in policy_state(KEY, WRITTEN, nodes, control).lags]


def test_in_force_means_compiled_as_it_is_and_reported_by_every_node_that_needs_it() -> None:
    assert lags(COMPILED, GOOD) == []
    assert lags(COMPILED, GOOD, replace(GOOD, node="n2"), nodes=("n1", "n2")) == []
    assert lags(COMPILED, GOOD, nodes=("n1", "n2")) == ["node n2: no agent has reported"]


def test_a_policy_that_selects_nothing_needs_no_node() -> None:
    assert lags(COMPILED, nodes=()) == []
    assert lags(None, nodes=()) == ["operator: not compiled yet"]


@pytest.mark.parametrize(
    ("compiled", "words"),
    [
        (COMPILED._replace(uid="uid-0"), "compiled from an earlier policy of this name (uid uid-0; it is now uid-1)"),
        (COMPILED._replace(generation=2), "compiled at generation 2; the policy is at 3"),
    ],
)
def test_what_was_compiled_from_another_version_does_not_count(compiled: Compiled, words: str) -> None:
    assert lags(compiled, GOOD) == [f"operator: {words}"]


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (replace(GOOD, policies={}), "not in force there yet"),
        (replace(GOOD, policies={"a/p": "d0"}), "it has an earlier version in force"),
        (replace(GOOD, policies={}, in_sync=False), "not in force there yet (not in sync)"),
        (replace(GOOD, policies={}, complete=False), "not in force there yet (its agent has not read everything yet)"),
        (replace(GOOD, policies={}, problems=("no ipset",)), "not in force there yet (no ipset)"),
        (replace(GOOD, policies={}, failures=(Failure("set x", "", "big"),)), "not in force there yet (set x: big)"),
        (replace(GOOD, schema=9), "it has an earlier version in force (its report has schema 9, and this npctl reads schema 1)"),
    ],
)
def test_a_node_without_the_digest_lags_and_says_what_is_wrong_there(report: NodeReport, words: str) -> None:
    assert lags(COMPILED, report) == [f"node n1: {words}"]


RAISED = """
import sys
from netpol_compiler.policy import wire
from netpol_api import node_report
from netpol_api.node_report import report_of
wire.SCHEMA, node_report.SCHEMA = map(int, sys.argv[1:])
status = {"schema": 1, "inSync": True, "policies": {"a/p": "d1"}}
print("report:", report_of({"metadata": {"name": "n1"}, "status": status}).trouble or "read")
try:
    wire.checked({"schema": 1})
    print("IR: read")
except wire.WireError as error:
    print("IR:", error)
"""
"""With a schema's number raised before anything imports it, as in a later version."""


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (("2", "1"), "report: read\nIR: schema 1, and this version reads schema 2\n"),
        (("1", "2"), "report: its report has schema 1, and this npctl reads schema 2\nIR: read\n"),
    ],
    ids=["the IR's", "the reports'"],
)
def test_reports_and_the_ir_have_schemas_that_change_by_themselves(numbers: tuple[str, str], said: str) -> None:
    told = subprocess.run([sys.executable, "-c", RAISED, *numbers], capture_output=True, text=True, timeout=60, check=False)
    assert told.stdout == said, told.stderr


def test_gone_means_the_object_what_was_compiled_and_every_report() -> None:
    everything = Control({KEY: COMPILED}, {"n1": GOOD, "n2": NodeReport("n2", {"a/other": "d"})})
    assert [lag.words for lag in absence(KEY, WRITTEN, everything).lags] == [
        "operator: the NetworkPolicy is still there",
        "node n1: still in force there",
    ]
    assert absence(KEY, None, everything).lags[0].words == "operator: its CompiledPolicy is still there"
    assert absence(KEY, None, Control({}, {"n2": NodeReport("n2", {"a/other": "d"})})).in_force


def test_the_nodes_that_need_a_policy_run_a_live_pod_that_it_selects() -> None:
    pods = [
        pod("a", "web", "10.0.0.1", node="n1", app="web"),
        pod("a", "twin", "10.0.0.2", node="n1", app="web"),
        pod("a", "far", "10.0.0.3", node="n2", app="web"),
        pod("a", "over", "10.0.0.4", node="n3", phase="Succeeded", app="web"),
        pod("a", "host", "10.0.0.5", node="n4", host_network=True, app="web"),
        pod("a", "other", "10.0.0.6", node="n5", app="other"),
        pod("b", "web", "10.0.0.7", node="n6", app="web"),
    ]
    found = cluster(policy("a", "p", {"app": "web"}))
    assert Placed(pods).nodes_of(found.policies[KEY]) == ("n1", "n2")


def test_a_report_of_nothing_and_of_a_newer_form_can_be_read() -> None:
    assert report_of({"metadata": {"name": "n"}}).schema == 0
    newer = report_of({"metadata": {"name": "n"}, "status": {"schema": 7, "policies": {"a/p": "d1"}, "more": {"x": 1}}})
    assert newer.schema == 7 and newer.trouble.startswith("its report has schema 7")


@pytest.mark.parametrize("status", [{"schema": 2}, {"schema": 1, "policies": ["a/p"]}], ids=["newer", "odd"])
def test_a_policy_is_not_gone_from_a_node_whose_report_may_hide_it(status: dict[str, object]) -> None:
    hiding = report_of({"metadata": {"name": "n1"}, "status": status})
    assert [lag.words for lag in absence(KEY, None, Control({}, {"n1": hiding})).lags] != []
    plain = report_of({"metadata": {"name": "n1"}, "status": {"schema": 1, "policies": {}}})
    assert absence(KEY, None, Control({}, {"n1": plain})).lags == ()
