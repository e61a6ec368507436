"""Points 6 and 7 of docs/semantics.md, with real packets: address blocks and ports."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.kernel


def test_point_06_except_cuts_from_its_own_block(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress:
        - from:
          - ipBlock: {cidr: 10.244.0.0/16, except: [10.244.2.0/24]}
          - ipBlock: {cidr: "fd00:10:244::/48", except: ["fd00:10:244:2::/64"]}
    """)
    see("""
        a/client -> a/server 8080 allowed
        c/client -> a/server icmp allowed
        b/client -> a/server 8080 refused
        a/client-2 -> a/server-2 8080 refused
        host/outside -> a/server 8080 refused
    """)


def test_point_06_another_peer_may_allow_what_is_excepted(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress:
        - from:
          - ipBlock: {cidr: 10.244.0.0/16, except: [10.244.2.0/24]}
          - ipBlock: {cidr: "fd00:10:244::/48", except: ["fd00:10:244:2::/64"]}
          - podSelector: {matchLabels: {tier: gold}}
    """)
    see("""
        a/client -> a/server 8080 allowed
        a/client-2 -> a/server 8080 allowed   # gold, though excepted
        b/client -> a/server 8080 refused
    """)


@pytest.mark.parametrize("blocks", ['{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: "::/0"}}'])
def test_point_06_a_block_of_all_addresses(policy, see, blocks):
    policy(f"""
        podSelector: {{matchLabels: {{app: server}}}}
        ingress: [{{from: [{blocks}], ports: [{{port: 8080}}]}}]
    """)
    see("""
        a/client -> a/server 8080 allowed
        b/client -> a/server 8080 allowed
        host/outside -> a/server 8080 allowed
        a/client -> a/server 8081 refused
    """)


def test_point_06_a_block_of_all_addresses_with_exceptions(policy, see):
    policy("""
        podSelector: {matchLabels: {app: client}}
        policyTypes: [Egress]
        egress:
        - to:
          - ipBlock: {cidr: 0.0.0.0/0, except: [10.244.1.0/24]}
          - ipBlock: {cidr: "::/0", except: ["fd00:10:244:1::/64"]}
    """)
    see("""
        a/client -> a/server 8080 refused
        a/client -> a/server-2 8080 allowed
        a/client-2 -> a/server 8080 refused
        a/client -> host/outside 80 allowed
    """)


def test_point_06_host_bits_are_legal(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{ipBlock: {cidr: 10.244.2.77/24}}, {ipBlock: {cidr: "fd00:10:244:2::77/64"}}]}]
    """)
    see("""
        b/client -> a/server 8080 allowed
        a/client -> a/server 8080 refused
    """)


def test_point_06_a_block_of_one_host(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{from: [{ipBlock: {cidr: 172.31.7.109/32}}, {ipBlock: {cidr: "fd00:172:31:7::109/128"}}]}]
    """)
    see("""
        host/outside -> a/server 8080 allowed
        host/dns -> a/server 8080 refused
        a/client -> a/server 8080 refused
    """)


def test_point_06_a_block_means_the_pod_behind_a_service(policy, see):
    policy("""
        podSelector: {matchLabels: {app: client}}
        policyTypes: [Egress]
        egress: [{to: [{ipBlock: {cidr: 10.244.0.0/16}}, {ipBlock: {cidr: "fd00:10:244::/48"}}]}]
    """)
    see("""
        a/client -> svc/a/server 80 allowed
        a/client-2 -> svc/a/server 80 allowed
    """)


def test_point_06_a_block_of_service_addresses_admits_nobody(policy, see):
    policy("""
        podSelector: {matchLabels: {app: client}}
        policyTypes: [Egress]
        egress: [{to: [{ipBlock: {cidr: 10.96.0.0/16}}, {ipBlock: {cidr: "fd00:10:96::/48"}}]}]
    """)
    see("""
        a/client -> svc/a/server 80 refused
        a/client-2 -> a/server 8080 refused
    """)


def test_point_07_a_port_is_tcp_by_default(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 8080}, {port: 5353}]}]}")
    see("""
        a/client -> a/server 8080 allowed
        a/client -> a/server 5353/udp refused
        a/client -> a/server 8081 refused
    """)


def test_point_07_udp(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 5353, protocol: UDP}]}]}")
    see("""
        a/client -> a/server 5353/udp allowed
        b/client -> a/server 5353/udp allowed
        a/client -> a/server 5354/udp refused
        a/client -> a/server 8080 refused
    """)


def test_point_07_sctp(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 9999, protocol: SCTP}]}]}")
    see("""
        a/client -> a/server 9999/sctp allowed
        b/client -> a/server 9999/sctp allowed
        a/client -> a/server 9998/sctp refused
        a/client -> a/server 8080 refused
    """)


def test_point_07_a_missing_port_means_the_whole_protocol(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{protocol: UDP}]}]}")
    see("""
        a/client -> a/server 5353/udp allowed
        a/client -> a/server 1/udp allowed
        a/client -> a/server 65535/udp allowed
        a/client -> a/server 8080 refused
        a/client -> a/server 9999/sctp refused
    """)


def test_point_07_end_port_is_inclusive(policy, see):
    policy("""
        podSelector: {matchLabels: {app: server}}
        ingress: [{ports: [{port: 8080, endPort: 8084}, {port: 8090, endPort: 8090}]}]
    """)
    see("""
        a/client -> a/server 8079 refused
        a/client -> a/server 8080 allowed
        b/client -> a/server 8081 allowed
        a/client -> a/server 8084 allowed
        a/client -> a/server 8085 refused
        a/client -> a/server 8089 refused
        a/client -> a/server 8090 allowed
        a/client -> a/server 8091 refused
        a/client -> a/server 8081/udp refused
    """)


def test_point_07_end_port_on_egress(policy, see):
    policy("""
        podSelector: {matchLabels: {app: client}}
        policyTypes: [Egress]
        egress: [{ports: [{port: 8081, endPort: 65535}]}]
    """)
    see("""
        a/client -> a/server 8080 refused
        a/client -> a/server 8081 allowed
        a/client-2 -> a/server 65535 allowed
        a/client-2 -> b/server 9090 allowed
    """)


def test_point_07_a_port_name_means_each_selected_pods_own_number(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: http}]}]}")
    see("""
        a/client -> a/server 8080 allowed
        a/client -> a/server 9090 refused
        a/client -> a/server-2 9090 allowed
        a/client -> a/server-2 8080 refused
        b/client -> a/server-2 9090 allowed
    """)


def test_point_07_a_port_name_on_egress_means_each_peers_own_number(policy, see):
    policy("""
        podSelector: {matchLabels: {app: client}}
        policyTypes: [Egress]
        egress: [{to: [{podSelector: {}}], ports: [{port: http}]}]
    """)
    see("""
        a/client -> a/server 8080 allowed
        a/client -> a/server 9090 refused
        a/client -> a/server-2 9090 allowed
        a/client -> a/server-2 8080 refused
        a/client-2 -> a/server-2 9090 allowed
        a/client -> b/server 8080 refused
    """)


def test_point_07_a_name_is_of_one_protocol(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: names, protocol: UDP}, {port: signal}]}]}")
    see("""
        a/client -> a/server 5353/udp allowed
        a/client -> a/server-2 5354/udp allowed
        a/client -> a/server-2 5353/udp refused
        a/client -> a/server 5353 refused
        a/client -> a/server 9999/sctp refused   # the rule says signal over TCP
    """)


def test_point_07_pods_without_the_name_are_not_allowed(policy, see):
    policy("{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: signal, protocol: SCTP}]}]}")
    see("""
        a/client -> a/server 9999/sctp allowed
        a/client -> a/server-2 9999/sctp refused
    """)


def test_point_07_a_named_port_with_a_block_matches_nothing(policy, see):
    policy("""
        podSelector: {matchLabels: {app: client}}
        policyTypes: [Egress]
        egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: "::/0"}}], ports: [{port: http}]}]
    """)
    see("""
        a/client -> a/server 8080 refused
        a/client -> a/server-2 9090 refused
    """)
