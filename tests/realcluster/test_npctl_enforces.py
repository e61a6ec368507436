"""npctl as a user installs it on a cluster with real nodes: its chart by helm, its own image, a policy between two nodes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubectl import Kubectl
from netpol_lab import kubernetes_bin
from netpol_lab.chart import chart_folder
from realcluster.client import RealCluster

RELEASE = ("npctl", "--namespace", "npctl-system")
CHART = (str(chart_folder()), "--wait", "--timeout", "90s")


def _run(real: RealCluster, *command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(real.environment), check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def _helm(real: RealCluster, *arguments: str) -> str:
    return _run(real, str(kubernetes_bin.find().helm), *arguments)


def _npctl(real: RealCluster, *arguments: str) -> str:
    return _run(real, str(Path(sys.executable).with_name("npctl")), *arguments)


def _policy(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": list(rules)}
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec}


@pytest.fixture(scope="module")
def installed(real: RealCluster, archive: Path, kubectl: Kubectl) -> Iterator[RealCluster]:
    """The cluster with npctl's release in it, operator and agents ready."""
    # helm's own waiting leaves out as many agents as may be replaced at a time.
    rollout = ("rollout", "status", "daemonset/npctl-agent", "--namespace=npctl-system", "--timeout=50s")
    real.load(archive)
    _helm(real, "install", *RELEASE, *CHART, "--create-namespace")
    kubectl(*rollout)
    yield real
    # As docs/operations.md says: first the rules, which stay in place when an agent just ends.
    _helm(real, "upgrade", *RELEASE, *CHART, "--reset-then-reuse-values", "--set", "agent.cleanup=true")
    kubectl(*rollout)
    _helm(real, "uninstall", *RELEASE, "--wait")
    assert [node for node in real.nodes() if "npc-" in real.run(node, "iptables-save").stdout] == []


def test_the_operator_and_an_agent_on_every_node_are_ready(installed: RealCluster, kubectl: Kubectl) -> None:
    running = kubectl.items("pods", "--namespace=npctl-system")
    agents = [pod for pod in running if pod["metadata"]["name"].startswith("npctl-agent")]
    assert sorted(pod["spec"]["nodeName"] for pod in agents) == installed.nodes()
    assert len(running) > len(agents)
    for pod in running:
        assert [c["status"] for c in pod["status"]["conditions"] if c["type"] == "Ready"] == ["True"], pod["metadata"]["name"]


def test_a_deny_policy_shuts_pods_of_different_nodes_off_and_an_allowing_one_opens_them_again(
    installed: RealCluster, kubectl: Kubectl, pods: dict[str, Any]
) -> None:
    first, second = pods.values()
    ways = ((first, second), (second, first))
    assert [a.connects(f"{b.address}:8080") for a, b in ways] == [True, True]
    deny, allow = _policy("deny"), _policy("allow", {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]})
    try:
        kubectl("apply", "-f", "-", objects=[deny])
        _npctl(installed, "wait", "networkpolicy/deny", "-n", "default")
        assert [a.connects(f"{b.address}:8080") for a, b in ways] == [False, False]
        # A node reaches its own pods whatever the policies: the kubelet's probes come from there.
        assert (
            installed.run(first.node, "busybox", "wget", "-q", "-O-", f"http://{first.address}:8080/hostname").stdout
            == first.name
        )
        kubectl("apply", "-f", "-", objects=[allow])
        _npctl(installed, "wait", "networkpolicy/allow", "-n", "default")
        assert [a.connects(f"{b.address}:8080") for a, b in ways] == [True, True]
    finally:
        kubectl("delete", "-f", "-", "--ignore-not-found", objects=[deny, allow])
    _npctl(installed, "wait", "networkpolicy/deny", "networkpolicy/allow", "-n", "default", "--for=delete")
    assert [a.connects(f"{b.address}:8080") for a, b in ways] == [True, True]
