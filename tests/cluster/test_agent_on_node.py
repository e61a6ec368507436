"""The chart's agents on the lab's nodes, with the chart's rights: what they report, what they answer, what they keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cluster_api import Cluster, nodes
from ground_api import NODES, Ground, allow, pod, policy
from programs_api import AGENT_PORT, STARTED, Programs

DENIED, ALLOWED = "stranger -> server 8080 refused", "friend -> server 8080 allowed"


@pytest.fixture
def programs(cluster: Cluster) -> Programs:
    return Programs(cluster)


@pytest.fixture
def ground(cluster: Cluster, namespace: str) -> Ground:
    """A server on node 1 that lets friends in."""
    ground = Ground(cluster, namespace)
    ground.apply(
        pod("server", 1, {"app": "server"}),
        pod("friend", 2, {"access": "yes"}),
        pod("stranger", 3),
        policy("guard", {"app": "server"}, ingress=[allow({"access": "yes"})]),
        wait=True,
    )
    return ground


def answered(cluster: Cluster, program: str, path: str) -> str:
    """What an agent answers through the API server's proxy."""
    namespace, _, name = program.partition("/")
    return cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{name}:{AGENT_PORT}/proxy{path}")


def rules(cluster: Cluster, program: str, ground: Ground, name: str) -> Any:
    return json.loads(answered(cluster, program, f"/v1/pods/{ground.namespace}/{name}"))


def refused_packets(view: Any) -> int:
    return sum(r["packets"] for chain in view["chains"]["4"].values() for r in chain if r["rule"].endswith("-j DROP"))


def test_every_agent_reports_of_its_node_and_can_be_asked(cluster: Cluster, programs: Programs) -> None:
    agents = programs.agents()
    assert set(agents) == set(NODES)
    for node, program in agents.items():
        report = cluster.get("nodereport", node)
        (owner,) = report["metadata"]["ownerReferences"]
        assert owner["uid"] == cluster.get("node", node)["metadata"]["uid"]
        where = report["status"]["agent"]
        assert (f"{where['namespace']}/{where['pod']}", where["port"]) == (program, AGENT_PORT)
        assert (report["status"]["inSync"], report["status"]["complete"]) == (True, True)
        assert answered(cluster, program, "/healthz") == answered(cluster, program, "/readyz") == "ok\n"


def test_the_view_of_a_pod_counts_real_packets(cluster: Cluster, programs: Programs, ground: Ground) -> None:
    program = programs.agents()[NODES[0]]
    before = rules(cluster, program, ground, "server")
    assert (before["isolated"], before["differences"], before["in_sync"]) == (["ingress"], [], True)
    ground.see(f"{DENIED}\n{ALLOWED}")
    after = rules(cluster, program, ground, "server")
    assert refused_packets(after) > refused_packets(before)
    assert [ground.address("friend")] in [found["members"] for found in after["sets"].values()]
    with pytest.raises(AssertionError, match="NotFound"):
        rules(cluster, program, ground, "friend")  # which runs on another node


def test_an_agent_that_starts_without_an_api_server_changes_nothing(cluster: Cluster, programs: Programs, ground: Ground) -> None:
    program = programs.agents()[NODES[0]]
    cluster.client.control("apiserver", "hold")
    programs.control("kill", program)
    try:
        cluster.wait_for(lambda: cluster.client.status()["programs"].get(program), 30, "the agent started again")
        ground.see(f"{DENIED}\n{ALLOWED}")
    finally:
        cluster.client.control("apiserver", "start")
    ground.delete("networkpolicy", "guard")
    ground.until("stranger -> server 8080 allowed", limit=STARTED)
    programs.all_running()


def test_an_agent_of_a_node_that_is_gone_leaves_no_report(start_api: Callable[..., Cluster]) -> None:
    cluster = start_api("gone", objects=nodes(111, 112), agents=True)
    cluster.wait_for(lambda: len(cluster.items("nodereports")) == 2, 30, "two reports")
    cluster.kubectl("delete", "node", NODES[1])
    cluster.wait_for(lambda: [r["metadata"]["name"] for r in cluster.items("nodereports")] == [NODES[0]], 30, "one report")
    # An agent that is still there does not write it anew: with something to tell, it still has no Node to own it.
    cluster.kubectl("create", "namespace", "after")
    Ground(cluster, "after").apply(pod("server", 1, {"app": "a"}), policy("p", {"app": "a"}))
    cluster.wait_for(
        lambda: "after/p" in cluster.get("nodereport", NODES[0])["status"]["policies"], 30, "the other node's report"
    )
    assert [r["metadata"]["name"] for r in cluster.items("nodereports")] == [NODES[0]]
