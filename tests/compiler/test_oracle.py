"""The oracle, points 1 to 7 of docs/semantics.md. A test's number is the point's number."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from builders import (
    address,
    allow,
    block,
    cluster,
    conn,
    egress_policy,
    has,
    key,
    lacks,
    none_of,
    one_of,
    pod,
    pods,
    policy,
    port,
    selector,
)
from judged import DB, OTHER, OUTSIDE, WEB, passes, world
from netpol_compiler.model.kinds import DIRECTIONS, Direction
from netpol_compiler.model.objects import Cluster, Labels, Namespace
from netpol_compiler.model.selectors import Selector
from netpol_compiler.witnesses.oracle import Allowance, judge

# -- 1: isolation ------------------------------------------------------------------------------------


def test_point_01_a_pod_without_policies_is_open_both_ways() -> None:
    assert passes(c=conn(WEB, DB)) and passes(c=conn(OUTSIDE, DB)) and passes(c=conn(DB, OUTSIDE))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_point_01_isolation_holds_only_in_the_directions_named(direction: Direction) -> None:
    deny = policy("a", "deny", {"app": "db"}, directions=[direction])
    assert passes(deny, c=conn(WEB, DB)) is (direction is Direction.EGRESS)
    assert passes(deny, c=conn(DB, WEB)) is (direction is Direction.INGRESS)


def test_point_01_only_pods_that_are_selected_in_the_policys_namespace_are_isolated() -> None:
    deny = policy("a", "deny", {"app": "web"})
    assert not passes(deny, c=conn(DB, WEB))
    assert passes(deny, c=conn(WEB, DB))
    assert passes(deny, c=conn(DB, OTHER)), "OTHER has the label, but lives in another namespace"


def test_point_01_the_rules_of_all_isolating_policies_are_added_up() -> None:
    first = policy("a", "first", {"app": "db"}, ingress=[allow(pods(app="web"))])
    second = policy("a", "second", ingress=[allow(block("192.0.2.0/24"))])
    verdict = judge(world(first, second), conn(WEB, DB))
    assert verdict.allowed
    assert verdict.ingress_isolating == (key("a/first"), key("a/second"))
    assert verdict.ingress_allowing == (Allowance(key("a/first"), Direction.INGRESS, 0),)
    assert passes(first, second, c=conn(OUTSIDE, DB))
    assert not passes(first, second, c=conn(OTHER, DB))


def test_point_01_an_address_that_is_no_pod_is_never_isolated() -> None:
    verdict = judge(world(policy("a", "deny")), conn(OUTSIDE, "192.0.2.9"))
    assert verdict.allowed and verdict.source_pod is None and verdict.destination_pod is None


# -- 2: both sides -----------------------------------------------------------------------------------


def test_point_02_egress_of_the_source_and_ingress_of_the_destination_must_both_allow() -> None:
    may_leave = egress_policy("a", "leave", {"app": "web"}, allow(pods(app="db")))
    may_not_leave = egress_policy("a", "leave", {"app": "web"})
    may_enter = policy("a", "enter", {"app": "db"}, ingress=[allow(pods(app="web"))])
    may_not_enter = policy("a", "enter", {"app": "db"})
    seen = [
        (v.egress_allowed, v.ingress_allowed, v.allowed)
        for out, into in itertools.product((may_leave, may_not_leave), (may_enter, may_not_enter))
        for v in [judge(world(out, into), conn(WEB, DB))]
    ]
    assert seen == [(True, True, True), (True, False, False), (False, True, False), (False, False, False)]


def test_point_02_a_connection_the_other_way_is_another_connection() -> None:
    deny = policy("a", "deny", {"app": "db"})
    assert passes(deny, c=conn(DB, WEB)), "its replies enter DB, but they belong to a connection that DB opened"
    assert not passes(deny, c=conn(WEB, DB))


# -- 3: empty and missing ----------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [None, []], ids=["missing", "empty"])
def test_point_03_isolation_without_rules_allows_nothing(rules: list[object] | None) -> None:
    assert not passes(policy("a", "deny", ingress=rules), c=conn(WEB, DB))  # type: ignore[arg-type]  # both are empty


def test_point_03_a_rule_without_peers_allows_every_source_and_destination() -> None:
    anyone = policy("a", "p", {"app": "db"}, ingress=[allow(ports=[port(5432)])])
    anywhere = egress_policy("a", "q", {"app": "db"}, allow(ports=[port(5432)]))
    for end in (WEB, OTHER, OUTSIDE):
        assert passes(anyone, anywhere, c=conn(end, DB, 5432)) and passes(anyone, anywhere, c=conn(DB, end, 5432))
        assert not passes(anyone, c=conn(end, DB, 5433)) and not passes(anywhere, c=conn(DB, end, 5433))


def test_point_03_a_rule_without_ports_allows_every_port_and_protocol() -> None:
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="web"))])
    for c in (conn(WEB, DB, 1), conn(WEB, DB, 65535, "UDP"), conn(WEB, DB, 9, "SCTP"), conn(WEB, DB, protocol=None)):
        assert passes(rule, c=c)
        assert not passes(rule, c=dataclasses.replace(c, source=address(OUTSIDE)))


# -- 4: peers ----------------------------------------------------------------------------------------


def test_point_04_a_pod_selector_alone_means_the_policys_namespace() -> None:
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="web"))])
    assert passes(rule, c=conn(WEB, DB)) and not passes(rule, c=conn(OTHER, DB))


def test_point_04_a_namespace_selector_alone_means_all_pods_of_those_namespaces() -> None:
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(pods(namespaces=selector(team="blue")))])
    assert passes(rule, c=conn(OTHER, DB)) and not passes(rule, c=conn(WEB, DB))


def test_point_04_both_selectors_in_one_peer_must_match_together() -> None:
    shop = pod("b", "shop", "10.0.2.2", app="shop")
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="web", namespaces=selector(team="blue")))])
    assert passes(rule, c=conn(OTHER, DB))
    assert not passes(rule, c=conn(WEB, DB)), "right pod labels, wrong namespace"
    assert not passes(rule, c=conn(shop, DB), others=(shop,)), "right namespace, wrong pod labels"


def test_point_04_two_peers_are_alternatives() -> None:
    shop = pod("b", "shop", "10.0.2.2", app="shop")
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="web"), pods(namespaces=selector(team="blue")))])
    assert all(passes(rule, c=conn(source, DB), others=(shop,)) for source in (WEB, OTHER, shop))
    assert not passes(rule, c=conn(OUTSIDE, DB))


def test_point_04_an_empty_selector_matches_all_pods_and_a_missing_one_is_none() -> None:
    own = policy("a", "p", {"app": "db"}, ingress=[allow(pods())])
    everyone = policy("a", "p", {"app": "db"}, ingress=[allow(pods(namespaces=selector()))])
    assert passes(own, c=conn(WEB, DB)) and not passes(own, c=conn(OTHER, DB))
    assert passes(everyone, c=conn(WEB, DB)) and passes(everyone, c=conn(OTHER, DB))
    assert not passes(own, c=conn(OUTSIDE, DB)) and not passes(everyone, c=conn(OUTSIDE, DB))


# -- 5: selectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "matching"),
    [
        (selector(one_of("tier", "x", "y")), {"x", "y"}),
        (selector(none_of("tier", "x")), {"y", "empty", "none"}),
        (selector(one_of("tier", "")), {"empty"}),
        (selector(has("tier")), {"x", "y", "empty"}),
        (selector(lacks("tier")), {"none"}),
        (selector(has("tier"), none_of("tier", "y")), {"x", "empty"}),
        (selector(one_of("tier", "y"), name="y"), {"y"}),
        (selector(one_of("tier", "y"), name="x"), set()),
        (selector(), {"x", "y", "empty", "none"}),
    ],
)
def test_point_05_operators_and_their_conjunction(wanted: Selector, matching: set[str]) -> None:
    sources = [
        pod("a", "x", "10.0.9.1", labels={"tier": "x", "name": "x"}),
        pod("a", "y", "10.0.9.2", labels={"tier": "y", "name": "y"}),
        pod("a", "empty", "10.0.9.4", labels={"tier": "", "name": "empty"}),
        pod("a", "none", "10.0.9.3", labels={"name": "none"}),
    ]
    objects = cluster(*sources, DB, policy("a", "p", {"app": "db"}, ingress=[allow(pods(*wanted.requirements))]))
    assert {p.key.name for p in sources if judge(objects, conn(p, DB)).allowed} == matching
    objects = cluster(*sources, DB, policy("a", "p", wanted))
    assert {p.key.name for p in sources if not judge(objects, conn(DB, p)).allowed} == matching


def test_point_05_namespaces_carry_their_name_as_a_label() -> None:
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(pods(namespaces=selector(one_of("kubernetes.io/metadata.name", "b"))))])
    assert passes(rule, c=conn(OTHER, DB)) and not passes(rule, c=conn(WEB, DB))
    unnamed = Cluster({"b": Namespace("b", Labels())}, {DB.key: DB, OTHER.key: OTHER}, {rule.key: rule})
    undescribed = dataclasses.replace(unnamed, namespaces={})
    assert judge(unnamed, conn(OTHER, DB)).allowed and judge(undescribed, conn(OTHER, DB)).allowed


# -- 6: ipBlock --------------------------------------------------------------------------------------


def test_point_06_except_cuts_only_from_its_own_cidr() -> None:
    cut = block("10.0.0.0/8", "10.0.1.0/24")
    alone = policy("a", "p", {"app": "db"}, ingress=[allow(cut)])
    assert passes(alone, c=conn(OTHER, DB)) and not passes(alone, c=conn(WEB, DB))
    for both in ([allow(cut, block("10.0.1.1/32"))], [allow(cut), allow(pods(app="web"))]):
        assert passes(policy("a", "p", {"app": "db"}, ingress=both), c=conn(WEB, DB))


@pytest.mark.parametrize(("cidr", "inside", "outside"), [("0.0.0.0/0", OUTSIDE, "2001:db8::1"), ("::/0", "2001:db8::1", OUTSIDE)])
def test_point_06_the_whole_family_is_a_legal_cidr_and_says_nothing_of_the_other(cidr: str, inside: str, outside: str) -> None:
    both = pod("a", "both", ["10.0.1.9", "fd00::9"], app="both")
    rule = policy("a", "p", {"app": "both"}, ingress=[allow(block(cidr))])
    targets = {4: "10.0.1.9", 6: "fd00::9"}
    assert passes(rule, c=conn(inside, targets[address(inside).version]), others=(both,))
    assert not passes(rule, c=conn(outside, targets[address(outside).version]), others=(both,))


def test_point_06_host_bits_in_a_cidr_are_ignored() -> None:
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(block("10.0.2.77/24"))])
    assert passes(rule, c=conn(OTHER, DB)) and not passes(rule, c=conn(WEB, DB))


def test_point_06_pods_match_an_ip_block_by_their_address() -> None:
    rule = egress_policy("a", "p", {"app": "web"}, allow(block("10.0.1.2/32")))
    assert passes(rule, c=conn(WEB, DB)) and not passes(rule, c=conn(WEB, OTHER))


# -- 7: ports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_point_07_a_number_is_one_port_of_one_protocol(protocol: str) -> None:
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(ports=[port(53, protocol=protocol)])])
    seen = {(number, p) for number in (52, 53, 54) for p in ("TCP", "UDP", "SCTP") if passes(rule, c=conn(WEB, DB, number, p))}
    assert seen == {(53, protocol)}


def test_point_07_end_port_is_inclusive() -> None:
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(ports=[port(100, 102)])])
    assert [n for n in range(98, 105) if passes(rule, c=conn(WEB, DB, n))] == [100, 101, 102]


def test_point_07_a_missing_port_means_the_whole_protocol() -> None:
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(ports=[port(protocol="UDP")])])
    assert passes(rule, c=conn(WEB, DB, 1, "UDP")) and passes(rule, c=conn(WEB, DB, 65535, "UDP"))
    assert not passes(rule, c=conn(WEB, DB, 1, "TCP")) and not passes(rule, c=conn(WEB, DB, protocol=None))


def test_point_07_a_name_in_ingress_is_the_selected_pods_own_and_may_differ() -> None:
    one = pod("a", "one", "10.0.1.11", set="s", ports=["http:8080"])
    two = pod("a", "two", "10.0.1.12", set="s", ports=["http:9090"])
    bare = pod("a", "bare", "10.0.1.13", set="s")
    for peers in ((), (pods(app="web"),)):
        rule = policy("a", "p", {"set": "s"}, ingress=[allow(*peers, ports=[port("http")])])
        objects = world(one, two, bare, rule)
        seen = [(p.key.name, n) for p in (one, two, bare) for n in (80, 8080, 9090) if judge(objects, conn(WEB, p, n)).allowed]
        assert seen == [("one", 8080), ("two", 9090)], "WEB's own http is 80: the source's names do not count"


def test_point_07_a_name_in_egress_is_each_peer_pods_own() -> None:
    one = pod("a", "one", "10.0.1.11", set="s", ports=["http:8080"])
    two = pod("a", "two", "10.0.1.12", set="s", ports=["http:9090", "http:9091"])
    rule = egress_policy("a", "p", {"app": "web"}, allow(pods(set="s"), ports=[port("http")]))
    objects = world(one, two, rule)
    seen = [(p.key.name, n) for p in (one, two) for n in (80, 8080, 9090, 9091) if judge(objects, conn(WEB, p, n)).allowed]
    assert seen == [("one", 8080), ("two", 9090), ("two", 9091)]


def test_point_07_a_name_in_egress_without_peers_is_that_of_any_pod_of_the_cluster() -> None:
    far = pod("b", "far", "10.0.2.11", ports=["http:8080"])
    rule = egress_policy("a", "p", {"app": "db"}, allow(ports=[port("http")]))
    assert passes(rule, c=conn(DB, far, 8080), others=(far,)) and passes(rule, c=conn(DB, WEB, 80))
    assert not passes(rule, c=conn(DB, far, 80), others=(far,))
    assert not passes(rule, c=conn(DB, OUTSIDE, 8080)), "no pod, no name"


def test_point_07_a_name_belongs_to_one_protocol() -> None:
    dns = pod("a", "dns", "10.0.1.53", app="dns", ports=["dns:53/UDP"])
    for protocol in ("TCP", "UDP"):
        rule = policy("a", "p", {"app": "dns"}, ingress=[allow(ports=[port("dns", protocol=protocol)])])
        assert passes(rule, c=conn(WEB, dns, 53, "UDP"), others=(dns,)) is (protocol == "UDP")
        assert not passes(rule, c=conn(WEB, dns, 53, "TCP"), others=(dns,))


def test_point_07_a_name_with_an_egress_ip_block_matches_nothing() -> None:
    out = egress_policy("a", "p", {"app": "web"}, allow(block("0.0.0.0/0"), ports=[port("sql")]))
    assert not passes(out, c=conn(WEB, DB, 5432))
    beside = egress_policy("a", "p", {"app": "web"}, allow(block("0.0.0.0/0"), pods(app="db"), ports=[port("sql"), port(1)]))
    assert passes(beside, c=conn(WEB, DB, 5432)), "the pod peer of the same rule keeps its name"
    assert passes(beside, c=conn(WEB, OUTSIDE, 1)) and not passes(beside, c=conn(WEB, OUTSIDE, 5432))


def test_point_07_a_name_with_an_ingress_ip_block_is_the_selected_pods_number() -> None:
    into = policy("a", "p", {"app": "db"}, ingress=[allow(block("192.0.2.0/24"), ports=[port("sql")])])
    assert passes(into, c=conn(OUTSIDE, DB, 5432)) and not passes(into, c=conn(OUTSIDE, DB, 5433))
    assert not passes(into, c=conn(WEB, DB, 5432)), "the block still decides who"
