"""NodeReports on a real API server: owned by their Node, written when it matters, never by an agent of a node that is gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from cluster_api import Cluster
from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.errors import Failure
from netpol_agent.reporting.agent_report import AgentReport
from netpol_agent.reporting.node_report import AgentPod, NodeReporter
from netpol_agent.threads.background import Background
from netpol_compiler.model.kinds import FAMILIES
from netpol_kube.client import ApiClient
from netpol_kube.credentials import from_kubeconfig
from wire_tap import Tap

NODE = "reported"
SIZES = {"chains": {"4": 4, "6": 4}, "rules": {"4": 9, "6": 9}, "sets": 2, "members": 7}
REPORT = AgentReport(
    node=NODE,
    ir_revision=7,
    objects_revision=8,
    backend=BackendKind.NFT,
    families=FAMILIES,
    in_sync=True,
    failures=(),
    problems=(),
    sizes=SIZES,
    syncs=1,
    repairs=0,
    cut=0,
    complete=True,
    policies={"shop/web": "d1", "shop/db": "d2"},
    revisions={"pods": "8", "addressSets": "7", "compiledPolicies": "7"},
)


class Desk:
    """A reporter in operation, and the report as everybody sees it."""

    def __init__(self, cluster: Cluster, reporter: NodeReporter, tap: Tap) -> None:
        self.cluster, self.reporter, self.tap = cluster, reporter, tap

    def seen(self) -> Any:
        done = self.cluster.run("get", "nodereport", NODE, "-o", "json", "--ignore-not-found")
        return json.loads(done.stdout) if done.stdout else None

    def status(self) -> Any:
        found = self.seen()
        return found["status"] if found else {}

    def until(self, condition: Callable[[], object], what: str) -> None:
        self.cluster.wait_for(condition, 20, what)


def node(cluster: Cluster) -> str:
    """Creates the Node; returns its uid."""
    cluster.apply([{"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}])
    return str(cluster.get("node", NODE)["metadata"]["uid"])


@pytest.fixture
def desk(bare: Cluster) -> Iterator[Desk]:
    background = Background()
    background.start()
    with Tap(from_kubeconfig(bare.kubeconfig)) as tap:
        client = ApiClient(tap.credentials, "test")
        background.at_end(client.close)
        reporter = NodeReporter(NODE, client, background.loop, AgentPod("npctl-system", "npctl-agent-x", 9436))
        background.run("writing reports", reporter.run)
        yield Desk(bare, reporter, tap)
        background.stop()
    bare.run("delete", "nodereport,node", NODE, "--ignore-not-found")


def test_the_report_is_owned_by_its_node_and_says_all_that_people_and_programs_wait_for(desk: Desk) -> None:
    uid = node(desk.cluster)
    assert desk.reporter.write(REPORT)
    desk.until(desk.seen, "the report")
    (owner,) = desk.seen()["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Node", NODE, uid)
    status = desk.status()
    assert status["policies"] == REPORT.policies
    assert status["agent"] == {"namespace": "npctl-system", "pod": "npctl-agent-x", "port": 9436}
    facts = {k: status[k] for k in ("schema", "node", "backend", "families", "inSync", "complete", "policyCount", "sizes")}
    expected = {"schema": 1, "node": NODE, "backend": "nft", "families": [4, 6], "inSync": True, "complete": True}
    assert facts == {**expected, "policyCount": 2, "sizes": SIZES}


def test_what_somebody_waits_for_is_written_at_once_and_the_rest_rides_along(desk: Desk) -> None:
    node(desk.cluster)
    desk.reporter.write(REPORT)
    desk.until(desk.seen, "the report")
    assert not desk.reporter.write(replace(REPORT, syncs=2)), "not worth a write of its own"
    failure = Failure("chain npc-x (IPv4)", "-A npc-x -j y", "no such chain")
    assert desk.reporter.write(replace(REPORT, syncs=3, policies={"shop/web": "d3"}, failures=(failure,), in_sync=False))
    desk.until(lambda: desk.status()["policies"] == {"shop/web": "d3"}, "the new digest, and the other policy gone")
    status = desk.status()
    assert (status["inSync"], status["syncs"], status["failureCount"]) == (False, 3, 1)
    assert status["failures"] == [{"what": failure.what, "text": failure.text, "error": failure.error}]


def test_a_report_that_an_agent_left_is_taken_over_and_not_emptied_while_the_next_one_starts(desk: Desk) -> None:
    uid = node(desk.cluster)
    desk.reporter.write(REPORT)
    desk.until(desk.seen, "the report")
    background = Background()
    background.start()
    client = ApiClient(from_kubeconfig(desk.cluster.kubeconfig), "test")
    background.at_end(client.close)
    successor = NodeReporter(NODE, client, background.loop)
    background.run("writing reports", successor.run)
    assert not successor.write(replace(REPORT, complete=False, in_sync=False, policies={}))
    assert successor.write(replace(REPORT, policies={"shop/web": "d9"}))
    desk.until(lambda: desk.status()["policies"] == {"shop/web": "d9"}, "the successor's report")
    assert desk.seen()["metadata"]["ownerReferences"][0]["uid"] == uid
    assert "agent" not in desk.status()
    background.stop()


def test_without_a_node_there_is_no_report_and_with_a_new_node_of_the_name_a_new_one(desk: Desk) -> None:
    desk.reporter.write(REPORT)
    desk.until(lambda: desk.reporter.errors >= 2, "it tries")
    assert desk.seen() is None
    first = node(desk.cluster)
    desk.until(desk.seen, "the report, now that there is a node")
    # What the garbage collector does when a Node is replaced.
    desk.cluster.kubectl("delete", "nodereport,node", NODE)
    second = node(desk.cluster)
    assert first != second
    desk.reporter.write(replace(REPORT, policies={}))
    desk.until(desk.seen, "the new node's report")
    assert desk.seen()["metadata"]["ownerReferences"][0]["uid"] == second


def test_the_newest_report_is_written_when_the_api_server_answers_again(desk: Desk) -> None:
    node(desk.cluster)
    desk.reporter.write(REPORT)
    desk.until(desk.seen, "the report")
    desk.tap.cut()
    before = desk.reporter.errors
    for number in range(5):
        desk.reporter.write(replace(REPORT, policies={"shop/web": f"e{number}"}))
    desk.until(lambda: desk.reporter.errors > before, "it notices")
    desk.tap.mend()
    desk.until(lambda: desk.status()["policies"] == {"shop/web": "e4"}, "the newest")
