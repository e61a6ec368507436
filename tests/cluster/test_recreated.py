"""The same name or the same address, and something else behind it: no verdict of the earlier life is left."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from cluster_api import Cluster
from ground_api import Ground, allow, pod, policy, space
from ir_api import see_ir
from programs_api import STARTED, Programs

ADDRESS = "10.200.113.77"
"""Of the third node's block."""
IN, OUT = {"role": "in"}, {"role": "out"}


@pytest.fixture
def ground(cluster: Cluster, namespace: str) -> Ground:
    """`server` lets in who has role=in: not `other`."""
    ground = Ground(cluster, namespace)
    ground.apply(
        pod("server", 1, {"app": "server"}),
        pod("friend", 2, IN),
        pod("other", 2, OUT),
        policy("server", {"app": "server"}, ingress=[allow(IN)]),
        wait=True,
    )
    ground.see("friend -> server 8080 allowed\n other -> server 8080 refused")
    return ground


def recreate(ground: Ground) -> None:
    """The policy's name, other pods in it and another port."""
    ground.delete("networkpolicy", "server")
    ground.apply(policy("server", {"app": "server"}, ingress=[allow(OUT, port=9090)]))


def see_recreated(ground: Ground) -> None:
    ground.until(
        "friend -> server 8080 refused",
        "friend -> server 9090 refused",
        "other -> server 9090 allowed",
        "other -> server 8080 refused",
    )
    uid = ground.get("networkpolicy", "server")["metadata"]["uid"]
    assert ground.get("compiledpolicy", "server")["spec"]["uid"] == uid


def test_a_policy_created_again_under_its_name(ground: Ground) -> None:
    recreate(ground)
    see_recreated(ground)
    see_ir(ground.cluster)


def test_a_policy_created_again_under_its_name_while_the_operators_are_away(ground: Ground, programs: Programs) -> None:
    with programs.held(*programs.operators()):
        recreate(ground)
    see_ir(ground.cluster, STARTED)
    see_recreated(ground)


def test_a_policy_created_again_as_it_was_but_for_its_uid(ground: Ground) -> None:
    ground.delete("networkpolicy", "server")
    ground.apply(policy("server", {"app": "server"}, ingress=[allow(IN)]))
    ground.in_force()
    ground.see("friend -> server 8080 allowed\n other -> server 8080 refused")
    see_ir(ground.cluster)


@pytest.fixture
def town(ground: Ground) -> Iterator[Ground]:
    """Another namespace: nobody gets into its `house`, and `server` of `ground` lets in all of its pods."""
    name = f"{ground.namespace}-town"
    town = Ground(ground.cluster, name)
    fill(town, {"team": name}, guarded="house")
    ground.apply(policy("server", {"app": "server"}, ingress=[allow(namespaces={"team": name})]))
    ground.in_force()
    yield town
    ground.cluster.kubectl("delete", "namespace", name, "--timeout=60s", limit=90)


def fill(town: Ground, labels: dict[str, str], guarded: str) -> None:
    town.apply(
        space(town.namespace, **labels),
        pod("house", 1, {"app": "house"}),
        pod("person", 3, address=ADDRESS),
        policy("wall", {"app": guarded}),
    )


def test_a_namespace_deleted_with_all_in_it_and_created_again(ground: Ground, town: Ground) -> None:
    person = f"{town.namespace}/person"
    ground.see(f"{person} -> server 8080 allowed\n friend -> {town.namespace}/house 8080 refused")
    ground.cluster.kubectl("delete", "namespace", town.namespace, "--timeout=60s", limit=90)
    see_ir(ground.cluster)
    assert not ground.cluster.items("compiledpolicies", "-n", town.namespace)
    fill(town, {"team": "other"}, guarded="nobody")
    ground.in_force()
    ground.see(f"{person} -> server 8080 refused\n friend -> {town.namespace}/house 8080 allowed")
    ground.label("namespace", town.namespace, team=town.namespace)
    ground.until(f"{person} -> server 8080 allowed")
    see_ir(ground.cluster)


@pytest.mark.parametrize("before", [IN, OUT], ids=["in-then-out", "out-then-in"])
def test_an_address_that_another_pod_has_now(ground: Ground, before: dict[str, str]) -> None:
    after, verdicts = (OUT, ("allowed", "refused")) if before is IN else (IN, ("refused", "allowed"))
    ground.apply(pod("first", 3, before, address=ADDRESS), wait=True)
    ground.see(f"first -> server 8080 {verdicts[0]}")
    ground.delete("pod", "first")
    ground.apply(pod("second", 3, after, address=ADDRESS))
    ground.cluster.wait_for(
        lambda: ground.get("pod", "second").get("status", {}).get("podIP"), 30, "the second pod has its address"
    )
    assert ground.address("second") == ADDRESS
    ground.until(f"second -> server 8080 {verdicts[1]}")
    see_ir(ground.cluster)


def test_an_address_that_another_pod_of_the_same_name_has_now(ground: Ground) -> None:
    ground.apply(pod("twice", 3, IN, address=ADDRESS), wait=True)
    ground.delete("pod", "twice")
    ground.apply(pod("twice", 3, OUT, address=ADDRESS), wait=True)
    assert ground.address("twice") == ADDRESS
    ground.see("twice -> server 8080 refused")
    see_ir(ground.cluster)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_the_address_of_a_completed_pod_used_again(ground: Ground, phase: str) -> None:
    """The completed pod stays in the API with its address in its status."""
    ground.apply(pod("done", 3, IN, address=ADDRESS), wait=True)
    ground.see("done -> server 8080 allowed")
    ground.patch("pod", "done", json.dumps({"status": {"phase": phase}}), "--subresource=status")
    ground.apply(pod("next", 3, OUT, address=ADDRESS), wait=True)
    assert ground.address("done") == ground.address("next") == ADDRESS
    ground.see("next -> server 8080 refused")
    see_ir(ground.cluster)


def test_the_isolation_of_a_completed_pod_is_not_that_of_the_next(ground: Ground) -> None:
    ground.apply(
        pod("done", 3, {"app": "job"}, address=ADDRESS),
        policy("job", {"app": "job"}),
        wait=True,
    )
    ground.see("friend -> done 8080 refused")
    ground.patch("pod", "done", json.dumps({"status": {"phase": "Succeeded"}}), "--subresource=status")
    ground.apply(pod("next", 3, OUT, address=ADDRESS), wait=True)
    ground.see("friend -> next 8080 allowed")
    see_ir(ground.cluster)
