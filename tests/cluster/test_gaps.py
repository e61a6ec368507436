"""Objects deleted while nobody looks, and forgotten by etcd: when the watches return (410 Gone), nothing of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from cluster_api import Cluster
from ground_api import IN_FORCE, NODES, Ground, allow, pod, policy, space
from ir_api import IR, see_ir
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.policy.span import Spans
from netpol_kube.client import ApiClient
from netpol_kube.credentials import from_kubeconfig
from netpol_operator.inputs.audit import Audit
from netpol_operator.inputs.feed import Feed
from netpol_operator.serving.metrics import OperatorMetrics
from probes_api import Probes
from programs_api import AGENT_PORT, STARTED, Programs
from until import until_async

GAPS, REPAIRS = "npctl_operator_watch_gaps_total", "npctl_operator_audit_repairs_total"
HANDED_OVER = ("NetworkPolicy", "Namespace")
"""Kinds of which kopf never tells what was deleted in a gap: only the audit finds it."""


@pytest.fixture
def guests(namespace: str) -> str:
    """The name of another namespace, with a pod `guest`, which the test deletes."""
    return f"{namespace}-guests"


@pytest.fixture
def ground(cluster: Cluster, namespace: str, guests: str) -> Ground:
    """`server` lets friends and guests in. Nobody gets into `walled`."""
    ground = Ground(cluster, namespace)
    friends = {"access": f"to-{namespace}"}
    ground.apply(
        space(guests, team=guests),
        pod("guest", 2, namespace=guests),
        pod("server", 1, {"app": "server"}),
        pod("walled", 1, {"app": "walled"}),
        pod("open", 2),
        pod("friend", 3, friends),
        pod("goer", 3, friends),
        pod("turncoat", 3, friends),
        pod("stranger", 3),
        policy("server", {"app": "server"}, ingress=[allow(friends), allow(namespaces={"team": guests})]),
        policy("wall", {"app": "walled"}),
        wait=True,
    )
    return ground


def members(ir: IR) -> set[str]:
    """All addresses in all sets."""
    return {member for document in ir.sets.values() for member in document["members"]}


def test_what_goes_while_the_operators_do_not_look_leaves_the_ir(ground: Ground, guests: str, programs: Programs) -> None:
    addresses = {ground.address("goer"), ground.cluster.get("pod", "guest", "-n", guests)["status"]["podIP"]}
    assert addresses <= members(see_ir(ground.cluster))
    operators = programs.operators()
    before = {operator: programs.figures(operator) for operator in operators}
    with Probes(ground, ["friend -> server 8080"], ["stranger -> server 8080"], "friend -> open 8080") as probes:
        with programs.blind(*operators):
            ground.delete("pod", "goer", "turncoat")
            ground.apply(pod("turncoat", 3))
            ground.delete("networkpolicy", "wall")
            ground.cluster.kubectl("delete", "namespace", guests, "--timeout=60s", limit=90)
            ground.see("stranger -> walled 8080 refused")  # nobody has told of it yet
        there = see_ir(ground.cluster, STARTED)
        ground.until("stranger -> walled 8080 allowed", "turncoat -> server 8080 refused")
    assert not probes.wrong
    assert not addresses & members(there)
    assert f"{ground.namespace}/wall" not in there.policies
    for operator in operators:
        see_counted(ground, programs, operator, before[operator])


def see_counted(ground: Ground, programs: Programs, operator: str, before: Mapping[str, float]) -> None:
    """An operator has seen gaps of all that it watches, and repaired what kopf did not tell."""
    names = [f"{GAPS}{{kind={kind}}}" for kind in (*HANDED_OVER, "Pod")]
    names += [f"{REPAIRS}{{kind={kind}}}" for kind in HANDED_OVER]

    def counted() -> bool:
        after = programs.figures(operator)
        return all(after.get(name, 0) > before.get(name, 0) for name in names)

    ground.cluster.wait_for(counted, IN_FORCE, f"{operator} counts {', '.join(names)}")


def test_what_goes_while_an_agent_does_not_look_leaves_its_node(ground: Ground, guests: str, programs: Programs) -> None:
    agent = programs.agents()[NODES[0]]
    before = programs.total(agent, "npctl_agent_watch_gaps_total", AGENT_PORT)
    with Probes(ground, ["friend -> server 8080"], ["stranger -> server 8080"], "friend -> open 8080") as probes:
        with programs.blind(agent):
            ground.delete("pod", "goer")
            ground.delete("networkpolicy", "wall")
            ground.cluster.kubectl("delete", "namespace", guests, "--timeout=60s", limit=90)
            ground.see("stranger -> walled 8080 refused")
        ground.until("stranger -> walled 8080 allowed")
        ground.in_force(STARTED)
    assert not probes.wrong
    assert programs.total(agent, "npctl_agent_watch_gaps_total", AGENT_PORT) > before


def test_an_operator_that_starts_does_not_wait_for_what_was_deleted_meanwhile(cluster: Cluster, namespace: str) -> None:
    """Not even when other policies come and go without a pause. This test is kopf, which tells the audit's feed what there is."""
    ground = Ground(cluster, namespace)
    ground.apply(policy("stays", {}), policy("goes", {}))
    asyncio.run(asyncio.wait_for(_started(ground), STARTED))


async def _started(ground: Ground) -> None:
    """Returns when the audit holds that all was handed over, though it has listed a policy that never is."""
    passes = asyncio.Event()
    feed = Feed(Pipeline(), Spans(), lambda: None)
    async with ApiClient(from_kubeconfig(ground.cluster.kubeconfig)) as client:
        for item in ground.cluster.items("namespaces"):
            feed.on_update("Namespace", item)
        audit = Audit(client, feed, OperatorMetrics(), lambda _: passes.set())
        task = asyncio.create_task(audit.run())
        await until_async(lambda: client.requests, STARTED, "the audit's first list")
        await asyncio.to_thread(ground.delete, "networkpolicy", "goes")
        number = 0
        while not passes.is_set():
            for item in await asyncio.to_thread(ground.cluster.items, "networkpolicies", "-A"):
                feed.on_update("NetworkPolicy", item)
            number += 1
            restless = {**item, "metadata": {**item["metadata"], "name": f"restless-{number}", "uid": str(number)}}
            feed.on_update("NetworkPolicy", restless)
        task.cancel()
        assert audit.complete
