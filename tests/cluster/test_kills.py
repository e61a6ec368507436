"""Operators, an agent and the API server are killed while things change. What both states allow never fails, what both refuse
never passes; afterwards the IR is what a compile from scratch gives."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cluster_api import Cluster
from ground_api import NODES, Ground, allow, pod, policy
from history_api import History
from ir_api import see_ir
from probes_api import Probes
from programs_api import STARTED, Programs

FRIEND, SERVER, SWAPPED = {"access": "yes"}, {"app": "server"}, {"app": "swapped"}
CONTROL = "friend -> open 8080"
ALWAYS = ("friend -> server 8080", "near-friend -> server 8080", "friend -> swapped 8080", "server -> open 8080")
NEVER = ("stranger -> server 8080", "near-stranger -> server 8080", "stranger -> swapped 8080")
CHANGES = 12
AWAY = 56
"""Rounds of probes, a quarter of a second each at least, while the API server is away: longer than the Lease, and than any pause
between tries."""
BACK = 5.0
"""Seconds until what is changed once the API server is back must be in force."""


@pytest.fixture
def ground(cluster: Cluster, namespace: str) -> Ground:
    """`server` and `swapped` let friends in and nobody else; no policy is about `open`."""
    ground = Ground(cluster, namespace)
    ground.apply(
        pod("server", 1, SERVER),
        pod("swapped", 2, SWAPPED),
        pod("open", 2),
        pod("friend", 3, FRIEND),
        pod("near-friend", 1, FRIEND),
        pod("stranger", 3),
        pod("near-stranger", 1),
        pod("mover", 2, {"app": "mover"}),
        pod("goer", 3, FRIEND),
        policy("server", SERVER, ingress=[allow(FRIEND, port=8080)]),
        policy("before", SWAPPED, ingress=[allow(FRIEND)]),
        policy("short-lived", {"app": "mover"}, ingress=[]),
        wait=True,
    )
    return ground


def change(ground: Ground) -> None:
    """Another state, of every kind of change, in which ALWAYS and NEVER hold as before, and at every moment in between."""
    ground.apply(
        policy("server", SERVER, ingress=[allow(FRIEND), allow({"app": "mover"}, port=9090)]),
        policy("after", SWAPPED, ingress=[allow(FRIEND, port=8080)]),
        policy("new", {"app": "open"}, ingress=[allow({"app": "nobody"})]),
        pod("comer", 2, FRIEND),
    )
    ground.delete("networkpolicy", "before", "short-lived")
    ground.label("pod", "mover", access="yes")
    ground.delete("pod", "goer")


def keep_changing(ground: Ground, done: Callable[[], bool]) -> None:
    """Labels and policies to and fro until `done` says so, CHANGES times at least."""
    for number in range(10 * CHANGES):
        if number >= CHANGES and done():
            break
        ground.label("pod", "mover", access="yes" if number % 2 else None)
        ground.apply(policy("restless", {"app": "mover"}, ingress=[allow(FRIEND, port=8000 + number)]))


def see_the_changed_state(ground: Ground) -> None:
    """What `change` brought holds for packets too."""
    ground.in_force()
    ground.see(
        """
        mover    -> server  9090 allowed
        comer    -> server  9090 allowed
        stranger -> server  9090 refused
        comer    -> swapped 8080 allowed
        comer    -> swapped 9090 refused
        """
    )


def test_operators_killed_and_started_again_under_change(ground: Ground, programs: Programs) -> None:
    with History(ground.cluster) as history, Probes(ground, ALWAYS, NEVER, CONTROL) as probes:
        operators = programs.operators()
        assert len(operators) == 2
        with programs.held(*operators):
            change(ground)
        leads = lambda: any(programs.total(p, "npctl_operator_writes_total") for p in operators)  # noqa: E731
        keep_changing(ground, lambda: _answers(leads))
        see_ir(ground.cluster, STARTED)
        ground.in_force(STARTED)
    assert not probes.wrong
    history.check()
    history.check_verdicts(ground.namespace, ALWAYS, NEVER)
    assert history.written("CompiledPolicy") > CHANGES / 2
    see_the_changed_state(ground)


def _answers(question: Callable[[], bool]) -> bool:
    """Whether it is so; a program that does not serve yet has not said so."""
    try:
        return question()
    except AssertionError:
        return False


def test_the_leading_operator_crashes_in_the_midst_of_changes(ground: Ground, programs: Programs) -> None:
    """It is started again at once, as a kubelet does it."""
    with History(ground.cluster) as history, Probes(ground, ALWAYS, NEVER, CONTROL) as probes:
        changing = threading.Thread(target=lambda: keep_changing(ground, lambda: True))
        changing.start()
        programs.control("kill", programs.leader())
        change(ground)
        changing.join()
        see_ir(ground.cluster, STARTED)
        ground.in_force(STARTED)
    assert not probes.wrong
    history.check()
    history.check_verdicts(ground.namespace, ALWAYS, NEVER)
    see_the_changed_state(ground)


@pytest.mark.parametrize("node", [1, 2])
def test_an_agent_killed_and_started_again_under_change(ground: Ground, programs: Programs, node: int) -> None:
    agent = programs.agents()[NODES[node - 1]]
    with Probes(ground, ALWAYS, NEVER, CONTROL) as probes:
        with programs.held(agent):
            change(ground)
        keep_changing(ground, lambda: True)
        ground.in_force(STARTED)
    assert not probes.wrong
    see_ir(ground.cluster)
    see_the_changed_state(ground)


def test_the_last_good_state_stays_while_the_api_server_is_away(ground: Ground, programs: Programs) -> None:
    agent = programs.agents()[NODES[0]]
    with Probes(ground, ALWAYS, NEVER, CONTROL) as probes:
        programs.control("stop", "apiserver")
        probes.more(AWAY // 2)
        # One that starts meanwhile has nothing but what its predecessor left in the kernel.
        programs.control("kill", agent)
        probes.more(AWAY // 2)
        programs.control("start", "apiserver")
        change(ground)
        ground.until(
            "mover -> server 9090 allowed",
            "comer -> server 9090 allowed",
            "stranger -> server 9090 refused",
            "comer -> swapped 9090 refused",
            limit=BACK,
        )
        ground.in_force(STARTED)
    assert not probes.wrong
    see_ir(ground.cluster)
    see_the_changed_state(ground)
