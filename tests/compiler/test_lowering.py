"""Lowering, rule by rule: a policy on one local pod -> the exact text of its body. Numbers are docs/semantics.md's.

Names of sets and chains end in a hash; here each is written as `<stem>`, and what is inside a set is checked beside it.
"""

from __future__ import annotations

from typing import Any

import pytest

from builders import (
    allow,
    block,
    cluster,
    has,
    lacks,
    none_of,
    one_of,
    pod,
    pods,
    policy,
    port,
    selector,
)
from lowered import BASE, BATCH, DB, WEB, body_of, egress, ingress, lowered, node_of, plain, plain_rules, texts
from netpol_compiler.model.kinds import DIRECTIONS, Direction, Family
from netpol_compiler.model.objects import Peer, Policy
from netpol_compiler.model.selectors import EVERYTHING
from netpol_compiler.node.pod_chains import pod_chain_name
from netpol_compiler.ruleset import render
from netpol_compiler.ruleset.changes import InsertRule
from netpol_compiler.ruleset.values import HOOK_PARENT, HOOK_RULE

WEB_SET = "npc4-n1-web"

ROWS = [
    ("point_03_no_rules_allow_nothing", ingress(), []),
    ("point_03_missing_from_is_every_source", ingress(allow()), ["-g npc-allow"]),
    (
        "point_03_missing_ports_are_every_port",
        ingress(allow(pods(app="web"))),
        [f"-m set --match-set {WEB_SET} src -g npc-allow"],
    ),
    (
        "point_03_missing_from_with_ports",
        ingress(allow(ports=[port(80)])),
        ["-p tcp -m tcp --dport 80 -g npc-allow"],
    ),
    (
        "point_04_two_peers_are_or",
        ingress(allow(pods(app="web"), block("192.0.2.0/24"))),
        ["-s 192.0.2.0/24 -g npc-allow", f"-m set --match-set {WEB_SET} src -g npc-allow"],
    ),
    (
        "point_06_block_without_exceptions_needs_no_set",
        ingress(allow(block("10.0.0.0/8"), ports=[port(80)])),
        ["-s 10.0.0.0/8 -p tcp -m tcp --dport 80 -g npc-allow"],
    ),
    (
        "point_06_a_single_address_is_written_as_the_kernel_prints_it",
        ingress(allow(block("192.0.2.7/32"))),
        ["-s 192.0.2.7/32 -g npc-allow"],
    ),
    (
        "point_06_zero_prefix_is_any_address",
        ingress(allow(block("0.0.0.0/0"), ports=[port(80)])),
        ["-p tcp -m tcp --dport 80 -g npc-allow"],
    ),
    ("point_06_host_bits_are_cut", ingress(allow(block("10.1.2.3/8"))), ["-s 10.0.0.0/8 -g npc-allow"]),
    ("point_07_port_range", ingress(allow(ports=[port(8000, 8100)])), ["-p tcp -m tcp --dport 8000:8100 -g npc-allow"]),
    ("point_07_whole_protocol", ingress(allow(ports=[port(protocol="UDP")])), ["-p udp -g npc-allow"]),
    (
        "point_07_adjacent_ports_join",
        ingress(allow(ports=[port(80), port(81, 90)])),
        ["-p tcp -m tcp --dport 80:90 -g npc-allow"],
    ),
    (
        "point_07_several_ports_one_rule",
        ingress(allow(ports=[port(8080), port(3306), port(6379)])),
        ["-p tcp -m multiport --dports 3306,6379,8080 -g npc-allow"],
    ),
    (
        "point_07_each_protocol_for_itself",
        ingress(allow(ports=[port(53), port(53, protocol="UDP"), port(99, protocol="SCTP")])),
        [
            "-p tcp -m tcp --dport 53 -g npc-allow",
            "-p udp -m udp --dport 53 -g npc-allow",
            "-p sctp -m sctp --dport 99 -g npc-allow",
        ],
    ),
    (
        "point_07_name_is_the_selected_pods_number",
        ingress(allow(ports=[port("sql")])),
        ["-p tcp -m tcp --dport 5432 -g npc-allow"],
    ),
    (
        "point_07_name_with_an_ip_block_is_the_selected_pods_number_too",
        ingress(allow(block("192.0.2.0/24"), ports=[port("sql")])),
        ["-s 192.0.2.0/24 -p tcp -m tcp --dport 5432 -g npc-allow"],
    ),
    ("point_07_unknown_name_allows_nothing", ingress(allow(ports=[port("nosuch")])), []),
    ("point_07_name_of_another_protocol_allows_nothing", ingress(allow(ports=[port("sql", protocol="UDP")])), []),
    ("point_13_a_rule_with_ports_leaves_icmp_out", ingress(allow(ports=[port()])), ["-p tcp -g npc-allow"]),
    (
        "overlapping_ports_are_cut_into_segments",
        ingress(allow(pods(app="web"), ports=[port(1, 1000)]), allow(ports=[port(80)])),
        [
            f"-p tcp -m multiport --dports 1:79,81:1000 -m set --match-set {WEB_SET} src -g npc-allow",
            "-p tcp -m tcp --dport 80 -g npc-allow",
        ],
    ),
    (
        "peers_that_may_use_every_port_are_not_tested_again",
        ingress(allow(pods(app="web")), allow(pods(app="web"), ports=[port(80)])),
        [f"-m set --match-set {WEB_SET} src -g npc-allow"],
    ),
]


@pytest.mark.parametrize(("written", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_ingress_rule_to_exact_text(written: Policy, expected: list[str]) -> None:
    assert lowered(written).rules == expected


EGRESS_ROWS = [
    (
        "point_03_missing_to_is_every_destination",
        egress(allow(ports=[port(53, protocol="UDP")])),
        ["-p udp -m udp --dport 53 -g npc-allow"],
    ),
    ("point_04_pods", egress(allow(pods(app="web"))), [f"-m set --match-set {WEB_SET} dst -g npc-allow"]),
    ("point_06_block", egress(allow(block("10.0.0.0/8"))), ["-d 10.0.0.0/8 -g npc-allow"]),
    (
        "point_07_name_is_each_peers_number",
        egress(allow(pods(app="web"), ports=[port("web")])),
        ["-m set --match-set npc4-p1-web dst,dst -g npc-allow"],
    ),
    ("point_07_name_with_a_block_matches_nothing", egress(allow(block("10.0.0.0/8"), ports=[port("web")])), []),
]


@pytest.mark.parametrize(("written", "expected"), [row[1:] for row in EGRESS_ROWS], ids=[row[0] for row in EGRESS_ROWS])
def test_egress_rule_to_exact_text(written: Policy, expected: list[str]) -> None:
    assert lowered(written, direction=Direction.EGRESS).rules == expected


def test_point_03_missing_and_empty_lists_are_told_apart_down_to_the_rules() -> None:
    assert lowered(ingress()).rules == []
    assert lowered(ingress(allow())).rules == ["-g npc-allow"]


# -- 1: isolation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_point_01_only_isolated_pods_and_directions_have_chains(direction: Direction) -> None:
    node = node_of(cluster(*BASE, policy("a", "p", {"app": "db"}, directions=[direction])))
    wanted = {pod_chain_name(DB.key, direction)}
    assert {n for n in node.ruleset.chains[Family.V4] if n.startswith("npc-p")} == wanted


def test_point_01_a_pods_policies_are_a_union() -> None:
    body = lowered(ingress(allow(ports=[port(80)])), policy("a", "q", {"app": "db"}, ingress=[allow(ports=[port(90)])]))
    assert body.rules == ["-p tcp -m multiport --dports 80,90 -g npc-allow"]


def test_point_02_established_and_related_come_first() -> None:
    chains = node_of(cluster(*BASE)).ruleset.chains
    assert all(texts(c["npc-forward"])[0] == "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN" for c in chains.values())


# -- 4 and 5: peers and selectors --------------------------------------------------------------------


PEERS = [
    ("podSelector_is_the_policys_namespace", pods(app="web"), {"10.0.1.1"}),
    ("empty_podSelector_is_every_pod_of_it", pods(), {"10.0.1.1", "10.0.1.2", "10.0.1.3"}),
    ("namespaceSelector_is_all_its_pods", pods(namespaces=selector(team="blue")), {"10.0.2.1"}),
    ("empty_namespaceSelector_is_all_pods", pods(namespaces=EVERYTHING), {"10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.2.1"}),
    ("both_in_one_peer_are_and", pods(namespaces=EVERYTHING, app="web"), {"10.0.1.1", "10.0.2.1"}),
    ("namespaces_by_their_name", pods(namespaces=selector(**{"kubernetes.io/metadata.name": "b"})), {"10.0.2.1"}),
    ("In", pods(one_of("app", "web", "batch")), {"10.0.1.1", "10.0.1.3"}),
    ("NotIn_matches_without_the_key", pods(none_of("tier", "back")), {"10.0.1.1", "10.0.1.2", "10.0.1.3"}),
    ("NotIn", pods(none_of("app", "web")), {"10.0.1.2", "10.0.1.3"}),
    ("Exists", pods(has("tier")), {"10.0.1.1"}),
    ("DoesNotExist", pods(lacks("tier")), {"10.0.1.2", "10.0.1.3"}),
    ("all_requirements_together", pods(has("tier"), one_of("app", "batch")), set()),
]


@pytest.mark.parametrize(("peer", "members"), [row[1:] for row in PEERS], ids=[row[0] for row in PEERS])
def test_point_04_05_a_peer_is_a_set_of_addresses(peer: Peer, members: set[str]) -> None:
    node = node_of(cluster(*BASE, ingress(allow(peer))))
    sets = [s for n, s in node.ruleset.sets.items() if n.startswith("npc4-n1-") and "isolated" not in n]
    assert [set(s.members) for s in sets] == [members]


def test_point_04_equal_peers_of_different_policies_share_one_set() -> None:
    twice = [
        policy("a", name, {"app": "db"}, ingress=[allow(pods(app="web"), ports=[port(n)])]) for name, n in (("p", 1), ("q", 2))
    ]
    node = node_of(cluster(*BASE, *twice))
    assert [plain(n) for n in node.ruleset.sets if "isolated" not in n and n.startswith("npc4")] == [WEB_SET]


# -- 6: blocks with exceptions -----------------------------------------------------------------------


def test_point_06_exceptions_are_nomatch_in_the_blocks_own_set() -> None:
    body = lowered(ingress(allow(block("10.0.0.0/8", "10.1.0.0/16", "10.2.3.4/32"))))
    assert body.rules == ["-m set --match-set npc4-n1-10-0-0-0 src -g npc-allow"]
    assert body.sets["npc4-n1-10-0-0-0"] == {"10.0.0.0/8", "10.1.0.0/16 nomatch", "10.2.3.4 nomatch"}


def test_point_06_an_exception_does_not_cut_from_another_peer() -> None:
    body = lowered(ingress(allow(block("10.0.0.0/8", "10.1.0.0/16"), block("10.1.1.0/24"))))
    assert body.rules == ["-m set --match-set npc4-n1-10-0-0-0 src -g npc-allow", "-s 10.1.1.0/24 -g npc-allow"]


def test_point_06_zero_prefix_with_exceptions_is_two_halves() -> None:
    body = lowered(ingress(allow(block("0.0.0.0/0", "10.0.0.0/8"))))
    assert body.sets["npc4-n1-0-0-0-0"] == {"0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8 nomatch"}


def test_point_06_a_half_that_is_cut_away_whole_is_not_in_the_set() -> None:
    body = lowered(ingress(allow(block("0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/8"))))
    assert body.sets["npc4-n1-0-0-0-0"] == {"0.0.0.0/1", "10.0.0.0/8 nomatch"}


def test_point_06_a_union_subtracts_exceptions_so_that_no_nomatch_cuts_from_a_neighbour() -> None:
    blocks = [block("10.0.0.0/30", "10.0.0.1/32"), *(block(f"192.0.2.{n}/32") for n in range(4))]
    body = lowered(ingress(allow(*blocks)))
    assert body.rules == ["-m set --match-set npc4-n1-union src -g npc-allow"]
    assert body.sets["npc4-n1-union"] == {"10.0.0.0", "10.0.0.2/31", *(f"192.0.2.{n}" for n in range(4))}


# -- 7: ports that differ by pod ---------------------------------------------------------------------


def test_point_07_pods_whose_names_mean_other_numbers_do_not_share_a_body() -> None:
    node = node_of(cluster(*BASE, policy("a", "p", EVERYTHING, ingress=[allow(ports=[port("web")])])))
    by_pod = {p.key.name: body_of(node, p, Direction.INGRESS).rules for p in (DB, WEB, BATCH)}
    assert by_pod == {
        "db": ["-p tcp -m tcp --dport 8080 -g npc-allow"],
        "web": ["-p tcp -m tcp --dport 80 -g npc-allow"],
        "batch": [],
    }


def test_point_07_named_egress_ports_are_endpoints() -> None:
    body = lowered(egress(allow(pods(namespaces=EVERYTHING), ports=[port("web")])), direction=Direction.EGRESS)
    assert body.sets["npc4-p1-all"] == {"10.0.1.1,tcp:80", "10.0.1.2,tcp:8080", "10.0.2.1,tcp:8000"}


# -- 8 to 10: who is an endpoint, and what always passes ----------------------------------------------


@pytest.mark.parametrize("over", [{"host_network": True}, {"phase": "Succeeded"}, {"phase": "Failed"}, {"addresses": ()}])
def test_point_08_who_is_no_endpoint_has_no_chain_and_is_in_no_set(over: dict[str, Any]) -> None:
    ghost = pod("a", "db", **{"addresses": "10.0.1.2", "app": "db", **over})
    node = node_of(cluster(WEB, ghost, ingress(allow(pods(app="db")), app="web"), policy("a", "q", {"app": "db"})))
    assert not [n for n in node.ruleset.chains[Family.V4] if n.startswith("npc-pi-db")]
    assert not any("10.0.1.2" in s.members for s in node.ruleset.sets.values())


def test_point_08_an_address_belongs_to_the_pod_created_last() -> None:
    late = pod("a", "late", "10.0.1.2", app="late", created="2026-02-01T00:00:00Z")
    node = node_of(cluster(*BASE, late, ingress()))
    assert node.ruleset.chains[Family.V4]["npc-ingress"] == ()


def test_point_09_only_forwarded_packets_are_looked_at() -> None:
    node = node_of(cluster(*BASE, ingress()))
    every = [r for chains in node.ruleset.chains.values() for rules in chains.values() for r in texts(rules)]
    assert every and not any("OUTPUT" in r or "INPUT" in r for r in every)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_point_10_a_pods_chain_first_lets_it_reach_itself(direction: Direction) -> None:
    node = node_of(cluster(*BASE, policy("a", "p", {"app": "db"}, directions=[direction])))
    flag = "-s" if direction is Direction.INGRESS else "-d"
    for family, own in ((Family.V4, "10.0.1.2/32"), (Family.V6, "fd00::12/128")):
        assert plain_rules(node.ruleset.chains[family][pod_chain_name(DB.key, direction)])[0] == f"{flag} {own} -g npc-allow"


def test_a_pods_chain_from_top_to_bottom() -> None:
    node = node_of(cluster(*BASE, ingress(allow())))
    assert plain_rules(node.ruleset.chains[Family.V4][pod_chain_name(DB.key, Direction.INGRESS)]) == [
        "-s 10.0.1.2/32 -g npc-allow",
        "-j MARK --set-xmark 0x0/0x40000",
        "-j npc-bi-p",
        "-m mark --mark 0x40000/0x40000 -j RETURN",
        '-m limit --limit 10/sec --limit-burst 20 -j NFLOG --nflog-prefix "npc ingress a/db" --nflog-group 100',
        "-j DROP",
    ]


def test_what_every_forwarded_packet_meets_from_top_to_bottom() -> None:
    forward = node_of(cluster(*BASE)).ruleset.chains[Family.V4]["npc-forward"]
    assert [r for r in plain_rules(forward) if "--tcp-flags" not in r] == [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        "-j MARK --set-xmark 0x0/0x40000",
        "-j npc-egress",
        "-j npc-ingress",
    ]


def test_point_11_rules_stand_in_the_filter_tables_forward_hook_behind_dnat() -> None:
    node = node_of(cluster(*BASE, ingress()))
    lines = render.full_iptables_text(node.ruleset, Family.V4, [InsertRule(HOOK_PARENT, HOOK_RULE)]).splitlines()
    assert [line for line in lines if line.startswith("*")] == ["*filter"]
    assert [line for line in lines if not line.startswith(("*", ":npc-", "-A npc-", "COMMIT"))] == ["-I FORWARD 1 -j npc-forward"]


# -- 12 to 16 ----------------------------------------------------------------------------------------


def test_point_12_remainders_of_cut_connections_are_dropped_before_any_policy() -> None:
    node = node_of(cluster(*BASE, ingress()))
    guards = [r for r in texts(node.ruleset.chains[Family.V4]["npc-forward"]) if "--tcp-flags" in r]
    remainder = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m set --match-set"
    assert guards == [
        f"{remainder} npc4-n1-isolated-ingress src -j DROP",
        f"{remainder} npc4-n1-isolated-egress dst -j DROP",
    ]
    assert node.ruleset.sets["npc4-n1-isolated-ingress"].members == {"10.0.1.2"}
    assert node.ruleset.sets["npc4-n1-isolated-egress"].members == frozenset()


def test_point_13_neighbour_discovery_passes_in_ipv6_only() -> None:
    chains = node_of(cluster(*BASE)).ruleset.chains
    assert [r for r in texts(chains[Family.V6]["npc-forward"]) if "icmp6" in r] == [
        f"-p ipv6-icmp -m icmp6 --icmpv6-type {t} -j RETURN" for t in (133, 134, 135, 136, 137)
    ]
    assert not any("icmp" in r for r in texts(chains[Family.V4]["npc-forward"]))


@pytest.mark.parametrize(("family", "member"), [(Family.V4, "10.0.1.1"), (Family.V6, "fd00::11")])
def test_point_14_every_rule_holds_in_both_families(family: Family, member: str) -> None:
    body = lowered(ingress(allow(pods(app="web"), ports=[port(80)])), family=family)
    name = f"npc{int(family)}-n1-web"
    assert body.rules == [f"-p tcp -m tcp --dport 80 -m set --match-set {name} src -g npc-allow"]
    assert body.sets[name] == {member}


def test_point_14_a_block_of_one_family_allows_nothing_in_the_other() -> None:
    written = ingress(allow(block("0.0.0.0/0")))
    assert lowered(written).rules == ["-g npc-allow"]
    assert lowered(written, family=Family.V6).rules == []


def test_point_15_a_rule_whose_peers_were_all_rejected_allows_nothing() -> None:
    from netpol_compiler.model.objects import Rule

    broken = Policy(
        DB.key._replace(name="p"), "", selector(app="db"), frozenset({Direction.INGRESS}), (Rule(Direction.INGRESS, 0, (), None),)
    )
    assert lowered(broken).rules == []
