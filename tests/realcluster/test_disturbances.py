"""What happens to a node beside the policies: a policy's word stands meanwhile, and what changed holds afterwards.

172.31.7.111   `friend`, `stranger`     172.31.7.112   `server`, to which only `friend` may; `near`, a stranger on that node
What is done is done to 172.31.7.112.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kubectl import Kubectl
from netpol_lab.errors import LabError
from netpol_realcluster import plan
from netpol_realcluster.client import RealCluster
from netpol_realcluster.trials.in_force import InForce, npctl, pods_with, policy
from netpol_realcluster.trials.watch import Watch
from netpol_realcluster.trials.workloads import Field, pod, running, service

FIRST, SECOND = "172.31.7.111", "172.31.7.112"
SLEEP = "exec sleep infinity"
SERVER = {"app": "server"}
TRIES = int(os.environ.get("NPCTL_TRIES", "5"))
"""So often each connection is tried while a node hears of nothing, ten times a second. By hand: 3000, five minutes of absence."""


@pytest.fixture(scope="module")
def made(field: Field) -> Field:
    field.make(
        pod("server", node=SECOND),
        pod("near", running(SLEEP), node=SECOND),
        pod("friend", running(SLEEP), node=FIRST),
        pod("stranger", running(SLEEP), node=FIRST),
        service("server", SERVER),
    )
    service_address = f"{field.address('server')}:80"
    field.kubectl.until(lambda: field.place("near").reaches(service_address) == [True], "the node knows the Service")
    return field


@pytest.fixture
def watch(made: Field, in_force: InForce) -> Iterator[Watch]:
    """`friend` may, the others may not: asked again and again from the test's first line to its last."""
    in_force.put(policy("friend-only", made.namespace, SERVER, ingress=[{"from": [pods_with(app="friend")]}]))
    target = f"{made.place('server').address}:8080"
    with Watch({(made.place(name), target): name == "friend" for name in ("friend", "stranger", "near")}) as begun:
        begun.enough()
        yield begun


def _admits(made: Field, name: str) -> bool:
    return made.place(name).reaches(f"{made.place('server').address}:8080") == [True]


def test_a_restarted_kube_proxy_and_its_flushed_rules(
    installed: RealCluster, made: Field, watch: Watch, kubectl: Kubectl
) -> None:
    service_address = f"{made.address('server')}:80"
    near, server = made.place("near"), made.place("server")
    assert installed.run(SECOND, "iptables", "-w", "-t", "nat", "-F", "KUBE-SERVICES").returncode == 0
    assert server.reaches(service_address) == [False]
    installed.control(f"kube-proxy-{SECOND}", "restart")
    # The server reaches itself through its Service again: then all of kube-proxy's rules are there.
    kubectl.until(lambda: server.reaches(service_address) == [True], "kube-proxy has written its rules", 60)
    assert near.reaches(service_address) == [False]
    kubectl.until(lambda: "npc-" in _first_rule(installed), "npctl's hook comes first")
    watch.enough()
    assert watch.wrong() == []


def _first_rule(real: RealCluster) -> str:
    return next(iter(_rules(real, "FORWARD")), "")


def _rules(real: RealCluster, chain: str) -> list[str]:
    said = real.run(SECOND, "iptables", "-w", "-S", chain)
    assert said.returncode == 0, said.stderr
    return [line for line in said.stdout.splitlines() if line.startswith("-A")]


@pytest.fixture
def kube_proxys_rules(installed: RealCluster, kubectl: Kubectl) -> Iterator[None]:
    """Back after the test: kube-proxy itself misses rules only when their chain is gone too, and otherwise after an hour."""
    before = _hooks(installed)
    yield
    installed.control(f"kube-proxy-{SECOND}", "restart")
    kubectl.until(lambda: _hooks(installed) == before, "kube-proxy's rules are back", 60)


def _hooks(real: RealCluster) -> set[str]:
    return {rule for chain in ("INPUT", "FORWARD", "OUTPUT") for rule in _rules(real, chain)}


@pytest.mark.parametrize("command", ["-F", "-F FORWARD"])
def test_rules_that_were_flushed_by_hand_come_back(
    installed: RealCluster, made: Field, in_force: InForce, kubectl: Kubectl, kube_proxys_rules: None, command: str
) -> None:
    in_force.put(policy("friend-only", made.namespace, SERVER, ingress=[{"from": [pods_with(app="friend")]}]))
    assert [_admits(made, name) for name in ("friend", "stranger", "near")] == [True, False, False]
    assert installed.run(SECOND, "iptables", "-w", *command.split()).returncode == 0
    kubectl.until(lambda: "npc-" in _first_rule(installed), "the hook is back")
    kubectl.until(lambda: not _admits(made, "stranger") and not _admits(made, "near"), "the policy holds again")
    assert _admits(made, "friend")


def test_a_restarted_containerd(installed: RealCluster, made: Field, watch: Watch, kubectl: Kubectl) -> None:
    installed.control(f"containerd-{SECOND}", "restart")
    # A pod that starts there now is isolated as any.
    made.make(pod("later", node=SECOND, labels=SERVER))
    target = f"{made.place('later').address}:8080"
    friend, stranger = made.place("friend"), made.place("stranger")
    kubectl.until(lambda: [friend.reaches(target), stranger.reaches(target)] == [[True], [False]], "the new pod is isolated")
    made("delete", "pod", "later")
    watch.enough()
    assert watch.wrong() == []


@contextmanager
def _without_agent(real: RealCluster, kubectl: Kubectl) -> Iterator[None]:
    """The node's agent has ended, and nobody starts it again before the end of the block."""
    chosen = (
        "pods",
        "--namespace=npctl-system",
        f"--field-selector=spec.nodeName={SECOND}",
        "--selector=app.kubernetes.io/component=agent",
    )
    (agent,) = kubectl.items(*chosen)
    (status,) = agent["status"]["containerStatuses"]
    container = status["containerID"].rpartition("/")[2]
    real.control(f"kubelet-{SECOND}", "stop")
    try:
        killed = real.run(SECOND, "ctr", "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", container)
        assert killed.returncode == 0, killed.stderr
        kubectl.until(lambda: container not in _running(real), "the agent has ended")
        yield
        assert container not in _running(real)
    finally:
        real.control(f"kubelet-{SECOND}", "start")


def _running(real: RealCluster) -> str:
    """Containers of the node that run now."""
    lines = real.run(SECOND, "ctr", "--namespace=k8s.io", "tasks", "ls").stdout.splitlines()
    return "\n".join(line for line in lines if "RUNNING" in line)


@contextmanager
def _cut_off(real: RealCluster, kubectl: Kubectl) -> Iterator[None]:
    """The node and the API server do not reach each other: neither kubelet, nor kube-proxy, nor the agent."""
    # Each of them on its own side: what only one of them drops, such as acknowledgements, the other still sends for a while.
    ways = ((SECOND, plan.ADDRESSES[plan.API]), (plan.API, SECOND))

    def routes(verb: str) -> None:
        for machine, other in ways:
            assert real.run(machine, "ip", "route", verb, "blackhole", other).returncode == 0

    routes("add")
    try:
        yield
    finally:
        routes("delete")


Absence = Callable[[RealCluster, Kubectl], "contextmanager[None]"]


@pytest.mark.timeout(400 + TRIES)
@pytest.mark.parametrize("absence", [_without_agent, _cut_off])
def test_what_changes_while_a_node_cannot_hear_of_it_holds_afterwards(
    installed: RealCluster, made: Field, watch: Watch, in_force: InForce, kubectl: Kubectl, absence: Absence
) -> None:
    tighter = policy("friend-only", made.namespace, SERVER, ingress=[{"from": [pods_with(app="stranger")]}])
    with absence(installed, kubectl):
        in_force.send(tighter)
        # It is said that the change is not in force, once it is compiled: should the leading operator be cut off itself, its
        # standby has to take over first, which may take 15 s.
        with pytest.raises(LabError, match=SECOND):
            npctl(installed, "wait", "networkpolicy/friend-only", "-n", made.namespace, "--timeout=30s")
        watch.enough(TRIES)
        watch.stop()
        # The old word stands all the time.
        assert watch.wrong() == []
    in_force.put(tighter)
    assert [_admits(made, name) for name in ("friend", "stranger", "near")] == [False, True, False]
