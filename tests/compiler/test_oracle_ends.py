"""The oracle, points 8 to 16: who the ends of a connection are, and what always holds."""

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
    key,
    namespace,
    node,
    pod,
    pods,
    policy,
    port,
    selector,
)
from judged import BASE, DB, OTHER, OUTSIDE, WEB, passes, world
from netpol_compiler.model.kinds import DIRECTIONS, Direction
from netpol_compiler.model.objects import Labels, Namespace, Pod, Policy, Rejected, Rule
from netpol_compiler.witnesses.oracle import Allowance, judge

# -- 8: who is a pod ---------------------------------------------------------------------------------

NOBODIES = [
    pod("a", "nobody", "10.0.1.50", app="nobody", host_network=True),
    pod("a", "nobody", "10.0.1.50", app="nobody", phase="Succeeded"),
    pod("a", "nobody", "10.0.1.50", app="nobody", phase="Failed"),
    pod("a", "nobody", (), app="nobody"),
]


@pytest.mark.parametrize("nobody", NOBODIES, ids=["host-network", "succeeded", "failed", "no-address"])
def test_point_08_such_a_pod_is_neither_isolated_nor_a_peer_by_selector(nobody: Pod) -> None:
    assert passes(policy("a", "deny", {"app": "nobody"}), c=conn(WEB, "10.0.1.50"), others=(nobody,))
    assert not passes(policy("a", "p", {"app": "db"}, ingress=[allow(pods())]), c=conn("10.0.1.50", DB), others=(nobody,))
    by_address = policy("a", "p", {"app": "db"}, ingress=[allow(block("10.0.1.50/32"))])
    assert passes(by_address, c=conn("10.0.1.50", DB), others=(nobody,)), "its address is an address like any other"


def test_point_08_a_pending_pod_with_an_address_counts() -> None:
    starting = pod("a", "starting", "10.0.1.51", app="starting", phase="Pending")
    assert not passes(policy("a", "deny", {"app": "starting"}), c=conn(WEB, starting), others=(starting,))


@pytest.mark.parametrize(
    ("old", "young"),
    [
        ({"created": "2026-01-01T00:00:00Z", "uid": "zz"}, {"created": "2026-01-02T00:00:00Z", "uid": "aa"}),
        ({"created": "2026-01-01T00:00:00Z", "uid": "aa"}, {"created": "2026-01-01T00:00:00Z", "uid": "zz"}),
    ],
    ids=["younger", "larger-uid"],
)
def test_point_08_a_reassigned_address_belongs_to_the_youngest_claimant(old: dict[str, str], young: dict[str, str]) -> None:
    first = pod("a", "first", "10.0.1.60", app="first", **old)  # type: ignore[arg-type]  # only the text arguments
    second = pod("a", "second", "10.0.1.60", app="second", **young)  # type: ignore[arg-type]  # likewise
    for pair in ((first, second), (second, first)):
        verdict = judge(world(*pair, policy("a", "deny", {"app": "second"})), conn(WEB, "10.0.1.60"))
        assert verdict.destination_pod == second.key and not verdict.allowed
        assert judge(world(*pair, policy("a", "deny", {"app": "first"})), conn(WEB, "10.0.1.60")).allowed


def test_point_08_the_address_of_a_completed_pod_is_free_for_another() -> None:
    over = pod("a", "over", "10.0.1.60", app="over", phase="Succeeded", created="2026-02-01T00:00:00Z")
    alive = pod("a", "alive", "10.0.1.60", app="alive", created="2026-01-01T00:00:00Z")
    assert judge(world(over, alive), conn(WEB, "10.0.1.60")).destination_pod == alive.key


def test_point_08_a_pod_that_lost_one_address_keeps_the_other() -> None:
    old = pod("a", "old", ["10.0.1.60", "fd00::60"], app="old")
    new = pod("a", "new", "10.0.1.60", app="new", created="2026-02-01T00:00:00Z")
    objects = world(old, new)
    assert judge(objects, conn(WEB, "10.0.1.60")).destination_pod == new.key
    assert judge(objects, conn("fd00::1", "fd00::60")).destination_pod == old.key


# -- 9: the pod's own node ---------------------------------------------------------------------------

LOCKED = policy("a", "locked", {"app": "db"}, directions=DIRECTIONS)
N1, N2 = node("n1", "172.31.0.1"), node("n2", "172.31.0.2")


def test_point_09_the_node_that_runs_a_pod_and_the_pod_reach_each_other() -> None:
    objects = world(N1, N2, LOCKED)
    verdict = judge(objects, conn("172.31.0.1", DB, source_node="n1"))
    assert verdict.allowed and verdict.ingress_isolating == (LOCKED.key,) and verdict.ingress_allowing == ()
    assert judge(objects, conn(DB, "172.31.0.1", destination_node="n1")).allowed


def test_point_09_another_node_is_an_ordinary_address() -> None:
    objects = world(N1, N2, LOCKED)
    assert not judge(objects, conn("172.31.0.2", DB, source_node="n2")).allowed
    assert not judge(objects, conn(DB, "172.31.0.2", destination_node="n2")).allowed
    by_address = policy("a", "p", {"app": "db"}, ingress=[allow(block("172.31.0.2/32"))])
    assert judge(world(N1, N2, LOCKED, by_address), conn("172.31.0.2", DB, source_node="n2")).allowed


def test_point_09_forwarded_traffic_that_wears_the_nodes_address_is_not_the_node() -> None:
    assert not judge(world(N1, LOCKED), conn("172.31.0.1", DB)).allowed, "source_node is empty: it did not begin there"


# -- 10: itself --------------------------------------------------------------------------------------


def test_point_10_a_pod_reaches_itself() -> None:
    verdict = judge(world(LOCKED), conn(DB, DB, 5432))
    assert verdict.allowed and verdict.egress_isolating == verdict.ingress_isolating == (LOCKED.key,)
    twin = pod("a", "twin", "10.0.1.70", app="db")
    assert not judge(world(twin, LOCKED), conn(twin, DB)).allowed, "a pod like it is not itself"


# -- 11: Services ------------------------------------------------------------------------------------


def test_point_11_rules_see_the_pod_behind_a_service_not_the_service() -> None:
    by_pod = egress_policy("a", "p", {"app": "web"}, allow(pods(app="db"), ports=[port(5432)]))
    assert passes(by_pod, c=conn(WEB, DB, 5432)), "what a connection to 10.96.0.1:80 has become"
    by_service = egress_policy("a", "p", {"app": "web"}, allow(block("10.96.0.1/32"), ports=[port(80)]))
    assert not passes(by_service, c=conn(WEB, DB, 5432)), "the Service's address is gone when the rules look"


def test_point_11_masqueraded_traffic_counts_as_the_node_that_it_shows() -> None:
    client_only = policy("a", "p", {"app": "db"}, ingress=[allow(block(OUTSIDE + "/32"))])
    node_too = policy("a", "p", {"app": "db"}, ingress=[allow(block("172.31.0.2/32"))])
    assert not passes(client_only, c=conn("172.31.0.2", DB)) and passes(node_too, c=conn("172.31.0.2", DB))


# -- 12: tightening ----------------------------------------------------------------------------------


def test_point_12_the_new_state_alone_says_which_open_connections_it_would_refuse() -> None:
    before, after = world(), world(policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="web"))]))
    flows = [conn(WEB, DB), conn(OTHER, DB), conn(DB, OTHER)]
    assert [f for f in flows if judge(before, f).allowed and not judge(after, f).allowed] == [conn(OTHER, DB)]


# -- 13: other protocols -----------------------------------------------------------------------------


def test_point_13_icmp_is_covered_by_rules_without_ports_only() -> None:
    ping = conn(WEB, DB, protocol=None)
    assert passes(c=ping)
    assert not passes(policy("a", "p", {"app": "db"}), c=ping)
    assert passes(policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="web"))]), c=ping)
    every_port = [port(protocol=p) for p in ("TCP", "UDP", "SCTP")]
    assert not passes(policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="web"), ports=every_port)]), c=ping)


# -- 14: dual stack ----------------------------------------------------------------------------------


def test_point_14_every_rule_holds_for_every_address_of_a_pod() -> None:
    ends = [pod("a", n, [f"10.0.5.{i}", f"fd00::5:{i}"], app=n) for i, n in enumerate(("one", "two", "three"), 1)]
    objects = cluster(*ends, policy("a", "p", {"app": "one"}, ingress=[allow(pods(app="two"), ports=[port(80)])]))
    for pattern in ("10.0.5.{}", "fd00::5:{}"):
        one, two, three = (pattern.format(i) for i in (1, 2, 3))
        assert judge(objects, conn(two, one)).allowed
        assert not judge(objects, conn(three, one)).allowed and not judge(objects, conn(two, one, 81)).allowed


def test_point_14_a_block_of_one_family_says_nothing_of_the_other() -> None:
    both = pod("a", "both", ["10.0.5.1", "fd00::5:1"], app="both")
    rule = policy("a", "p", {"app": "both"}, ingress=[allow(block("10.0.0.0/8"))])
    assert passes(rule, c=conn(WEB, "10.0.5.1"), others=(both,))
    assert not passes(rule, c=conn("fd00::5:2", "fd00::5:1"), others=(both,))


# -- 15: not understood ------------------------------------------------------------------------------


@pytest.mark.parametrize(("peers", "ports"), [((), None), (None, ()), ((), ())], ids=["peers", "ports", "both"])
def test_point_15_what_was_not_understood_allows_nothing_and_still_isolates(
    peers: tuple[()] | None, ports: tuple[()] | None
) -> None:
    half = policy("a", "half", {"app": "db"}, ingress=[allow(ports=[port(1)])])
    broken = dataclasses.replace(
        half,
        rules=(*half.rules, Rule(Direction.INGRESS, 1, peers, ports)),
        rejected=(Rejected("NetworkPolicy", "a", "half", ("spec", "ingress", 1), "unknown field"),),
    )
    assert not passes(broken, c=conn(WEB, DB, 5432))
    assert passes(broken, c=conn(WEB, DB, 1)), "the part that was understood stands"


# -- 16: updates -------------------------------------------------------------------------------------


def test_point_16_the_order_of_the_objects_does_not_matter() -> None:
    policies = [
        policy("a", "p1", {"app": "db"}, ingress=[allow(pods(app="nobody")), allow(pods(app="web"))]),
        policy("a", "p2", ingress=[allow(pods(app="web"), ports=[port(80)])]),
        egress_policy("a", "p3", {"app": "web"}, allow(pods(app="db"))),
    ]
    verdicts = {judge(cluster(*order, *reversed(BASE)), conn(WEB, DB)) for order in itertools.permutations(policies)}
    assert len(verdicts) == 1
    assert verdicts.pop().ingress_allowing == (
        Allowance(key("a/p1"), Direction.INGRESS, 1),
        Allowance(key("a/p2"), Direction.INGRESS, 0),
    )


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(WEB, labels=Labels({"app": "x"})),
        dataclasses.replace(WEB, phase="Failed"),
        dataclasses.replace(WEB, addresses=(address("10.0.1.99"),)),
        dataclasses.replace(DB, ports=()),
        namespace("a", team="green"),
        policy("a", "p", {"app": "db"}),
    ],
    ids=["pod-labels", "phase", "address", "container-ports", "namespace-labels", "policy"],
)
def test_point_16_each_of_these_changes_can_change_an_answer(changed: Pod | Namespace | Policy) -> None:
    peer = pods(app="web", namespaces=selector(team="red"))
    rule = policy("a", "p", {"app": "db"}, ingress=[allow(peer, ports=[port("sql")])])
    assert passes(rule, c=conn(WEB, DB, 5432))
    assert not judge(world(rule, changed), conn(WEB, DB, 5432)).allowed
