"""What a user does with the release: upgrade it, and take it away again with all that is of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from netpol_realcluster.client import RealCluster
from netpol_realcluster.trials.in_force import InForce, pods_with, policy
from netpol_realcluster.trials.watch import Watch
from netpol_realcluster.trials.workloads import Field, pod, running

FIRST, SECOND = "172.31.7.111", "172.31.7.112"
SLEEP = "exec sleep infinity"
OURS = "npc"
Rules = dict[str, list[str]]


@pytest.fixture(scope="module")
def made(field: Field) -> Field:
    field.make(
        pod("server", node=SECOND), pod("friend", running(SLEEP), node=FIRST), pod("stranger", running(SLEEP), node=SECOND)
    )
    return field


@pytest.fixture
def target(made: Field, in_force: InForce) -> str:
    """Where `server` is, which only `friend` may reach."""
    in_force.put(policy("friend-only", made.namespace, {"app": "server"}, ingress=[{"from": [pods_with(app="friend")]}]))
    return f"{made.place('server').address}:8080"


def test_an_upgrade_neither_opens_nor_shuts_anything(installation: Any, made: Field, target: str) -> None:
    before = _agents(made)
    with Watch({(made.place("friend"), target): True, (made.place("stranger"), target): False}) as watch:
        watch.enough()
        installation.release.upgrade("--set", "agent.podAnnotations.round=another")
        watch.enough()
    assert not before & _agents(made), "every agent is another one"
    assert watch.wrong() == []


def _agents(field: Field) -> set[str]:
    found = field.kubectl.items("pods", "--namespace=npctl-system", "--selector=app.kubernetes.io/component=agent")
    return {pod["metadata"]["uid"] for pod in found}


def test_uninstalling_leaves_every_node_as_it_was_without_npctl(
    installation: Any, installed: RealCluster, made: Field, target: str, in_force: InForce
) -> None:
    nodes = installed.nodes()
    before = _at_rest(made, lambda: {node: _rules(installed, node) for node in nodes})
    assert any(OURS in line for line in before[SECOND])
    installation.remove()
    for node in nodes:
        assert _rules(installed, node) == [line for line in before[node] if OURS not in line], node
        assert [f for f in installed.node_root(node).joinpath("run", "npctl").glob("*") if f.suffix != ".lock"] == [], node
    # The policy is only an object now.
    assert made.place("stranger").reaches(target) == [True]
    in_force.forget()


def _at_rest(field: Field, look: Callable[[], Rules]) -> Rules:
    """What is seen twice in a row when nothing of earlier tests is about to go: kube-proxy changes rules of its own with that."""
    seen: list[Rules] = []

    def still() -> bool:
        phases = {n["status"]["phase"] for n in field.kubectl.items("namespaces")}
        seen.append(look())
        return phases == {"Active"} and seen[-1:] == seen[-2:-1]

    field.kubectl.until(still, "the nodes' rules are at rest", 60)
    return seen[-1]


def _rules(real: RealCluster, node: str) -> list[str]:
    """All that a node's kernel holds by iptables, of both backends, and by ipset; without counters and times of day."""
    commands = ("iptables-save", "iptables-legacy-save", "ip6tables-save", "ip6tables-legacy-save", "ipset save")
    texts = [real.run(node, *command.split()) for command in commands]
    assert [t.stderr for t in texts if t.returncode] == []
    return [line.partition(" [")[0] for t in texts for line in t.stdout.splitlines() if not line.startswith("#")]
