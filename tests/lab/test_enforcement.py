"""Policies go the whole way: stored objects, operator, IR folder, one agent for each node, the kernel, packets."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lab_cluster import CLUSTER, meta, node, pod
from netpol_lab.client import LabClient
from netpol_lab.errors import LabError, LabTimeout

pytestmark = pytest.mark.kernel

PORT = "8080/tcp"


def policy(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta(name, "python"), "spec": spec}


SAME_NAMESPACE = policy("same", {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]})
LABELLED = policy(
    "labelled",
    {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"in": "yes"}}}]}]},
)


@pytest.fixture(scope="module", params=list(product(("host-gw", "vxlan", "routed"), ("nft", "legacy"))), ids="-".join)
def lab(request: pytest.FixtureRequest, lab_folder: Path) -> Iterator[LabClient]:
    network, backend = request.param
    client = LabClient("enforced")
    client.up(CLUSTER, network=network, family="dual", backend=backend)
    yield client
    client.down()


@pytest.fixture
def applied(lab: LabClient) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Applies policies that are gone again after the test."""
    there: list[dict[str, Any]] = []

    def apply(data: dict[str, Any]) -> None:
        there.append(data)
        lab.apply([data])

    yield apply
    lab.delete(there)


def verdicts(lab: LabClient, source: str, destination: str = "python/tomcat-1", port: str = PORT) -> set[str]:
    return {r["verdict"] for r in lab.connect(source, destination, port, limit=0.5)}


def test_a_policy_is_in_force_when_apply_returns(lab: LabClient, applied: Callable[[dict[str, Any]], None]) -> None:
    assert verdicts(lab, "linux/client") == {"allowed"}
    applied(SAME_NAMESPACE)
    assert verdicts(lab, "python/lone") == {"allowed"}
    assert verdicts(lab, "python/tomcat-2") == {"allowed"}
    for stranger in ("linux/client", "host/outside", "node/172.31.7.112"):
        assert verdicts(lab, stranger) == {"refused"}, stranger
    assert verdicts(lab, "node/172.31.7.111") == {"allowed"}  # its own node
    assert verdicts(lab, "linux/client", "svc/python/lone", "80/tcp") == {"refused"}
    assert verdicts(lab, "python/lone", "svc/python/lone", "80/tcp") == {"allowed"}
    assert verdicts(lab, "host/outside", "node/172.31.7.112", "30016/tcp") == {"refused"}


def test_deleting_a_policy_opens_again(lab: LabClient) -> None:
    lab.apply([SAME_NAMESPACE])
    assert verdicts(lab, "linux/client") == {"refused"}
    lab.delete([SAME_NAMESPACE])
    assert verdicts(lab, "linux/client") == {"allowed"}


def test_a_label_lets_a_pod_in_and_out(lab: LabClient, applied: Callable[[dict[str, Any]], None]) -> None:
    applied(LABELLED)
    assert verdicts(lab, "python/lone") == {"refused"}
    lab.label("Pod", "lone", {"in": "yes"}, namespace="python")
    assert verdicts(lab, "python/lone") == {"allowed"}
    lab.label("Pod", "lone", {"in": None}, namespace="python")
    assert verdicts(lab, "python/lone") == {"refused"}


def test_a_new_pod_is_isolated_when_apply_returns(lab: LabClient, applied: Callable[[dict[str, Any]], None]) -> None:
    applied(SAME_NAMESPACE)
    late = pod("python", "late", 112, ("TCP", 8080))
    lab.apply([late])
    assert verdicts(lab, "linux/client", "python/late") == {"refused"}
    assert verdicts(lab, "python/late") == {"allowed"}
    lab.delete([late])


def test_a_new_node_enforces_when_apply_returns(lab: LabClient, applied: Callable[[dict[str, Any]], None]) -> None:
    applied(SAME_NAMESPACE)
    late = [node(113, "10.200.38.0/24"), pod("python", "far", 113, ("TCP", 8080))]
    lab.apply(late)
    assert verdicts(lab, "linux/client", "python/far") == {"refused"}
    assert verdicts(lab, "python/lone", "python/far") == {"allowed"}
    lab.delete(late[::-1])
    assert [n["name"] for n in lab.status()["nodes"]] == ["172.31.7.111", "172.31.7.112"]
    assert not (lab.folder / "reports" / "172.31.7.113.json").exists()


@pytest.mark.parametrize("program", ["operator", "agent-172.31.7.111"])
def test_a_program_started_anew_goes_on(lab: LabClient, applied: Callable[[dict[str, Any]], None], program: str) -> None:
    applied(SAME_NAMESPACE)
    lab.restart(program, crash=True)
    assert verdicts(lab, "linux/client") == {"refused"}
    lab.wait()
    assert verdicts(lab, "linux/client") == {"refused"}
    lab.apply([LABELLED])
    lab.label("Pod", "lone", {"in": "yes"}, namespace="python")
    assert verdicts(lab, "python/lone") == {"allowed"}
    lab.label("Pod", "lone", {"in": None}, namespace="python")
    lab.delete([LABELLED])


def test_an_agent_that_ended_is_named(lab_folder: Path) -> None:
    lab = LabClient("lame")
    lab.up(CLUSTER)
    try:
        pid = lab.status()["programs"]["agent-172.31.7.112"]
        assert lab.exec("node/172.31.7.111", ["kill", f"-{signal.SIGKILL}", str(pid)]) == 0
        with pytest.raises(LabTimeout, match=r"agent-172\.31\.7\.112 has ended"):
            lab.apply([SAME_NAMESPACE], limit=10)
        status = lab.status()
        assert status["in_force"] is False
        assert "has ended" in status["lagging"]["agent-172.31.7.112"]
        with pytest.raises(LabError, match="no program 'agent-nobody'"):
            lab.restart("agent-nobody")
        lab.restart("agent-172.31.7.112")
        lab.wait()
        assert verdicts(lab, "linux/client", "python/tomcat-2") == {"refused"}
    finally:
        lab.down()
