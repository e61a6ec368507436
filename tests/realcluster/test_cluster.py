"""A cluster with real nodes is one: what its parts are there for works, with real packets between two kubelets' pods."""

from __future__ import annotations

import json
import re
import subprocess
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

import build_kubernetes
from kubectl import Kubectl
from netpol_lab.errors import LabError
from netpol_realcluster import plan
from netpol_realcluster.client import RealCluster


def _sent(real: RealCluster, node: str) -> int:
    """How many packets the node has sent through flannel's tunnel."""
    link = json.loads(real.run(node, "ip", "-s", "-j", "link", "show", "flannel.1").stdout)
    return int(link[0]["stats64"]["tx"]["packets"])


def test_every_node_is_ready_and_runs_the_kubelet_that_is_pinned(real: RealCluster, kubectl: Kubectl) -> None:
    nodes = kubectl.items("nodes")
    assert [node["metadata"]["name"] for node in nodes] == real.nodes() == ["172.31.7.111", "172.31.7.112", "172.31.7.113"]
    for node in nodes:
        assert [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"] == ["True"]
        version = build_kubernetes.read_pins().versions[build_kubernetes.KUBERNETES]
        assert node["status"]["nodeInfo"]["kubeletVersion"] == version


def test_every_node_has_a_block_of_its_own_of_the_pods_network(kubectl: Kubectl) -> None:
    blocks = [ip_network(node["spec"]["podCIDR"]) for node in kubectl.items("nodes")]
    assert len(set(blocks)) == 3
    assert all(block.prefixlen == 24 and block.subnet_of(ip_network(plan.POD_NETWORK)) for block in blocks)


def test_a_pod_runs_on_every_node_with_an_address_of_its_block(real: RealCluster, kubectl: Kubectl, pods: dict[str, Any]) -> None:
    blocks = {node["metadata"]["name"]: ip_network(node["spec"]["podCIDR"]) for node in kubectl.items("nodes")}
    assert sorted(pods) == real.nodes()
    for node, pod in pods.items():
        assert ip_address(pod.address) in blocks[node]


def test_pods_of_different_nodes_talk_over_tcp_through_the_tunnel(real: RealCluster, pods: dict[str, Any]) -> None:
    first, second, _ = pods.values()
    before = _sent(real, first.node)
    # The server sees the pod itself: nothing on the way has changed the address, as policies need it.
    assert first.get(f"http://{second.address}:8080/clientip").rpartition(":")[0] == first.address
    assert _sent(real, first.node) >= before + 4


@pytest.mark.parametrize("place", ["its address", f"web.default.svc.{plan.DOMAIN}", "web"])
def test_a_service_is_reached_by_its_address_and_names_and_serves_from_every_node(
    kubectl: Kubectl, pods: dict[str, Any], place: str
) -> None:
    if place == "its address":
        place = kubectl("get", "service", "web", "--output=jsonpath={.spec.clusterIP}")
    first, *_ = pods.values()
    answered: set[str] = set()

    def both_answered() -> bool:
        answered.add(first.get(f"http://{place}/hostname"))
        return len(answered) == len(pods)

    kubectl.until(both_answered, f"an answer of each pod as {place}")
    assert answered == {pod.name for pod in pods.values()}


def test_a_name_that_is_in_no_cluster_is_refused(pods: dict[str, Any], kubectl: Kubectl) -> None:
    first, *_ = pods.values()
    assert "NXDOMAIN" in kubectl.run("exec", first.name, "--", "nslookup", f"nobody.default.svc.{plan.DOMAIN}").stdout


def test_kubectl_runs_commands_in_pods_and_reads_their_logs(kubectl: Kubectl, pods: dict[str, Any]) -> None:
    for pod in pods.values():
        assert pod.exec("hostname").strip() == pod.name
        pod.get("http://127.0.0.1:8080/hostname")
        assert re.search(r"GET /hostname", kubectl("logs", pod.name))


def test_a_node_port_answers_on_every_node_to_a_machine_that_is_in_no_cluster(real: RealCluster, pods: dict[str, Any]) -> None:
    for node in real.nodes():
        answer = real.run(plan.OUTSIDE, "busybox", "wget", "-q", "-O-", f"http://{node}:30080/hostname")
        assert answer.stdout in {pod.name for pod in pods.values()}, answer.stderr


def test_nodes_have_rules_and_mounts_of_their_own(real: RealCluster) -> None:
    names = {real.run(node, "hostname").stdout.strip() for node in real.nodes()}
    assert names == set(real.nodes())
    for node in real.nodes():
        assert "KUBE-SERVICES" in real.run(node, "iptables-save").stdout
        assert real.run(node, "ls", "/var/lib/kubelet/pods").returncode == 0
    here = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout
    assert "FLANNEL-FWD" not in here


def test_a_nodes_program_is_started_anew_by_its_name(real: RealCluster) -> None:
    name = f"kube-proxy-{real.nodes()[-1]}"
    assert real.control(name, "kill") is None
    assert real.control(name, "start")
    with pytest.raises(LabError, match="no program 'nobody'"):
        real.control("nobody", "stop")
