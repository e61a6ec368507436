"""Points 8 to 11 of docs/semantics.md, with real packets: who is a member, the node, the pod itself, Services."""

from __future__ import annotations

import pytest

from packets import pod

pytestmark = pytest.mark.kernel

OLD = ("10.244.2.77", "fd00:10:244:2::77")
PORT = (("", 7070, "TCP"),)


def test_point_08_host_network_pods_are_not_selected(policy, objects, see):
    objects(pod("a/on-host", "node-b", {"app": "server"}, PORT, hostNetwork=True))
    policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")
    see("""
        c/client -> a/on-host 7070 allowed
        a/on-host -> b/server 8080 allowed
        a/on-host -> a/server 8080 refused
    """)


def test_point_08_host_network_pods_are_no_peers_by_selector_but_their_nodes_address(policy, objects, see):
    objects(pod("a/on-host", "node-b", {"app": "client"}, PORT, hostNetwork=True))
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
    """, name="labels")  # fmt: skip
    see("""
        a/client-2 -> a/server 8080 allowed
        a/on-host -> a/server 8080 refused
    """)
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{ipBlock: {cidr: 172.31.7.122/32}}, {ipBlock: {cidr: "fd00:172:31:7::122/128"}}]}]
    """, name="address")  # fmt: skip
    see("""
        a/on-host -> a/server 8080 allowed
        c/client -> a/server 8080 refused
    """)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_point_08_a_pod_that_is_over_is_no_member(policy, objects, see, phase):
    """Its address is given to a pod without the label, which must not inherit what was allowed."""
    job = pod("a/job", "node-b", {"role": "job"}, addresses=OLD)
    objects(job)
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {role: job}}}]}]}")
    see("a/job -> a/server 8080 allowed")
    objects({**job, "status": {**job["status"], "phase": phase}}, pod("a/heir", "node-b", {"role": "heir"}, addresses=OLD))
    see("""
        a/heir -> a/server 8080 refused
        a/heir -> a/client icmp allowed
    """)


def test_point_08_a_pod_that_is_over_is_not_isolated_and_its_heir_is_by_its_own_labels(policy, objects, see):
    job = pod("a/job", "node-b", {"role": "job"}, addresses=OLD)
    objects({**job, "status": {**job["status"], "phase": "Succeeded"}}, pod("a/heir", "node-b", {"role": "heir"}, PORT, OLD))
    policy("{podSelector: {matchLabels: {role: job}}, policyTypes: [Ingress]}")
    see("a/client -> a/heir 7070 allowed")
    policy("{podSelector: {matchLabels: {role: heir}}, policyTypes: [Ingress]}", name="heir")
    see("a/client -> a/heir 7070 refused")


def test_point_09_the_node_that_runs_a_pod_always_reaches_it(policy, see):
    policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")
    see("""
        node/node-a -> a/server 8080 allowed
        node/node-a -> a/server icmp allowed
        node/node-b -> a/server-2 9090 allowed
    """)


def test_point_09_the_pod_always_reaches_its_node(policy, objects, see):
    objects(pod("a/on-host", "node-a", {"app": "host"}, PORT, hostNetwork=True))
    policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")
    see("""
        a/client -> node/node-a 7070 allowed
        a/client -> node/node-a icmp allowed
        a/client-2 -> node/node-a 7070 refused
    """)


def test_point_09_another_node_is_an_ordinary_address(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}")
    see("""
        node/node-b -> a/server 8080 refused
        node/node-a -> a/server-2 8080 refused
    """)
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{ipBlock: {cidr: 172.31.7.122/32}}, {ipBlock: {cidr: "fd00:172:31:7::122/128"}}]}]
    """, name="node-b")  # fmt: skip
    see("""
        node/node-b -> a/server 8080 allowed
        node/node-a -> a/server-2 8080 refused
    """)


def test_point_09_masqueraded_traffic_is_not_the_nodes_own(policy, see):
    """What comes by a node port is forwarded, also where it leaves with the node's address."""
    policy("{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}")
    see("""
        host/outside -> node/node-a 30080 refused
        host/outside -> node/node-b 30080 refused
    """)


def test_point_10_a_pod_always_reaches_itself(policy, see):
    policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")
    see("""
        a/server -> a/server 8080 allowed
        a/server-2 -> a/server-2 9090 allowed
        a/client -> a/server 8080 refused
    """)


def test_point_10_a_pod_always_reaches_itself_through_its_own_service(policy, see):
    policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")
    see("""
        a/server -> svc/a/server 80 allowed
        a/server-2 -> svc/a/server 80 refused
    """)


def test_point_11_rules_apply_to_the_pod_behind_the_service(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 8080}]}]}")
    see("""
        a/client -> svc/a/server 80 allowed
        a/client-2 -> svc/a/server 80 allowed
        b/client -> svc/a/server 80 refused
    """)


def test_point_11_a_rule_for_the_services_own_port_is_another_port(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}")
    see("a/client -> svc/a/server 80 refused")


def test_point_11_each_endpoint_of_a_service_answers_for_itself(lab, policy):
    """Two pods behind one Service, of which one refuses: the Service's name opens nothing."""
    policy("{podSelector: {matchLabels: {id: '2'}}, policyTypes: [Ingress]}")
    tries = [{"source": "a/client", "destination": "svc/a/named", "port": "80", "family": f} for f in (4, 6)] * 20
    seen = [r for results in lab.connect_many(tries) for r in results]
    assert {r["answered"] for r in seen if r["verdict"] == "allowed"} == {"a/server"}
    assert "refused" in {r["verdict"] for r in seen}


def test_point_11_node_port_traffic_from_outside_shows_the_node_that_masquerades(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{ipBlock: {cidr: 172.31.7.122/32}}, {ipBlock: {cidr: "fd00:172:31:7::122/128"}}]}]
    """)
    see("""
        host/outside -> node/node-b 30080 allowed   # node-b hands on to node-a under its own address
        host/outside -> node/node-a 30080 refused
        host/outside -> a/server 8080 refused
    """)


def test_point_11_node_port_traffic_at_the_pods_own_node_shows_the_client(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{ipBlock: {cidr: 172.31.7.109/32}}, {ipBlock: {cidr: "fd00:172:31:7::109/128"}}]}]
    """)
    see("""
        host/outside -> node/node-a 30080 allowed
        host/outside -> node/node-b 30080 refused
    """)
