"""Every pod network but the default one, each on a cluster of its own: it carries pods and Services, and is what it is called.

Run when asked for, since each takes about a minute: ./dev test -n0 -m networks tests/realcluster (-k NAME: one of them). What the
default network does, the other tests here say; what npctl does on each, docs/conformance.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from kubectl import Kubectl
from netpol_realcluster import plan
from netpol_realcluster.client import RealCluster
from netpol_realcluster.networks import bird
from netpol_realcluster.networks.choice import DEFAULT, NETWORKS

pytestmark = pytest.mark.networks

WAYS = {
    "flannel-host-gw": (plan.DEVICE, "cni0"),
    "flannel-udp": ("flannel0", "cni0"),
    "flannel-ipip": ("flannel.ipip", "cni0"),
    "bridge-static": (plan.DEVICE, "cni0"),
    "ptp-static": (plan.DEVICE, "veth"),
    "vxlan-static": ("vxlan0", "cni0"),
    "bird-mesh": (plan.DEVICE, "veth"),
    "bird-reflector": (plan.DEVICE, "veth"),
}
"""By which device a node reaches pods of other nodes, and how the name of the one to its own pods begins."""
FAR_MORE_THAN_A_PACKET = 20_000


@dataclass(frozen=True)
class Cluster:
    """One that is up, with a pod on every node."""

    network: str
    real: RealCluster
    kubectl: Kubectl
    pods: dict[str, Any]


@pytest.fixture(scope="module", params=[name for name in NETWORKS if name != DEFAULT])
def cluster(
    request: pytest.FixtureRequest,
    possible: Callable[[str], None],
    run_pods: Callable[[Kubectl], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """Two nodes, Ready, and DNS that answers: that much `RealCluster` promises."""
    possible(request.param)
    with RealCluster(tmp_path_factory.mktemp("network") / "cluster", network=request.param) as real:
        kubectl = Kubectl(real.kubeconfig)
        yield Cluster(request.param, real, kubectl, run_pods(kubectl))


def _device(cluster: Cluster, node: str, address: str) -> str:
    (route,) = json.loads(cluster.real.run(node, "ip", "-j", "route", "get", address).stdout)
    return str(route["dev"])


def test_pods_of_different_nodes_see_each_others_own_address(cluster: Cluster) -> None:
    first, second = cluster.pods.values()
    for client, server in ((first, second), (second, first)):
        assert client.get(f"http://{server.address}:8080/clientip").rpartition(":")[0] == client.address


def test_what_is_larger_than_a_packet_passes_both_ways(cluster: Cluster) -> None:
    first, second = cluster.pods.values()
    text = "x" * FAR_MORE_THAN_A_PACKET
    assert first.get(f"http://{second.address}:8080/echo?msg={text}") == text


@pytest.mark.parametrize("named", [False, True], ids=["by its address", "by its name"])
def test_a_service_is_reached_from_every_node_and_serves_from_every_node(cluster: Cluster, named: bool) -> None:
    address = cluster.kubectl("get", "service", "web", "--output=jsonpath={.spec.clusterIP}")
    place = f"web.default.svc.{plan.DOMAIN}" if named else address
    names = {pod.name for pod in cluster.pods.values()}
    for pod in cluster.pods.values():
        answered: set[str] = set()

        def all_answered(pod: Any = pod, answered: set[str] = answered) -> bool:
            answered.add(pod.get(f"http://{place}/hostname"))
            return answered >= names

        cluster.kubectl.until(all_answered, f"an answer of each pod to {pod.name}")
        assert answered == names


def test_packets_take_the_way_that_the_network_is_called_by(cluster: Cluster) -> None:
    far, near = WAYS[cluster.network]
    for node in cluster.pods:
        for other, pod in cluster.pods.items():
            device = _device(cluster, node, pod.address)
            assert device.startswith(near) if other == node else device == far


def test_forward_of_both_nodes_sees_the_pods_addresses_in_clear(cluster: Cluster) -> None:
    far, near = WAYS[cluster.network]
    first, second = cluster.pods.values()
    ends = ("-p", "tcp", "-s", first.address, "-d", second.address)
    ways = {first.node: (f"{near}+", far), second.node: (far, f"{near}+")}
    for node, (arrives, leaves) in ways.items():
        # A rule without a target does nothing but count.
        assert not cluster.real.run(node, "iptables", "-w", "-I", "FORWARD", "-i", arrives, "-o", leaves, *ends).stderr
    first.get(f"http://{second.address}:8080/hostname")
    for node in ways:
        counted, *_ = cluster.real.run(node, "iptables", "-w", "-nvxL", "FORWARD", "1").stdout.split()
        assert int(counted) > 0, node
        cluster.real.run(node, "iptables", "-w", "-D", "FORWARD", "1")


def test_blocks_that_bird_exchanges_come_from_those_neighbours_alone_that_the_network_is_called_by(cluster: Cluster) -> None:
    if not cluster.network.startswith("bird"):
        pytest.skip("no BGP here")
    blocks = {node["metadata"]["name"]: node["spec"]["podCIDR"] for node in cluster.kubectl.items("nodes")}
    for node in cluster.pods:
        others = set(blocks) - {node}
        sessions = [line.split() for line in _birdc(cluster, node, "show", "protocols").splitlines() if " BGP " in line]
        wanted = others if cluster.network == "bird-mesh" else {plan.ADDRESSES[plan.API]}
        assert {name for name, *_ in sessions} == {f"to_{address.replace('.', '_')}" for address in wanted}
        assert {words[-1] for words in sessions} == {"Established"}
        learned = json.loads(cluster.real.run(node, "ip", "-j", "route", "show", "proto", "bird").stdout)
        assert {(route["dst"], route["gateway"]) for route in learned if "gateway" in route} == {(blocks[o], o) for o in others}


def _birdc(cluster: Cluster, node: str, *words: str) -> str:
    return cluster.real.run(node, "birdc", "-s", bird.CONTROL, *words).stdout
