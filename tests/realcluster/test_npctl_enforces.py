"""npctl as a user installs it on a cluster with real nodes: its chart by helm, its own image, a policy between two nodes."""

from __future__ import annotations

from typing import Any

from kubectl import Kubectl
from netpol_realcluster.client import RealCluster
from netpol_realcluster.trials.endpoints import machine
from netpol_realcluster.trials.in_force import InForce, pods_with, policy


def test_the_operator_and_an_agent_on_every_node_are_ready(installed: RealCluster, kubectl: Kubectl) -> None:
    running = kubectl.items("pods", "--namespace=npctl-system")
    agents = [pod for pod in running if pod["metadata"]["name"].startswith("npctl-agent")]
    assert sorted(pod["spec"]["nodeName"] for pod in agents) == installed.nodes()
    assert len(running) > len(agents)
    for pod in running:
        assert [c["status"] for c in pod["status"]["conditions"] if c["type"] == "Ready"] == ["True"], pod["metadata"]["name"]


def test_a_deny_policy_shuts_pods_of_different_nodes_off_and_an_allowing_one_opens_them_again(
    installed: RealCluster, in_force: InForce, pods: dict[str, Any]
) -> None:
    first, second = list(pods.values())[:2]
    ways = ((first, second), (second, first))
    assert [a.connects(f"{b.address}:8080") for a, b in ways] == [True, True]
    in_force.put(policy("deny", "default", {"app": "web"}, ingress=[]))
    assert [a.connects(f"{b.address}:8080") for a, b in ways] == [False, False]
    # A node reaches its own pods whatever the policies: the kubelet's probes come from there.
    assert machine(installed, first.node).get(f"http://{first.address}:8080/hostname") == first.name
    in_force.put(policy("allow", "default", {"app": "web"}, ingress=[{"from": [pods_with(app="web")]}]))
    assert [a.connects(f"{b.address}:8080") for a, b in ways] == [True, True]
    in_force.drop()
    assert [a.connects(f"{b.address}:8080") for a, b in ways] == [True, True]
