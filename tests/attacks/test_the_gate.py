"""The gate: a pod that its node's agent does not know yet is shut, in both directions, and honest traffic never is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from attacks import SERVER, Field
from netpol_lab.client import LabClient
from packets import pod, see_packets, service
from until import until_it_holds

pytestmark = pytest.mark.kernel

AGENT = "agent-node-a"
NEIGHBOUR_SECONDS = 6.0
"""Within which a kernel has asked three times for a neighbour that did not answer, and begins anew."""
NEW = pod("a/new", "node-a", {"app": "new"}, SERVER)
HONEST = """
    a/client -> a/victim 8080 allowed
    a/client -> a/victim 53/udp allowed
    a/attacker -> a/victim 8080 refused
    a/attacker -> a/far 8080 allowed
    a/stranger -> a/victim 8080 refused
    a/jail -> a/far 8080 refused
    node/node-a -> a/victim 8080 allowed
    a/client -> node/node-a icmp allowed
    a/client -> svc/a/far 80 allowed
    a/far -> svc/a/far 80 allowed
    a/client -> node/node-b 30080 allowed
"""
SERVICE = service("a/far", 80, 8080, 30080, app="far")


@contextmanager
def away(lab: LabClient) -> Iterator[None]:
    """The agent of node-a does nothing, and what it has programmed stays."""
    lab.control(AGENT, "pause")
    try:
        yield
    finally:
        lab.control(AGENT, "resume")


@contextmanager
def new_pod(lab: LabClient) -> Iterator[None]:
    lab.apply([NEW], wait=False)
    try:
        yield
    finally:
        lab.delete([NEW], wait=False)


def families_of(families: str) -> tuple[int, ...]:
    return (4, 6) if families == "dual" else (4,)


@pytest.mark.parametrize("families", ["ipv4", "dual"])
@pytest.mark.parametrize("network", ["host-gw", "routed"])
def test_a_new_pod_is_shut_until_its_agent_knows_it_and_works_at_once_then(
    field: Callable[..., Field], network: str, families: str
) -> None:
    lab = field(network, families, "enforce").lab
    with away(lab), new_pod(lab):
        shut = "a/client -> a/new 8080 refused\na/new -> a/far 8080 refused\na/far -> a/new 8080 refused"
        see_packets(lab, shut, families_of(families))
        see_packets(lab, "a/client -> a/victim 8080 allowed", families_of(families))
        lab.control(AGENT, "resume")
        lab.wait()
        see_packets(lab, "a/attacker -> a/new 8080 allowed", families_of(families))
        # Who asked for a neighbour while it was shut, asks again a second later, and so do the pod itself and its node.
        known = "a/client -> a/new 8080 allowed\na/new -> a/far 8080 allowed\na/far -> a/new 8080 allowed"
        until_it_holds(lambda: see_packets(lab, known, families_of(families)), NEIGHBOUR_SECONDS)


@pytest.mark.parametrize("network", ["host-gw", "routed"])
def test_without_the_guard_a_new_pod_is_open_while_its_agent_is_away(field: Callable[..., Field], network: str) -> None:
    lab = field(network, "dual", "off").lab
    with away(lab), new_pod(lab):
        see_packets(lab, "a/client -> a/new 8080 allowed\na/new -> a/far 8080 allowed")


@pytest.mark.parametrize("network", ["host-gw", "vxlan", "routed"])
@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_honest_traffic_of_every_kind_goes_on(field: Callable[..., Field], network: str, backend: str) -> None:
    lab = field(network, "dual", "enforce", backend).lab
    lab.apply([SERVICE])
    see_packets(lab, HONEST)
    # Once more with neighbours and conntrack entries known, and after the agent has started again.
    lab.restart(AGENT, crash=True)
    lab.wait()
    see_packets(lab, HONEST)
