"""Pods that are special to a kubelet, and what a policy means for them (points 7 to 9 of docs/semantics.md).

172.31.7.111   what a test is about, and `stranger`     172.31.7.112   `server`, to which only pods labelled app=friend may
"""

from __future__ import annotations

from typing import Any

import pytest

from netpol_realcluster.client import RealCluster
from netpol_realcluster.trials import endpoints
from netpol_realcluster.trials.endpoints import Place, machine
from netpol_realcluster.trials.in_force import InForce, block, pods_with, policy
from netpol_realcluster.trials.workloads import Field, Object, controlled, pod, pod_spec, running, serving

FIRST, SECOND = "172.31.7.111", "172.31.7.112"
FRIEND = {"app": "friend"}
SLEEP = "exec sleep infinity"


@pytest.fixture(scope="module")
def company(field: Field) -> Field:
    """Those that every test meets."""
    field.make(pod("server", node=SECOND), pod("stranger", running(SLEEP), node=FIRST))
    return field


@pytest.fixture
def friends_only(company: Field, in_force: InForce) -> str:
    """Where `server` is reached by those who may."""
    in_force.put(policy("friends-only", company.namespace, {"app": "server"}, ingress=[{"from": [pods_with(**FRIEND)]}]))
    target = f"{company.place('server').address}:8080"
    assert company.place("stranger").reaches(target) == [False]
    return target


def _soon(field: Field, place: Place, target: str, passes: bool = True) -> None:
    """A pod that is new is known to other nodes' agents a moment later."""
    field.kubectl.until(lambda: place.reaches(target) == [passes], f"{place.name} to {target}: {passes}")


def _heir(real: RealCluster, field: Field, name: str, address: str) -> Place:
    """A new pod on the first node, of no friend's, that gets `address` when its owner has given it back."""
    field.kubectl.until(lambda: endpoints.is_free(real, FIRST, address), f"{address} is free again")
    endpoints.give_next(real, FIRST, address)
    field.make(pod(name, running(SLEEP), node=FIRST))
    place = field.place(name)
    assert place.address == address
    return place


def test_a_pod_of_the_hosts_network_is_its_node(
    installed: RealCluster, company: Field, in_force: InForce, outside: Place
) -> None:
    company.make(
        pod("hosted", serving(18080), node=FIRST, labels=FRIEND, hostNetwork=True),
        pod("beside", node=FIRST, labels={"app": "server"}),
    )
    server, beside = (f"{company.place(name).address}:8080" for name in ("server", "beside"))
    in_force.put(
        policy("friends-only", company.namespace, {"app": "server"}, ingress=[{"from": [pods_with(**FRIEND)]}]),
        policy("shut", company.namespace, FRIEND, ingress=[], egress=[]),
    )
    # No policy selects it.
    port = f"{FIRST}:18080"
    assert [company.place("stranger").reaches(port), outside.reaches(port)] == [[True], [True]]
    # No selector means it either: to a pod of its own node it is the node, to another's an address that no rule has named.
    hosted = company.place("hosted")
    assert hosted.reaches(beside, server) == [True, False]
    in_force.put(policy("nodes-too", company.namespace, {"app": "server"}, ingress=[{"from": [block(_seen_as(hosted, server))]}]))
    assert hosted.reaches(server) == [True]


def _seen_as(place: Place, target: str) -> str:
    """The address that the place's packets to `target` wear."""
    return place.run("ip", "-o", "route", "get", target.partition(":")[0]).stdout.partition(" src ")[2].split()[0]


def test_a_host_port_is_the_pods_own_and_shows_who_asks(
    installed: RealCluster, company: Field, in_force: InForce, outside: Place
) -> None:
    container = serving(ports=[{"name": "http", "containerPort": 8080, "hostPort": 18081}])
    company.make(pod("ported", container, node=FIRST))
    port, stranger = f"{FIRST}:18081", company.place("stranger")
    assert [outside.reaches(port), stranger.reaches(port)] == [[True], [True]]
    in_force.put(policy("ported", company.namespace, {"app": "ported"}, ingress=[{"from": [block(outside.address)]}]))
    assert [outside.reaches(port), stranger.reaches(port)] == [[True], [False]]
    assert machine(installed, SECOND).reaches(port) == [False]
    in_force.put(policy("ported", company.namespace, {"app": "ported"}, ingress=[{"from": [pods_with(app="stranger")]}]))
    assert [outside.reaches(port), stranger.reaches(port)] == [[False], [True]]


def test_each_containers_named_ports_are_the_pods(company: Field, in_force: InForce) -> None:
    both = (serving(8080, "first", port_name="one"), serving(9090, "second", port_name="two"))
    company.make(pod("paired", *both, node=FIRST))
    address, server = company.place("paired").address, company.place("server")
    for name, expected in (("one", [True, False]), ("two", [False, True])):
        in_force.put(policy("paired", company.namespace, {"app": "paired"}, ingress=[{"ports": [{"port": name}]}]))
        assert server.reaches(f"{address}:8080", f"{address}:9090") == expected


def test_an_init_container_is_under_its_pods_policy(company: Field, in_force: InForce) -> None:
    company.make(pod("other", node=SECOND))
    server, other = (f"{company.place(name).address}:8080" for name in ("server", "other"))
    in_force.put(policy("starts", company.namespace, {"app": "starter"}, egress=[{"to": [pods_with(app="server")]}]))
    # Until its node's agent has heard of the new pod, it is as open as any.
    script = f"""
        while /agnhost connect {other} --timeout=1s; do :; done; echo other refused
        /agnhost connect {server} --timeout=5s && echo server reached
    """
    first = {**running(script, "first"), "resources": {}}
    company.make(pod("starter", running(SLEEP), node=FIRST, initContainers=[first]))
    said = company("logs", "starter", "--container=first")
    assert [line for line in said.splitlines() if line in ("other refused", "server reached")] == [
        "other refused",
        "server reached",
    ]
    assert company.place("starter").reaches(server, other) == [True, False]


def test_a_pod_that_is_ending_is_still_a_peer_and_still_isolated(company: Field, friends_only: str, in_force: InForce) -> None:
    leaving = serving(args=["netexec", "--http-port=8080", "--udp-port=-1", "--delay-shutdown=120"])
    company.make(pod("leaving", leaving, node=FIRST, labels=FRIEND, terminationGracePeriodSeconds=120))
    place, stranger = company.place("leaving"), company.place("stranger")
    in_force.put(policy("leaving", company.namespace, FRIEND, ingress=[{"from": [pods_with(app="server")]}]))
    _soon(company, place, friends_only)
    company("delete", "pod", "leaving", "--wait=false")
    assert company.item("pod", "leaving")["metadata"]["deletionTimestamp"]
    # What is put after that is in force after the deletion was noticed.
    in_force.put(policy("later", company.namespace, FRIEND, ingress=[{"from": [pods_with(app="nobody")]}]))
    own = f"{place.address}:8080"
    assert [place.reaches(friends_only), stranger.reaches(own)] == [[True], [False]]
    assert company.place("server").reaches(own) == [True]
    company("delete", "pod", "leaving", "--force", "--grace-period=0")


def test_a_jobs_completed_pod_is_nobody_and_its_address_is_the_next_ones(
    installed: RealCluster, company: Field, friends_only: str
) -> None:
    company(
        "apply", "-f", "-", objects=[_job("errand", f"until /agnhost connect {friends_only} --timeout=1s; do :; done", FRIEND)]
    )
    company("wait", "--for=condition=Complete", "job/errand", "--timeout=55s")
    (done,) = company.items("pods", "--selector=job-name=errand")
    assert done["status"]["phase"] == "Succeeded"
    heir = _heir(installed, company, "heir-of-job", done["status"]["podIP"])
    assert heir.reaches(friends_only) == [False]


def _job(name: str, script: str, labels: dict[str, str]) -> Object:
    template: dict[str, Any] = {
        "metadata": {"labels": labels},
        "spec": pod_spec(running(script), node=FIRST, restartPolicy="Never"),
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}


def test_a_stateful_sets_pod_comes_back_as_itself_with_another_address(
    installed: RealCluster, company: Field, friends_only: str
) -> None:
    company.make(controlled("StatefulSet", "kept", pod_spec(running(SLEEP), node=FIRST), FRIEND, serviceName="kept"))
    company("rollout", "status", "statefulset/kept", "--timeout=55s")
    before = company.place("kept-0")
    _soon(company, before, friends_only)
    company("delete", "pod", "kept-0")
    company("rollout", "status", "statefulset/kept", "--timeout=55s")
    after = company.place("kept-0")
    assert after.address != before.address
    _soon(company, after, friends_only)
    heir = _heir(installed, company, "heir-of-kept", before.address)
    assert heir.reaches(friends_only) == [False]
