"""Users' objects stay byte for byte what users made of them, whatever operators and agents go through."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_api import Cluster
from ground_api import Ground, allow, pod, policy
from ir_api import see_ir
from programs_api import STARTED, Programs

USERS = "networkpolicies,pods,services,serviceaccounts,configmaps"
RESTARTS, GAPS = 3, 2
"""An hour of operation is some twelve watches that the server ends, and some twenty audits. What they do to an object is what a
start does: it is listed, handed over, compared. Starts and gaps are used in their place."""
STRANGERS = ("npctl-operator", "npctl-agent", "kopf", "Python")
"""How what operators and agents write would be signed."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@pytest.fixture
def ground(cluster: Cluster, namespace: str) -> Ground:
    """Policies of every kind that something could be written on: in force, never matching, of nobody."""
    ground = Ground(cluster, namespace)
    ground.apply(
        pod("server", 1, {"app": "server"}),
        pod("friend", 2, {"access": "yes"}),
        policy("server", {"app": "server"}, ingress=[allow({"access": "yes"})]),
        policy("nobody", {"app": "nobody"}),
        policy("never", {"app": "server"}, egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "http"}]}]),
        wait=True,
    )
    return ground


def users(ground: Ground) -> dict[str, Any]:
    """Every object of the namespace and the namespace itself, whole: resourceVersion, managedFields, finalizers, annotations."""
    items = ground.cluster.items(USERS, "-n", ground.namespace, "--show-managed-fields")
    items.append(ground.cluster.get("namespace", ground.namespace, "--show-managed-fields"))
    return {f"{item['kind']}/{item['metadata']['name']}": item for item in items}


def test_users_objects_are_as_they_were_after_an_hour_of_starts_gaps_and_audits(ground: Ground, programs: Programs) -> None:
    before = users(ground)
    assert {name.partition("/")[0] for name in before} >= {"NetworkPolicy", "Pod", "Namespace"}
    operators, agents = programs.operators(), tuple(programs.agents().values())
    for _ in range(RESTARTS):
        with programs.held(*operators):
            pass
        see_ir(ground.cluster, STARTED)
    programs.control("kill", *agents)
    for _ in range(GAPS):
        with programs.blind(*operators, *agents):
            pass
        ground.in_force(STARTED)
    assert users(ground) == before
    for name, item in before.items():
        metadata = item["metadata"]
        managers = {entry["manager"] for entry in metadata.get("managedFields") or ()}
        assert not metadata.get("finalizers"), name
        assert not {manager for manager in managers if manager.startswith(STRANGERS)}, name
        assert set(metadata.get("annotations") or ()) <= {LAST_APPLIED}, name
        if name.startswith("NetworkPolicy/"):
            assert managers == {"kubectl-client-side-apply"}
