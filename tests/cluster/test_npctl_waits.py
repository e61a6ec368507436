"""npctl wait and status against a live API server, with operator and agents played by the test's own hand: every way to lag."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from cluster_api import Cluster
from published import NODES, compile_policy, ended, npctl, pod, policy, report, start_npctl

SPACE = "npctl-waits"
NAME = f"{SPACE}/deny"
SYSTEM = "npctl-system"
FOREVER = "60s"
"""Longer than any test takes: what waits so long has to be woken."""


@pytest.fixture(scope="module")
def town(bare: Cluster) -> Iterator[Cluster]:
    """One pod on each of the two nodes."""
    bare.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}])
    for number, node in enumerate(NODES):
        pod(bare, SPACE, f"web-{number}", node, app="web")
    yield bare
    bare.kubectl("delete", "pod", "--all", "-n", SPACE, "--grace-period=0", "--force")
    bare.kubectl("delete", "namespace", SPACE)


@pytest.fixture
def deny(town: Cluster) -> Iterator[Cluster]:
    """The policy deny, which selects both pods; nothing is compiled or reported."""
    town.apply([policy(SPACE, "deny", {"app": "web"})])
    yield town
    town.kubectl("delete", "networkpolicy", "--all", "-n", SPACE)
    town.run("delete", "compiledpolicies", "--all", "-n", SPACE)
    town.run("delete", "nodereports", *NODES, "--ignore-not-found")


def in_force_everywhere(cluster: Cluster) -> str:
    digest = compile_policy(cluster, SPACE, "deny")
    for node in NODES:
        report(cluster, node, {NAME: digest})
    return digest


WAIT = ("wait", "networkpolicy/deny", "-n", SPACE)


# -- wait ----------------------------------------------------------------------------------------------


def test_wait_returns_when_the_last_node_has_it(deny: Cluster) -> None:
    waiting = start_npctl(deny, *WAIT, "--timeout", FOREVER)
    digest = compile_policy(deny, SPACE, "deny")
    report(deny, NODES[0], {NAME: digest})
    report(deny, NODES[1], {NAME: "of an earlier version"})
    assert npctl(deny, *WAIT, "--timeout", "0").code == 4
    assert waiting.poll() is None
    report(deny, NODES[1], {NAME: digest})
    answer = ended(waiting)
    assert answer.code == 0 and answer.out.startswith(f"networkpolicy {NAME} is in force on 2 nodes (")


@pytest.mark.parametrize(
    ("publish", "reason"),
    [
        pytest.param(lambda c: None, "operator: not compiled yet", id="no operator"),
        pytest.param(lambda c: compile_policy(c, SPACE, "deny"), f"node {NODES[0]}: no agent has reported", id="no agent"),
        pytest.param(
            lambda c: (compile_policy(c, SPACE, "deny"), [report(c, n) for n in NODES]),
            f"node {NODES[0]}: not in force there yet",
            id="not there yet",
        ),
        pytest.param(
            lambda c: (
                compile_policy(c, SPACE, "deny"),
                [report(c, n, {NAME: "old"}, inSync=False, problems=["no ipset"]) for n in NODES],
            ),
            f"node {NODES[1]}: it has an earlier version in force (no ipset)",
            id="earlier version",
        ),
        pytest.param(
            lambda c: (
                compile_policy(c, SPACE, "deny"),
                [report(c, n, failures=[{"what": "set npc4-x", "text": "create", "error": "too big"}]) for n in NODES],
            ),
            "not in force there yet (set npc4-x: too big)",
            id="failure",
        ),
        pytest.param(
            lambda c: [report(c, n, {NAME: compile_policy(c, SPACE, "deny")}, schema=2) for n in NODES],
            "its report has schema 2, and this npctl reads schema 1",
            id="newer agent",
        ),
    ],
)
def test_wait_says_at_its_end_who_lags_and_why(deny: Cluster, publish: Callable[[Cluster], object], reason: str) -> None:
    publish(deny)
    answer = npctl(deny, *WAIT, "--timeout", "0")
    assert answer.code == 4 and f"networkpolicy {NAME} is not in force after" in answer.err and reason in answer.err


def test_a_changed_policy_is_waited_for_anew(deny: Cluster) -> None:
    in_force_everywhere(deny)
    assert npctl(deny, *WAIT).code == 0
    deny.apply([policy(SPACE, "deny", {"app": "web"}, policyTypes=["Ingress", "Egress"])])
    late = npctl(deny, *WAIT, "--timeout", "0")
    assert late.code == 4 and "compiled at generation 1; the policy is at 2" in late.err
    in_force_everywhere(deny)
    assert npctl(deny, *WAIT).code == 0


def test_a_policy_created_again_under_its_name_is_another_one(deny: Cluster) -> None:
    in_force_everywhere(deny)
    deny.kubectl("delete", "networkpolicy", "deny", "-n", SPACE)
    deny.apply([policy(SPACE, "deny", {"app": "web"})])
    answer = npctl(deny, *WAIT, "--timeout", "0")
    assert answer.code == 4 and "compiled from an earlier policy of this name" in answer.err


def test_a_policy_that_selects_nothing_is_in_force_when_it_is_compiled(deny: Cluster) -> None:
    deny.apply([policy(SPACE, "idle", {"app": "nobody"})])
    waiting = start_npctl(deny, "wait", "netpol/idle", "-n", SPACE, "--timeout", FOREVER)
    compile_policy(deny, SPACE, "idle")
    answer = ended(waiting)
    assert answer.code == 0 and "it selects no pod that runs" in answer.out


def test_a_node_that_gets_a_selected_pod_is_waited_for(deny: Cluster) -> None:
    """Only one of the nodes needs the policy, until the other one's pod is labelled into it."""
    deny.kubectl("label", "pod", "web-1", "-n", SPACE, "app=else", "--overwrite")
    digest = compile_policy(deny, SPACE, "deny")
    report(deny, NODES[0], {NAME: digest})
    assert "in force on 1 node " in npctl(deny, *WAIT).out
    deny.kubectl("label", "pod", "web-1", "-n", SPACE, "app=web", "--overwrite")
    assert f"node {NODES[1]}: no agent has reported" in npctl(deny, *WAIT, "--timeout", "0").err


def test_all_and_files_and_both_forms_of_names(deny: Cluster, tmp_path: Path) -> None:
    in_force_everywhere(deny)
    deny.apply([policy(SPACE, "second", {"app": "nobody"})])
    both = npctl(deny, "wait", "--all", "-n", SPACE, "--timeout", "0", "-o", "json")
    states = {p["policy"]: p["inForce"] for p in both.data["policies"]}
    assert both.code == 4 and both.data["done"] is False and states == {NAME: True, f"{SPACE}/second": False}
    compile_policy(deny, SPACE, "second")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump_all([policy(SPACE, "deny", {}), policy(SPACE, "second", {})]))
    forms = ("-f", str(tmp_path)), ("netpol", "deny", "second", "-n", SPACE), ("netpol", "--all", "-A"), ("--all", "-n", SPACE)
    for words in forms:
        answer = npctl(deny, "wait", *words, "-o", "json")
        assert answer.code == 0 and {NAME, f"{SPACE}/second"} <= {p["policy"] for p in answer.data["policies"]}


def test_for_delete_waits_for_object_compiled_and_every_report(deny: Cluster) -> None:
    digest = in_force_everywhere(deny)
    words = ("wait", "netpol/deny", "-n", SPACE, "--for=delete")
    waiting = start_npctl(deny, *words, "--timeout", FOREVER)
    assert "the NetworkPolicy is still there" in npctl(deny, *words, "--timeout", "0").err
    deny.kubectl("delete", "networkpolicy", "deny", "-n", SPACE)
    deny.run("delete", "compiledpolicy", "deny", "-n", SPACE)
    report(deny, NODES[0])
    assert f"node {NODES[1]}: still in force there" in npctl(deny, *words, "--timeout", "0").err
    assert waiting.poll() is None, digest
    report(deny, NODES[1])
    answer = ended(waiting)
    assert answer.code == 0 and "is gone from every node" in answer.out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("networkpolicy/none",), f"no NetworkPolicy {SPACE}/none"),
        (("pod/web-0",), "not a NetworkPolicy"),
        ((), "which policies?"),
        (("--all", "networkpolicy/deny"), "one of the three"),
        (("networkpolicy/deny", "--timeout", "soon"), "not a duration"),
        (("networkpolicy/deny", "--for=condition=Ready"), "inforce (the default) or delete"),
    ],
)
def test_what_cannot_be_waited_for_is_wrong_input(deny: Cluster, words: tuple[str, ...], reason: str) -> None:
    answer = npctl(deny, "wait", *words, "-n", SPACE)
    assert answer.code == 2 and reason in answer.err and "hint: " in answer.err


# -- status --------------------------------------------------------------------------------------------


@pytest.fixture
def leader(deny: Cluster) -> Iterator[Cluster]:
    """An operator that leads, by its lease."""
    deny.apply([lease(0)])
    yield deny
    deny.run("delete", "lease", "npctl-operator", "-n", SYSTEM)


def lease(seconds: int) -> dict[str, object]:
    """The lease of an operator that renewed it so many seconds ago."""
    renewed = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "npctl-operator", "namespace": SYSTEM},
        "spec": {"holderIdentity": "npctl-operator-abc", "leaseDurationSeconds": 60, "renewTime": renewed},
    }


def test_status_when_all_is_in_force(leader: Cluster) -> None:
    in_force_everywhere(leader)
    answer = npctl(leader, "status")
    assert answer.code == 0, answer.out
    assert "npctl-operator-abc leads" in answer.out and "1 of 1 in force" in answer.out
    head, *rows = [line.split() for line in answer.out.splitlines() if line.startswith(("NODE ", "172."))]
    assert head == ["NODE", "IN-SYNC", "POLICIES", "RULES", "SETS", "LAG", "FAILURES", "BACKEND", "VERSION", "REPORTED"]
    assert [row[:9] for row in rows] == [[node, "yes", "1", "21", "3", "0", "0", "nft", "0.0.test"] for node in NODES]
    data = npctl(leader, "status", "-o", "json").data
    assert data["inForce"] and data["policies"] == {"total": 1, "inForce": 1, "lagging": []}


def test_status_tells_everything_that_lags(leader: Cluster) -> None:
    digest = compile_policy(leader, SPACE, "deny")
    failure = {"what": "chain npc-x", "text": "-A npc-x", "error": "no such set"}
    report(leader, NODES[0], {NAME: digest, f"{SPACE}/gone": "x"}, seconds=600, failures=[failure], problems=["odd sysctl"])
    leader.apply([policy(SPACE, "fresh", {})])
    answer = npctl(leader, "status")
    assert answer.code == 1
    for words in (
        "0 of 2 in force",
        f"lags: {SPACE}/fresh: operator: not compiled yet",
        f"lags: {NAME}: node {NODES[1]}: no agent has reported",
        f"node {NODES[0]}: its last report is 10m old",
        f"node {NODES[0]}: failure: chain npc-x: -A npc-x: no such set",
        f"node {NODES[0]}: problem: odd sysctl",
        f"node {NODES[0]}: {SPACE}/gone is deleted, and still in force there",
        f"node {NODES[1]}: no agent has reported",
    ):
        assert words in answer.out, answer.out
    node = npctl(leader, "status", "-o", "json").data["nodes"][1]
    assert node["lagging"] == [NAME] and node["reported"] is None and node["troubles"] == ["no agent has reported"]


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(300, "no operator leads: npctl-operator-abc last renewed its lease 5m ago"), (None, "no operator has ever led")],
)
def test_status_without_a_leader(deny: Cluster, seconds: int | None, reason: str) -> None:
    in_force_everywhere(deny)
    deny.run("delete", "lease", "npctl-operator", "-n", SYSTEM, "--ignore-not-found")
    if seconds is not None:
        deny.apply([lease(seconds)])
    answer = npctl(deny, "status")
    deny.run("delete", "lease", "npctl-operator", "-n", SYSTEM, "--ignore-not-found")
    assert answer.code == 1 and reason in answer.out


# -- clusters that lack something ----------------------------------------------------------------------


def test_where_npctl_is_not_installed_and_where_the_api_server_goes(start_api: Callable[..., Cluster]) -> None:
    own = start_api()
    own.apply([policy("default", "deny", {})])
    own.kubectl("delete", "crd", "addresssets.npctl.dev", "compiledpolicies.npctl.dev", "nodereports.npctl.dev")
    own.wait_for(lambda: own.run("get", "nodereports").returncode != 0, 20, "the definitions to go")
    for words in (("status",), ("wait", "netpol/deny", "--timeout", "5s")):
        answer = npctl(own, *words)
        assert answer.code == 3 and "npctl is not installed in this cluster" in answer.err and "helm install npctl" in answer.err
    assert npctl(own, "matrix", "-A", "--port", "80").code in (0, 2)  # no pods there is wrong input; what it means is known
    own.client.control("apiserver", "stop")
    for words in (("status",), ("matrix",), ("explain", "x"), ("lint",)):
        answer = npctl(own, *words)
        assert answer.code == 3 and "cannot reach the API server of context" in answer.err, answer.err


def test_wait_outlives_an_api_server_that_restarts(start_api: Callable[..., Cluster]) -> None:
    own = start_api()
    own.apply([policy("default", "deny", {})])
    waiting = start_npctl(own, "wait", "netpol/deny", "--timeout", FOREVER)
    assert npctl(own, "wait", "netpol/deny", "--timeout", "0").code == 4
    own.client.control("apiserver", "stop")
    own.client.control("apiserver", "start")
    compile_policy(own, "default", "deny")
    assert ended(waiting, 90).code == 0
