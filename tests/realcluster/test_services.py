"""Policies and Services on real nodes (points 7, 10 and 11 of docs/semantics.md), through kube-proxy's own rules.

172.31.7.111   `one`, whose http is 8080; `client`     172.31.7.112   `two`, whose http is 8081     both are app=web
"""

from __future__ import annotations

import json

import pytest

from netpol_realcluster.client import RealCluster
from netpol_realcluster.trials.endpoints import Place, all_reach, machine
from netpol_realcluster.trials.in_force import InForce, block, pods_with, policy
from netpol_realcluster.trials.workloads import Field, pod, running, service, serving

FIRST, SECOND = "172.31.7.111", "172.31.7.112"
ONE = {"app": "web", "name": "one"}
TWO = {"app": "web", "name": "two"}
ANYWHERE, LOCAL = f"{FIRST}:30101", f"{FIRST}:30102"
ANYWHERE_ELSEWHERE, LOCAL_ELSEWHERE = f"{SECOND}:30101", f"{SECOND}:30102"
MANY = 24
"""So many connections to a Service of two pods reach both of them."""


@pytest.fixture(scope="module")
def served(field: Field, outside: Place) -> Field:
    """The pods, and their Services in force on the nodes that are asked."""
    field.make(
        pod("one", serving(8080), node=FIRST, labels=ONE),
        pod("two", serving(8081), node=SECOND, labels=TWO),
        pod("client", running("exec sleep infinity"), node=FIRST),
        service("one", ONE, node_port=30101),
        service("one-local", ONE, node_port=30102, externalTrafficPolicy="Local"),
        service("both", {"app": "web"}, target="http"),
    )
    client, one = field.place("client"), field.place("one")
    reached = [(place, f"{field.address(name)}:80") for place in (client, one) for name in ("one", "both")]
    # A node learns of a Service's two pods one after the other.
    both = [f"{field.address('both')}:80"] * MANY

    def known() -> bool:
        return all(all_reach(reached)) and all(client.reaches(*both))

    def opened() -> bool:
        # A node that does not know a Service answers itself: with a reset, which passes for an answer.
        names = (outside.get(f"http://{place}/hostname") for place in (ANYWHERE, LOCAL, ANYWHERE_ELSEWHERE))
        return all(name == "one" for name in names) and outside.reaches(LOCAL_ELSEWHERE) == [False]

    # kube-proxy's connection to the API server, if it broke before this test, may be missed only after 45 s.
    field.kubectl.until(lambda: known() and opened(), "every node knows the Services", 90)
    return field


def _tunnel_address(real: RealCluster, node: str) -> str:
    """What the node's own packets wear on their way to pods of other nodes."""
    link = json.loads(real.run(node, "ip", "-j", "-4", "addr", "show", "flannel.1").stdout)
    return str(link[0]["addr_info"][0]["local"])


def test_a_node_port_shows_the_client_at_the_pods_own_node_and_the_node_at_another(
    installed: RealCluster, served: Field, in_force: InForce, outside: Place
) -> None:
    ways = (ANYWHERE, ANYWHERE_ELSEWHERE, LOCAL)
    assert outside.reaches(*ways) == [True, True, True]
    # Local serves where the pod is, and nowhere else.
    assert outside.reaches(LOCAL_ELSEWHERE) == [False]
    in_force.put(policy("shown", "services", ONE, ingress=[{"from": [block(outside.address)]}]))
    assert outside.reaches(*ways) == [True, False, True]
    in_force.put(policy("shown", "services", ONE, ingress=[{"from": [block(_tunnel_address(installed, SECOND))]}]))
    assert outside.reaches(*ways) == [False, True, False]
    in_force.put(policy("shown", "services", ONE, ingress=[]))
    assert outside.reaches(*ways) == [False, False, False]


def test_a_pod_is_known_as_itself_by_the_pods_own_node_whichever_way_it_goes(
    installed: RealCluster, served: Field, in_force: InForce
) -> None:
    one, client = served.place("one"), served.place("client")
    service = f"{served.address('one')}:80"
    in_force.put(policy("known", "services", ONE, ingress=[{"from": [pods_with(app="client")]}]))
    assert client.reaches(f"{one.address}:8080", service, ANYWHERE, LOCAL) == [True, True, True, True]
    # By way of another node it comes back with that node's address.
    assert client.reaches(ANYWHERE_ELSEWHERE) == [False]
    # The pod's own node always reaches it; another one is an ordinary address.
    assert machine(installed, FIRST).reaches(f"{one.address}:8080", service, ANYWHERE) == [True, True, True]
    assert machine(installed, SECOND).reaches(f"{one.address}:8080", service) == [False, False]


def test_a_pod_reaches_itself_through_its_own_service_when_everything_is_shut(served: Field, in_force: InForce) -> None:
    one, two = served.place("one"), served.place("two")
    itself = [f"{one.address}:8080", f"{served.address('one')}:80"]
    in_force.put(policy("shut", "services", ingress=[], egress=[]))
    assert one.reaches(*itself, f"{two.address}:8081") == [True, True, False]
    # Through a Service of two pods it reaches itself and not the other.
    assert set(one.reaches(*[f"{served.address('both')}:80"] * MANY)) == {True, False}
    assert served.place("client").reaches(*itself) == [False, False]


def test_a_named_port_is_each_pods_own_also_behind_a_service_with_that_name(served: Field, in_force: InForce) -> None:
    one, two, client = served.place("one"), served.place("two"), served.place("client")
    both = [f"{served.address('both')}:80"] * MANY
    ports = [f"{one.address}:8080", f"{two.address}:8081", f"{one.address}:8081", f"{two.address}:8080"]
    in_force.put(policy("named", "services", {"app": "web"}, ingress=[{"ports": [{"port": "http"}]}]))
    assert client.reaches(*ports) == [True, True, False, False]
    assert all(client.reaches(*both))
    in_force.put(policy("named", "services", {"app": "web"}, ingress=[{"ports": [{"port": 8080}]}]))
    assert client.reaches(*ports) == [True, False, False, True]
    assert set(client.reaches(*both)) == {True, False}


@pytest.mark.parametrize(("port", "passes"), [(8080, True), ("http", True), (80, False)])
def test_egress_through_a_service_is_judged_by_the_pods_port(
    served: Field, in_force: InForce, port: int | str, passes: bool
) -> None:
    rule = {"to": [pods_with(name="one")], "ports": [{"port": port}]}
    in_force.put(policy("out", "services", {"app": "client"}, egress=[rule]))
    targets = [f"{served.address('one')}:80", f"{served.place('one').address}:8080"]
    assert served.place("client").reaches(*targets) == [passes, passes]
    assert served.place("client").reaches(f"{served.place('two').address}:8081") == [False]
