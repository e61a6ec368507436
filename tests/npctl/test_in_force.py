"""When a policy is in force, and who lags: from what operator and agents publish, without any cluster."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from builders import cluster, pod, policy
from netpol_api.in_force import Compiled, Control, Placed, Report, Written, absence, policy_state, report_of
from netpol_compiler.model.objects import Key
from npctl.commands.wait import parse_duration
from npctl.enforcement.enforcement import age, age_words
from npctl.enforcement.programmed import Programmed
from npctl.enforcement.status import operator_of
from npctl.errors import CommandError
from npctl.inputs.live import owner_of

KEY = Key("a", "p")
WRITTEN = Written("uid-1", 3)
COMPILED = Compiled("uid-1", 3, "d1")
GOOD = Report("n1", {"a/p": "d1"}, in_sync=True)


def lags(compiled: Compiled | None = COMPILED, *reports: Report, nodes: tuple[str, ...] = ("n1",)) -> list[str]:
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
        (replace(GOOD, policies={}, failures=({"what": "set x", "error": "big"},)), "not in force there yet (set x: big)"),
        (replace(GOOD, schema=9), "it has an earlier version in force (its report has schema 9, and this npctl reads schema 1)"),
    ],
)
def test_a_node_without_the_digest_lags_and_says_what_is_wrong_there(report: Report, words: str) -> None:
    assert lags(COMPILED, report) == [f"node n1: {words}"]


RAISED = """
import sys
from netpol_compiler.policy import wire
from netpol_api import resources
wire.SCHEMA, resources.NODE_REPORT_SCHEMA = map(int, sys.argv[1:])
from netpol_api.in_force import report_of
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
    everything = Control({KEY: COMPILED}, {"n1": GOOD, "n2": Report("n2", {"a/other": "d"})})
    assert [lag.words for lag in absence(KEY, WRITTEN, everything).lags] == [
        "operator: the NetworkPolicy is still there",
        "node n1: still in force there",
    ]
    assert absence(KEY, None, everything).lags[0].words == "operator: its CompiledPolicy is still there"
    assert absence(KEY, None, Control({}, {"n2": Report("n2", {"a/other": "d"})})).in_force


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


# -- the operator --------------------------------------------------------------------------------------

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def lease(**spec: Any) -> dict[str, Any]:
    return {"spec": {"holderIdentity": "op-1", "leaseDurationSeconds": 10, "renewTime": "2026-01-01T11:59:58.000000Z", **spec}}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lease(), "op-1 leads (renewed 2s ago)"),
        (lease(renewTime="2026-01-01T11:50:00.000000Z"), "no operator leads: op-1 last renewed its lease 10m ago"),
        (lease(holderIdentity=None), "no operator leads now"),
        (None, "no operator has ever led (there is no lease npctl-operator in namespace npctl-system)"),
    ],
)
def test_who_leads_by_the_lease(found: dict[str, Any] | None, words: str) -> None:
    assert operator_of("npctl-system", found, [], NOW).words == words


def test_replicas_are_told_with_their_versions() -> None:
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    image = {"spec": {"containers": [{"image": "registry:5000/npctl:1.2@sha256:0"}], "nodeName": "n"}}
    pods = [{"metadata": {"name": "a"}, **ready, **image}, {"metadata": {"name": "b"}, **image}]
    assert operator_of("x", lease(), pods, NOW).words.endswith("; 1 of 2 replicas ready, 1.2")


# -- small parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("500ms", 0.5), ("1m30s", 90), ("2h", 7200), ("0", 0), ("15", 15), ("1.5s", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "3 s", "s", "5d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(CommandError):
        parse_duration(text)


def test_ages() -> None:
    assert [age_words(s) for s in (-1, 0.4, 119, 120, 7199, 7200, 172800)] == ["0s", "0s", "119s", "2m", "119m", "2h", "2d"]
    assert age("2026-01-01T11:59:00Z", NOW) == 60 and age("", NOW) is None and age("yesterday", NOW) is None


@pytest.mark.parametrize(
    ("owner", "labels", "found"),
    [
        ({"kind": "ReplicaSet", "name": "web-5d4f"}, {"pod-template-hash": "5d4f"}, ("Deployment", "web")),
        ({"kind": "ReplicaSet", "name": "web"}, {}, ("ReplicaSet", "web")),
        ({"kind": "StatefulSet", "name": "db"}, {}, ("StatefulSet", "db")),
        (None, {}, None),
    ],
)
def test_a_pod_belongs_to_the_workload_that_people_know(owner: dict[str, str] | None, labels: dict[str, str], found: Any) -> None:
    references = [{**owner, "controller": True}] if owner else []
    assert owner_of({"metadata": {"name": "x", "labels": labels, "ownerReferences": references}}) == found


def test_what_the_kernel_holds_is_shown_with_its_counters_and_its_differences() -> None:
    answer = {
        "schema": 1,
        "in_sync": True,
        "isolated": ["ingress"],
        "chains": {"4": {"npc-pi-x": [{"rule": "-j DROP", "packets": 12, "bytes": 720}]}, "6": {}},
        "sets": {"npc4-x": {"type": "hash:net", "members": []}},
        "differences": ["set npc4-x lacks 10.0.0.1"],
    }
    text = "\n".join(Programmed("n1", answer).lines)
    assert (
        "    12        720  -j DROP" in text and "none: this pod is not isolated" in text and "npc4-x (hash:net): empty" in text
    )
    assert "THE KERNEL DIFFERS from what was compiled for node n1" in text and "set npc4-x lacks 10.0.0.1" in text
    assert Programmed("n1", answer).data["differences"] == ["set npc4-x lacks 10.0.0.1"]
