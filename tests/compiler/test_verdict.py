"""The verdict on one connection, from the compiled policies: each part of the meaning by an example that says so."""

from __future__ import annotations

from typing import Any

import pytest

from builders import allow, block, cluster, conn, egress_policy, has, key, lacks, node, none_of, one_of, pod, pods, policy, port
from netpol_compiler.model.kinds import DIRECTIONS, Direction
from netpol_compiler.model.objects import Cluster, Connection, Policy
from netpol_compiler.model.selectors import Requirement
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.policy.verdict import Reason, Verdict, judge

WEB = pod("a", "web", ["10.0.1.1", "fd00::11"], app="web", ports=["dns:53/UDP", "http:8080"])
DB = pod("a", "db", ["10.0.1.2", "fd00::12"], app="db", ports=["dns:53/UDP", "http:80"])
NODES = (node("n1", "172.31.0.1"), node("n2", "172.31.0.2"))
OUTSIDE = "192.0.2.1"


def verdict(connection: Connection, *objects: Any) -> Verdict:
    state: Cluster = cluster(WEB, DB, *NODES, *objects)
    return judge(compile_cluster(state), state, connection)


def passes(connection: Connection, *objects: Any) -> bool:
    return verdict(connection, *objects).allowed


def into_db(*rules: Any) -> Policy:
    return policy("a", "p", {"app": "db"}, ingress=rules)


def test_point_02_both_sides_must_allow() -> None:
    shut_egress, shut_ingress = egress_policy("a", "out", {"app": "web"}), policy("a", "in", {"app": "db"})
    assert passes(conn(WEB, DB))
    assert not passes(conn(WEB, DB), shut_egress)
    assert not passes(conn(WEB, DB), shut_ingress)
    assert not passes(conn(WEB, DB), shut_egress, shut_ingress)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_point_01_a_policy_isolates_in_its_directions_only(direction: Direction) -> None:
    shut = policy("a", "p", {"app": "db"}, directions=[direction])
    assert passes(conn(WEB, DB), shut) is (direction is Direction.EGRESS)
    assert passes(conn(DB, WEB), shut) is (direction is Direction.INGRESS)


def test_point_03_a_rule_needs_its_port_and_its_peer_together() -> None:
    rule = into_db(allow(pods(app="web"), ports=[port(80)]))
    assert passes(conn(WEB, DB, 80), rule)
    assert not passes(conn(WEB, DB, 81), rule) and not passes(conn(OUTSIDE, DB, 80), rule)


@pytest.mark.parametrize(
    ("requirements", "matching"),
    [
        ([one_of("tier", "x")], {"x"}),
        ([none_of("tier", "x")], {"empty", "none"}),
        ([has("tier")], {"x", "empty"}),
        ([lacks("tier")], {"none"}),
        ([has("tier"), none_of("tier", "x")], {"empty"}),
    ],
)
def test_point_05_each_operator_where_a_label_is_there_empty_and_missing(
    requirements: list[Requirement], matching: set[str]
) -> None:
    """The oracle reads selectors by itself, so these are asked for their own sake."""
    labels = {"x": {"tier": "x"}, "empty": {"tier": ""}, "none": {}}
    sources = [pod("a", name, f"10.0.9.{n}", labels=of) for n, (name, of) in enumerate(labels.items(), 1)]
    rule = into_db(allow(pods(*requirements)))
    assert {p.key.name for p in sources if passes(conn(p, DB), *sources, rule)} == matching


def test_point_14_a_block_says_nothing_of_the_other_familys_addresses_of_the_same_number() -> None:
    assert not passes(conn("::c000:201", "fd00::12"), into_db(allow(block("0.0.0.0/0"))))
    assert not passes(conn(OUTSIDE, DB), into_db(allow(block("::/0"))))
    assert passes(conn("::c000:201", "fd00::12"), into_db(allow(block("::/0"))))


def test_point_06_each_exception_cuts_and_the_ends_of_blocks_count() -> None:
    rule = into_db(allow(block("192.0.2.0/24", "192.0.2.64/26", "192.0.2.200/32")))
    inside = {n for n in (0, 63, 64, 127, 128, 199, 200, 201, 255) if passes(conn(f"192.0.2.{n}", DB), rule)}
    assert inside == {0, 63, 128, 199, 201, 255}


@pytest.mark.parametrize(("number", "allowed"), [(79, False), (80, True), (85, True), (90, True), (91, False)])
def test_point_07_both_ends_of_a_range_belong_to_it(number: int, allowed: bool) -> None:
    rule = into_db(allow(ports=[port(80, 90)]))
    assert passes(conn(WEB, DB, number), rule) is allowed
    assert not passes(conn(WEB, DB, number, "UDP"), rule)


def test_point_07_a_name_in_ingress_is_of_its_own_protocol() -> None:
    assert passes(conn(WEB, DB, 53, "UDP"), into_db(allow(ports=[port("dns", protocol="UDP")])))
    assert not passes(conn(WEB, DB, 53, "UDP"), into_db(allow(ports=[port("dns")])))
    assert not passes(conn(WEB, DB, 53), into_db(allow(ports=[port("dns", protocol="UDP")])))


def test_point_07_a_name_in_egress_without_peers_is_that_of_any_pod() -> None:
    rule = egress_policy("a", "p", {"app": "web"}, allow(ports=[port("http")]))
    assert passes(conn(WEB, DB, 80), rule)
    assert not passes(conn(WEB, DB, 8080), rule) and not passes(conn(WEB, OUTSIDE, 80), rule)


def test_point_07_a_number_beside_a_name_keeps_its_peers() -> None:
    rule = egress_policy("a", "p", {"app": "web"}, allow(pods(app="db"), ports=[port("http"), port(443)]))
    assert passes(conn(WEB, DB, 80), rule) and passes(conn(WEB, DB, 443), rule)
    assert not passes(conn(WEB, OUTSIDE, 443), rule)


def test_point_08_an_address_given_anew_is_the_younger_pods() -> None:
    young = pod("a", "young", "10.0.1.2", app="young", created="2026-02-01T00:00:00Z")
    found = verdict(conn(WEB, "10.0.1.2"), young, into_db())
    assert (found.ingress.pod, found.ingress.reason) == (young.key, Reason.NOT_ISOLATED)


def test_point_09_only_the_node_that_runs_the_pod_passes() -> None:
    assert passes(conn("172.31.0.1", DB, source_node="n1"), into_db())
    assert not passes(conn("172.31.0.2", DB, source_node="n2"), into_db())
    assert not passes(conn("172.31.0.1", DB), into_db())


def test_point_10_a_pod_reaches_itself() -> None:
    shut = policy("a", "p", {"app": "db"}, directions=DIRECTIONS)
    assert passes(conn(DB, DB), shut) and passes(conn("fd00::12", "fd00::12"), shut)


def test_point_13_icmp_passes_rules_without_ports_only() -> None:
    assert passes(conn(WEB, DB, None, None), into_db(allow(pods(app="web"))))
    assert not passes(conn(WEB, DB, None, None), into_db(allow(pods(app="web"), ports=[port()])))


def test_a_verdict_names_the_rule_that_decided_or_every_policy_that_isolates() -> None:
    named = verdict(conn(WEB, DB, 80), into_db(allow(ports=[port(1)]), allow(ports=[port(80)])))
    assert (named.ingress.policy, named.ingress.rule_index) == (key("a/p"), 1)
    refused = verdict(conn(WEB, DB), into_db(), policy("a", "q"))
    assert refused.ingress.isolating == (key("a/p"), key("a/q"))
