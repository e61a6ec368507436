"""Points 1 to 5 of docs/semantics.md, with real packets: isolation, both ends, empty rules, peers, selectors."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.kernel


def test_point_01_before_any_policy_everything_passes(see):
    see("""
        a/client -> a/server 8080 allowed
        c/client -> a/server-2 9090 allowed
        b/client -> a/server icmp allowed
        a/server -> b/server 8080 allowed
        host/outside -> a/server 8080 allowed
    """)


def test_point_01_isolated_are_the_selected_pods_in_the_policys_direction_only(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress]}")
    see("""
        a/client -> a/server 8080 refused
        a/client -> a/server-2 9090 refused
        a/client-2 -> a/server icmp refused
        a/server -> a/server-2 9090 refused
        a/server -> b/server 8080 allowed     # its own egress
        a/server -> a/client icmp allowed     # a pod that is not selected
        a/client -> b/server 8080 allowed     # the same labels in another namespace
    """)


def test_point_01_an_egress_policy_leaves_ingress_open(policy, see):
    policy("{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress]}")
    see("""
        a/client -> a/server 8080 refused
        a/client-2 -> b/server 8080 refused
        a/server -> a/client icmp allowed
        c/client -> a/server 8080 allowed
    """)


def test_point_01_policy_types_missing_without_egress_rules_is_ingress_only(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}}")
    see("""
        a/client -> a/server 8080 refused
        a/server -> b/server 8080 allowed
    """)


def test_point_01_policy_types_missing_with_egress_rules_is_both(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        egress: [{to: [{namespaceSelector: {matchLabels: {team: b}}}]}]
    """)
    see("""
        a/client -> a/server 8080 refused
        a/server -> b/server 8080 allowed
        a/server -> c/client icmp refused
    """)


def test_point_01_several_policies_add_up(policy, see):
    policy(
        """
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{podSelector: {}}], ports: [{port: 8080}]}]
    """,
        name="one",
    )
    policy(
        """
        podSelector: {matchLabels: {id: '1'}}
        ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]
    """,
        name="two",
    )
    see("""
        a/client -> a/server 8080 allowed
        b/client -> a/server 8080 allowed
        b/client -> a/server 8081 allowed
        a/client -> a/server 8081 refused
        c/client -> a/server 8080 refused
        b/client -> a/server-2 8080 refused
    """)


def test_point_02_both_ends_must_allow(policy, see):
    policy(
        """
        podSelector: {matchLabels: {app: client}}
        policyTypes: [Egress]
        egress: [{ports: [{port: 8080}, {port: 8081}]}]
    """,
        name="out",
    )
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 8080}, {port: 9090}]}]}", name="in")
    see("""
        a/client -> a/server 8080 allowed
        a/client-2 -> a/server 8080 allowed
        a/client -> a/server 8081 refused    # the server's end
        a/client -> a/server 9090 refused    # the client's end
        c/client -> a/server 9090 allowed
    """)


def test_point_02_replies_belong_to_the_connection(lab, policy):
    policy("""
        podSelector: {matchLabels: {app: server}}
        policyTypes: [Ingress, Egress]
        ingress: [{ports: [{port: 8080}]}]
    """)
    policy(
        """
        podSelector: {matchLabels: {app: client}}
        policyTypes: [Ingress, Egress]
        egress: [{ports: [{port: 8080}]}]
    """,
        name="clients",
    )
    seen = [r for s in ("a/client", "a/client-2") for r in lab.connect(s, "a/server", "8080/tcp")]
    assert [(r["verdict"], r["answer"]) for r in seen] == [("allowed", "data")] * 4


def test_point_03_isolation_without_rules_refuses_everything(policy, see):
    policy("{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [], egress: []}")
    see("""
        a/client -> a/server 8080 refused
        a/client -> a/server icmp refused
        a/client -> a/server 9999/sctp refused
        a/client-2 -> b/server 5353/udp refused
        c/client -> a/client-2 icmp refused
    """)


@pytest.mark.parametrize("rule", ["{}", "{from: []}", "{ports: []}", "{from: [], ports: []}"])
def test_point_03_a_rule_without_peers_and_ports_allows_everything(policy, see, rule):
    policy(f"{{podSelector: {{matchLabels: {{app: server}}}}, ingress: [{rule}]}}")
    see("""
        a/client -> a/server 8080 allowed
        c/client -> a/server-2 icmp allowed
        b/client -> a/server 5353/udp allowed
        b/client -> a/server 9999/sctp allowed
        host/outside -> a/server 8080 allowed
    """)


def test_point_03_without_peers_every_source_and_only_the_ports(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 8080}]}]}")
    see("""
        b/client -> a/server 8080 allowed
        host/outside -> a/server 8080 allowed
        b/client -> a/server 8081 refused
    """)


def test_point_03_without_ports_every_port_and_only_the_peers(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{podSelector: {matchLabels: {tier: gold}}}]}]
    """)
    see("""
        a/client-2 -> a/server 8081 allowed
        a/client-2 -> a/server 5353/udp allowed
        a/client-2 -> a/server icmp allowed
        a/client -> a/server 8081 refused
    """)


def test_point_04_a_pod_selector_alone_means_the_policys_namespace(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
    """)
    see("""
        a/client -> a/server 8080 allowed
        a/client-2 -> a/server 8080 allowed
        a/server-2 -> a/server 8080 refused
        b/client -> a/server 8080 refused
        c/client -> a/server 8080 refused
    """)


def test_point_04_a_namespace_selector_alone_means_all_its_pods(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]
    """)
    see("""
        b/client -> a/server 8080 allowed
        b/server -> a/server 8080 allowed
        a/client -> a/server 8080 refused
        c/client -> a/server 8080 refused
    """)


GOLD, TEAM_B = "podSelector: {matchLabels: {tier: gold}}", "namespaceSelector: {matchLabels: {team: b}}"


def test_point_04_both_selectors_in_one_peer_must_both_match(policy, see):
    policy(f"{{podSelector: {{matchLabels: {{app: server}}}}, ingress: [{{from: [{{{TEAM_B}, {GOLD}}}]}}]}}")
    see("""
        b/client -> a/server 8080 allowed
        b/server -> a/server 8080 refused     # team b, not gold
        a/client-2 -> a/server 8080 refused   # gold, not team b
    """)


def test_point_04_two_peers_are_alternatives(policy, see):
    policy(f"{{podSelector: {{matchLabels: {{app: server}}}}, ingress: [{{from: [{{{TEAM_B}}}, {{{GOLD}}}]}}]}}")
    see("""
        b/client -> a/server 8080 allowed
        b/server -> a/server 8080 allowed
        a/client-2 -> a/server 8080 allowed
        a/client -> a/server 8080 refused
        c/client -> a/server 8080 refused
    """)


def test_point_04_an_empty_selector_matches_all_a_missing_one_does_not_select(policy, see):
    policy("{podSelector: {matchLabels: {id: '1'}}, ingress: [{from: [{podSelector: {}}]}]}", name="own-namespace")
    policy(
        """
        podSelector: {matchLabels: {id: '2'}}
        ingress: [{from: [{namespaceSelector: {}}]}]
    """,
        name="all-namespaces",
    )
    see("""
        a/client -> a/server 8080 allowed
        b/client -> a/server 8080 refused
        a/client -> a/server-2 8080 allowed
        b/client -> a/server-2 8080 allowed
        c/client -> a/server-2 8080 allowed
        host/outside -> a/server-2 8080 refused
    """)


@pytest.mark.parametrize(
    ("expression", "client", "client_2"),
    [
        ("{key: tier, operator: In, values: [gold, silver]}", "refused", "allowed"),
        ("{key: tier, operator: NotIn, values: [gold]}", "allowed", "refused"),  # also who lacks the key
        ("{key: tier, operator: Exists}", "refused", "allowed"),
        ("{key: tier, operator: DoesNotExist}", "allowed", "refused"),
    ],
    ids=["In", "NotIn", "Exists", "DoesNotExist"],
)
def test_point_05_each_operator_of_match_expressions(policy, see, expression, client, client_2):
    peer = f"{{podSelector: {{matchLabels: {{app: client}}, matchExpressions: [{expression}]}}}}"
    policy(f"{{podSelector: {{matchLabels: {{app: server}}}}, ingress: [{{from: [{peer}]}}]}}")
    see(f"""
        a/client -> a/server 8080 {client}
        a/client-2 -> a/server 8080 {client_2}
        a/server-2 -> a/server 8080 refused   # matchLabels and matchExpressions are ANDed
    """)


def test_point_05_expressions_select_the_isolated_pods_too(policy, see):
    policy("""
        podSelector: {matchExpressions: [{key: id, operator: NotIn, values: ['2']}, {key: app, operator: In, values: [server]}]}
    """)
    see("""
        a/client -> a/server 8080 refused
        a/client -> a/server-2 8080 allowed
        a/server -> a/client icmp allowed
    """)


def test_point_05_namespaces_carry_their_name_as_a_label(policy, see):
    peer = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: c}}}"
    policy(f"{{podSelector: {{matchLabels: {{app: server}}}}, ingress: [{{from: [{peer}]}}]}}")
    see("""
        c/client -> a/server 8080 allowed
        b/client -> a/server 8080 refused
        a/client -> a/server 8080 refused
    """)
