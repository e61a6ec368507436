"""Points 12 to 16 of docs/semantics.md, with real packets: open connections, ICMP, families, what is not understood, updates."""

from __future__ import annotations

import pytest

from packets import pod
from talk import Conversation

pytestmark = pytest.mark.kernel

CUT_SECONDS = 3.0
"""SEMANTICS 12: within this time."""

OPEN = "{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {}}]}]}"
SHUT = "{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}"


@pytest.mark.parametrize("client", ["a/client", "a/client-2"], ids=["same-node", "other-node"])
@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_point_12_an_open_connection_is_cut_when_its_policy_tightens(lab, policy, client, version):
    policy(OPEN)
    with Conversation(lab, client, "a/server", version) as talk:
        assert talk.answers()
        policy(SHUT)
        assert talk.is_cut_within(CUT_SECONDS)


def test_point_12_an_open_connection_is_cut_when_the_first_policy_comes(lab, policy):
    with Conversation(lab, "b/client", "a/server", 4) as talk:
        assert talk.answers()
        policy(SHUT)
        assert talk.is_cut_within(CUT_SECONDS)


def test_point_12_an_open_connection_is_cut_when_its_egress_tightens(lab, policy):
    with Conversation(lab, "a/client", "b/server", 4) as talk:
        assert talk.answers()
        policy("{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}")
        assert talk.is_cut_within(CUT_SECONDS)


def test_point_12_only_what_the_new_state_refuses_is_cut(lab, policy):
    policy(OPEN)
    with Conversation(lab, "a/client-2", "a/server", 4) as gold, Conversation(lab, "a/client", "a/server", 4) as plain:
        assert gold.answers()
        assert plain.answers()
        policy("{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {tier: gold}}}]}]}")
        assert plain.is_cut_within(CUT_SECONDS)
        assert gold.answers()


def test_point_12_an_open_connection_stays_where_the_agent_is_told_to_keep_it(own_lab, manifest):
    with own_lab(established="keep") as lab, Conversation(lab, "a/client-2", "a/server", 4) as talk:
        assert talk.answers()
        lab.apply([manifest(SHUT)])
        assert not talk.is_cut_within(CUT_SECONDS)
        assert [r["verdict"] for r in lab.connect("a/client-2", "a/server", "8080")] == ["refused"]


def test_point_13_a_rule_without_ports_covers_icmp_one_with_ports_does_not(policy, see):
    policy("{podSelector: {matchLabels: {id: '1'}}, ingress: [{from: [{podSelector: {}}]}]}", name="without")
    policy("""
        podSelector: {matchLabels: {id: '2'}}
        ingress: [{ports: [{protocol: TCP}, {protocol: UDP}, {protocol: SCTP}]}]
    """, name="with")  # fmt: skip
    see("""
        a/client -> a/server icmp allowed
        a/client-2 -> a/server icmp allowed
        b/client -> a/server icmp refused
        a/client -> a/server-2 icmp refused
        a/client -> a/server-2 8080 allowed
    """)


def test_point_13_icmp_errors_of_a_connection_pass_an_isolated_sender(lab, policy):
    """The server may send nothing of its own, yet "port unreachable" comes back to who was let in."""
    policy("""
        podSelector: {matchLabels: {app: server}}
        policyTypes: [Ingress, Egress]
        ingress: [{ports: [{port: 7, protocol: UDP}]}]
    """)
    seen = [r for source in ("a/client", "a/client-2", "b/client") for r in lab.connect(source, "a/server", "7/udp")]
    assert [(r["verdict"], r["answer"]) for r in seen] == [("allowed", "reset")] * 6


def test_point_13_neighbour_discovery_passes_isolation(lab, policy, see):
    policy("""
        podSelector: {}
        policyTypes: [Ingress, Egress]
        ingress: [{ports: [{port: 8080}]}]
        egress: [{ports: [{port: 8080}]}]
    """)
    for place in ("a/client", "a/server", "node/node-a"):
        assert lab.exec(place, ["ip", "-6", "neigh", "flush", "all"]) == 0
    see("""
        a/client -> a/server 8080 allowed ipv6
        a/client-2 -> a/server 8080 allowed ipv6
        a/client -> a/server 8081 refused ipv6
    """)


def test_point_14_a_selector_means_both_addresses_a_block_one_family(policy, see):
    policy("""
        podSelector: {matchLabels: {id: '1'}}
        ingress: [{from: [{podSelector: {matchLabels: {tier: gold}}}]}]
    """, name="labels")  # fmt: skip
    policy("{podSelector: {matchLabels: {id: '2'}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}", name="four")
    see("""
        a/client-2 -> a/server 8080 allowed ipv4
        a/client-2 -> a/server 8080 allowed ipv6
        a/client -> a/server-2 8080 allowed ipv4
        a/client -> a/server-2 8080 refused ipv6
    """)
    policy("{podSelector: {matchLabels: {id: '2'}}, ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]}", name="four")
    see("""
        a/client -> a/server-2 8080 refused ipv4
        a/client -> a/server-2 8080 allowed ipv6
    """)


@pytest.mark.parametrize(
    "rule",
    [
        "{from: [{ipBlock: {cidr: 10.244.0.0/99}}]}",
        "{ports: [{port: 99999}]}",
        "{ports: [{port: 8080, protocol: SPX}]}",
        "{ports: [{port: http, endPort: 9000}]}",
        "{from: [{podSelector: {matchExpressions: [{key: app, operator: Like, values: [x]}]}}]}",
        "{from: [{somethingNewer: {a: b}}]}",
    ],
    ids=["cidr", "port", "protocol", "endPort", "operator", "newer-peer"],
)
def test_point_15_what_is_not_understood_isolates_and_allows_nothing(policy, see, rule):
    policy(f"""
        podSelector: {{matchLabels: {{app: server}}}}
        ingress: [{rule}, {{from: [{{podSelector: {{matchLabels: {{tier: gold}}}}}}]}}]
    """)
    see("""
        a/client -> a/server 8080 refused
        b/client -> a/server-2 8080 refused
        a/client-2 -> a/server 8080 allowed   # the rule that is understood stands
    """)


def test_point_16_a_changed_policy_is_in_force(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 8080}]}]}")
    see("""
        b/client -> a/server 8080 allowed
        b/client -> a/server 8081 refused
    """)
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 8081}]}]}")
    see("""
        b/client -> a/server 8080 refused
        b/client -> a/server 8081 allowed
    """)


def test_point_16_labels_of_pods_matter_for_peers_and_for_the_selected(lab, policy, see):
    policy("""
        podSelector: {matchLabels: {guarded: 'yes'}}
        ingress: [{from: [{podSelector: {matchLabels: {guest: 'yes'}}}]}]
    """)
    see("a/client -> a/server 8080 allowed")
    try:
        lab.label("Pod", "server", {"guarded": "yes"}, namespace="a")
        see("a/client -> a/server 8080 refused")
        lab.label("Pod", "client", {"guest": "yes"}, namespace="a")
        see("a/client -> a/server 8080 allowed")
        lab.label("Pod", "client", {"guest": None}, namespace="a")
        see("a/client -> a/server 8080 refused")
    finally:
        lab.label("Pod", "client", {"guest": None}, namespace="a")
        lab.label("Pod", "server", {"guarded": None}, namespace="a")
    see("a/client -> a/server 8080 allowed")


def test_point_16_labels_of_namespaces_matter(lab, policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{namespaceSelector: {matchLabels: {guest: 'yes'}}}]}]
    """)
    see("c/client -> a/server 8080 refused")
    try:
        lab.label("Namespace", "c", {"guest": "yes"})
        see("""
            c/client -> a/server 8080 allowed
            b/client -> a/server 8080 refused
        """)
    finally:
        lab.label("Namespace", "c", {"guest": None})
    see("c/client -> a/server 8080 refused")


def test_point_16_a_new_pod_is_isolated_and_admitted_by_its_labels(policy, objects, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: guest}}}]}]}")
    objects(pod("a/guest", "node-b", {"app": "guest"}), pod("a/server-3", "node-a", {"app": "server"}, (("", 8080, "TCP"),)))
    see("""
        a/guest -> a/server 8080 allowed
        a/guest -> a/server-3 8080 allowed
        a/client -> a/server-3 8080 refused
    """)
