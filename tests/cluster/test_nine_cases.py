"""The nine cases of examples/ on a real API server, with kubectl alone, and every connection of them with real packets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster_api import Cluster
from driver_api import KubectlDriver
from ground_api import Ground, allow, pod, policy, space
from netpol_lab.scenarios.cases import Row, read_manifests, run_cases

EXAMPLES = Path(__file__).parents[2] / "examples"


def wrong(rows: tuple[Row, ...]) -> list[str]:
    return [
        f"{r.case}, {r.step}: {r.check.source.name} -> {r.check.target.name} {r.check.port_text}: "
        f"expected {r.check.expect}, seen {r.seen.verdict} ({r.seen.answer}); {r.seen.decided}"
        for r in rows
        if not r.as_expected
    ]


@pytest.mark.timeout(300)
def test_the_nine_cases_hold_by_kubectl_apply_and_delete(start_api: Callable[..., Cluster]) -> None:
    cluster = start_api("cases", objects=read_manifests(EXAMPLES / "nodes.yaml"), agents=True)
    rows = run_cases(EXAMPLES, KubectlDriver(cluster))
    assert len({row.case for row in rows}) == 10
    assert not wrong(rows)


@pytest.fixture
def ground(cluster: Cluster, namespace: str) -> Ground:
    """A server that lets pods with access=yes in, and the pods of namespaces with team=blue."""
    ground = Ground(cluster, namespace)
    ground.apply(
        pod("server", 1, {"app": "server"}),
        pod("near", 1),
        pod("far", 3),
        policy("guard", {"app": "server"}, ingress=[allow({"access": "yes"}), allow(namespaces={"team": f"blue-{namespace}"})]),
        wait=True,
    )
    return ground


def test_a_label_of_a_pod_moves_it_in_and_out(ground: Ground) -> None:
    ground.see("near -> server 8080 refused\n far -> server 8080 refused")
    ground.label("pod", "far", access="yes")
    ground.until("far -> server 8080 allowed")
    ground.see("near -> server 8080 refused")
    ground.label("pod", "far", access=None)
    ground.until("far -> server 8080 refused")


def test_a_label_of_the_guarded_pod_moves_it_in_and_out_of_its_policy(ground: Ground) -> None:
    ground.label("pod", "server", app="free")
    ground.until("far -> server 8080 allowed")
    ground.label("pod", "server", app="server")
    ground.until("far -> server 8080 refused")


@pytest.fixture
def guests(ground: Ground) -> Iterator[str]:
    """Another namespace, with a pod `guest` in it."""
    name = f"{ground.namespace}-guests"
    ground.apply(space(name), pod("guest", 2, namespace=name), wait=True)
    yield name
    ground.cluster.kubectl("delete", "namespace", name, "--timeout=60s", limit=90)


def test_a_label_of_a_namespace_moves_its_pods_in_and_out(ground: Ground, guests: str) -> None:
    ground.see(f"{guests}/guest -> server 8080 refused")
    ground.label("namespace", guests, team=f"blue-{ground.namespace}")
    ground.until(f"{guests}/guest -> server 8080 allowed")
    ground.label("namespace", guests, team=None)
    ground.until(f"{guests}/guest -> server 8080 refused")
