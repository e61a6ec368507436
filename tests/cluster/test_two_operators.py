"""Two replicas: one publishes, the other takes over, and never both. What is left of a node that is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster_api import Cluster, nodes
from ground_api import IN_FORCE, Ground, allow, pod, policy
from history_api import History
from ir_api import see_ir
from programs_api import STARTED, Programs

TAKE_OVER = 15.0
"""Seconds within which the standby publishes."""
LEASE, MARGIN = 10.0, 2.0
"""Seconds that a Lease lasts."""
WRITES = "npctl_operator_writes_total"
FRIEND, SERVER = {"access": "yes"}, {"app": "server"}
ALWAYS, NEVER = ["friend -> server 8080", "server -> friend 8080"], ["stranger -> server 8080"]


@pytest.fixture
def ground(cluster: Cluster, namespace: str) -> Ground:
    ground = Ground(cluster, namespace)
    ground.apply(
        pod("server", 1, SERVER),
        pod("friend", 2, FRIEND),
        pod("mover", 3),
        pod("stranger", 3),
        policy("server", SERVER, ingress=[allow(FRIEND)]),
        wait=True,
    )
    return ground


@contextmanager
def changes(ground: Ground) -> Iterator[None]:
    """Labels and policies change, come and go all the while, until exit."""
    stop = threading.Event()
    faults: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(1000):
                if stop.is_set():
                    return
                ground.label("pod", "mover", access=None if number % 2 else "yes")
                ground.apply(policy("restless", SERVER, ingress=[allow({"access": "no"}, port=8000 + number)]))
                ground.apply(policy(f"short-{number}", SERVER, ingress=[allow({"access": "never"})]))
                if number % 4 == 3:
                    ground.delete("networkpolicy", "restless")
                ground.delete("networkpolicy", f"short-{number}")
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not faults, faults


def test_of_two_operators_one_leads_and_writes(ground: Ground, programs: Programs) -> None:
    leader, standby = programs.leader(), programs.standby()
    assert [programs.total(p, "npctl_operator_leader") for p in (leader, standby)] == [1, 0]
    wrote = programs.total(standby, WRITES)
    ground.apply(policy("more", SERVER, ingress=[allow({"access": "more"})]))
    ground.label("pod", "mover", access="more")
    see_ir(ground.cluster)
    ground.until("mover -> server 8080 allowed")
    assert programs.leader() == leader
    assert programs.total(standby, WRITES) == wrote


def test_the_standby_takes_over_from_a_leader_that_was_killed(ground: Ground, programs: Programs) -> None:
    leader, standby = programs.leader(), programs.standby()
    with History(ground.cluster) as history, changes(ground), programs.held(leader):
        wrote = programs.total(standby, WRITES)
        ground.cluster.wait_for(lambda: programs.total(standby, WRITES) > wrote, TAKE_OVER, "the standby publishes")
        assert programs.leader() == standby
    ground.in_force(STARTED)
    history.check()
    history.check_verdicts(ground.namespace, ALWAYS, NEVER)
    assert history.written("CompiledPolicy") > 0
    see_ir(ground.cluster)


def test_a_leader_that_was_paused_too_long_writes_no_more(ground: Ground, programs: Programs) -> None:
    leader, standby = programs.leader(), programs.standby()
    with History(ground.cluster) as history, changes(ground):
        with programs.paused(leader):
            wrote = programs.total(standby, WRITES)
            ground.cluster.wait_for(lambda: programs.total(standby, WRITES) > wrote, TAKE_OVER, "the standby publishes")
        before = programs.total(leader, WRITES)
        there = programs.total(standby, WRITES)
        ground.cluster.wait_for(lambda: programs.total(standby, WRITES) > there + 5, IN_FORCE, "the new leader goes on")
        assert programs.total(leader, WRITES) == before
        assert programs.total(leader, "npctl_operator_leader") == 0
        assert programs.leader() == standby
    ground.in_force(STARTED)
    history.check()
    history.check_verdicts(ground.namespace, ALWAYS, NEVER)
    see_ir(ground.cluster)


def test_both_operators_paused_in_the_midst_of_changes_go_on_where_they_were(ground: Ground, programs: Programs) -> None:
    """Longer than the Lease: neither knows on its own who led last."""
    operators = programs.operators()
    with History(ground.cluster) as history:
        with changes(ground), programs.paused(*operators):
            ground.cluster.wait_for(lambda: programs.lease_age() > LEASE + MARGIN, IN_FORCE, "the Lease has run out")
        ground.in_force(STARTED)
        see_ir(ground.cluster, STARTED)
    history.check()
    history.check_verdicts(ground.namespace, ALWAYS, NEVER)
    assert sorted(programs.total(p, "npctl_operator_leader") for p in operators) == [0, 1]


def test_a_leader_that_is_stopped_gives_the_lease_back(ground: Ground, programs: Programs) -> None:
    leader, standby = programs.leader(), programs.standby()
    programs.control("stop", leader)
    ground.cluster.wait_for(lambda: programs.leader() == standby, TAKE_OVER, "the standby leads")
    ground.label("pod", "mover", access="yes")
    ground.until("mover -> server 8080 allowed")


def test_nothing_is_left_of_a_node_that_is_gone(ground: Ground) -> None:
    late = nodes(114)
    name = late[0]["metadata"]["name"]
    cluster = ground.cluster
    cluster.client.apply(late, limit=STARTED)
    cluster.apply([{**pod("far", 1, SERVER, namespace=ground.namespace), "spec": {**pod("far", 1)["spec"], "nodeName": name}}])
    ground.in_force(STARTED)
    ground.see("friend -> far 8080 allowed\n mover -> far 8080 refused")
    assert cluster.get("nodereport", name)["status"]["policyCount"] == 1
    cluster.kubectl("delete", "node", name, "--timeout=60s", limit=90)
    gone = lambda: cluster.run("get", "nodereport", name).returncode != 0  # noqa: E731
    cluster.wait_for(gone, IN_FORCE, f"the report of {name} is gone")
    ground.in_force(STARTED)
    assert gone()
    see_ir(cluster)
