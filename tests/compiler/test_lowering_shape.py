"""The shape of a node's rules: what a new connection costs at most, how deep paths go, names at their limits, options."""

from __future__ import annotations

import re

import pytest

from builders import (
    allow,
    cluster,
    conn,
    egress_policy,
    has,
    pod,
    pods,
    policy,
    port,
)
from dataplanes import assert_in_force, dataplane
from isolated import isolated
from lowered import BASE, DB, ingress, lowered, node_of, targets, texts
from netpol_agent.dataplane.backend import BackendKind
from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Direction, Family
from netpol_compiler.model.selectors import EVERYTHING
from netpol_compiler.node import AcceptAction, LowerOptions
from netpol_compiler.node.compiler import body_chain
from netpol_compiler.ruleset import render
from netpol_compiler.ruleset.changes import AppendRule
from netpol_compiler.ruleset.rules import clean_comment
from netpol_compiler.ruleset.values import HOOK_PARENT, HOOK_RULE, Ruleset
from netpol_compiler.simulate import MAX_DEPTH, parse_iptables_restore
from witnesses import RenderedNode

# -- the cost of a new connection ---------------------------------------------------------------------


def test_many_policies_of_one_pod_are_one_test_of_one_set() -> None:
    many = [policy("a", f"p{i}", {"app": "db"}, ingress=[allow(pods(who=f"w{i}"), ports=[port(80)])]) for i in range(501)]
    body = lowered(*many, pod("a", "w500", "10.0.9.9", who="w500"))
    assert body.rules == ["-p tcp -m tcp --dport 80 -m set --match-set npc4-n1-union src -g npc-allow"]
    assert body.sets["npc4-n1-union"] == {"10.0.9.9"}


def longest_walk(ruleset: Ruleset, chain: str, stop: str) -> int:
    """Rules tried at most from the top of `chain`, when each way out is tried last; chains named `stop...` not counted."""
    if chain.startswith(stop):
        return 0
    rules = ruleset.chains[Family.V4].get(chain, ())
    return len(rules) + max((longest_walk(ruleset, c, stop) for c in targets(rules)), default=0)


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_many_ports_with_other_peers_are_found_by_a_tree(count: int) -> None:
    many = [policy("a", f"p{i}", {"app": "db"}, ingress=[allow(pods(who=f"w{i}"), ports=[port(1000 + i)])]) for i in range(count)]
    node = node_of(cluster(*BASE, *many))
    key = next(k for k in node._bodies if k.direction is Direction.INGRESS)
    assert longest_walk(node.ruleset, body_chain(key), "npc-allow") <= 1 + 4 * {10: 2, 100: 4, 1000: 5}[count]


def test_a_tree_over_ranges_opens_each_range_from_its_first_port_to_its_last_to_its_own_peer() -> None:
    starts = range(1000, 5000, 100)
    sources = [pod("a", f"w{n}", f"10.1.0.{i}", labels={f"w{n}": "x"}, node="n2") for i, n in enumerate(starts)]
    rules = [allow(pods(has(f"w{n}")), ports=[port(n, n + 49 + n // 100 % 2)]) for n in starts]
    node = RenderedNode("n1", cluster(*BASE, *sources, policy("a", "p", {"app": "db"}, ingress=rules)))
    for source, n in zip(sources, starts, strict=True):
        last = n + 49 + n // 100 % 2
        open_ports = {p for p in (n - 1, n, last, last + 1) if node.passes(conn(source, DB, p))}
        assert open_ports == {n, last}


@pytest.mark.parametrize(("count", "most"), [(4, 4), (16, 9), (250, 17), (1000, 25)])
def test_the_dispatch_tree_grows_with_the_logarithm_of_the_pods(count: int, most: int) -> None:
    local = [pod("a", f"p{i}", f"10.{i // 256 + 1}.{i % 256}.9", app="x") for i in range(count)]
    node = node_of(cluster(*local, policy("a", "deny", EVERYTHING)))
    assert longest_walk(node.ruleset, "npc-ingress", "npc-p") <= most


@pytest.mark.parametrize("backend", list(BackendKind))
@pytest.mark.parametrize("texts", [["10.0.0.%d", "192.168.0.%d"], ["fd00::%d", "2001:db8::%d"]], ids=["IPv4", "IPv6"])
@pytest.mark.kernel
@isolated
def test_addresses_without_a_common_bit_are_read_back_as_they_were_written(texts: list[str], backend: BackendKind) -> None:
    """iptables prints no match for a /0: such a rule of the dispatch tree was repaired every five seconds, for ever."""
    local = [pod("a", f"p{i}", texts[i % 2] % (i + 1), app="x") for i in range(8)]
    node = node_of(cluster(*local, policy("a", "deny", EVERYTHING)))
    assert not dataplane(backend).sync(node.ruleset).failures
    assert_in_force(backend, node.ruleset)


SPREADS = {
    "in a row": [f"10.0.0.{i}" for i in range(1, 251)],
    "by chance, IPv4": [f"10.{i * 7919 % 251}.{i * 104729 % 241}.{i}" for i in range(250)],
    "by chance, IPv6": [f"fd00::{i * 7919 % 65521:x}:{i * 104729 % 65519:x}:{i * 1299709 % 65497:x}" for i in range(1, 251)],
    "powers of two, IPv4": [f"10.{(1 << i >> 16) & 255}.{(1 << i >> 8) & 255}.{1 << i & 255}" for i in range(24)],
    "powers of two, IPv6": [Address(6, (0xFD << 120) + (1 << i)).text for i in range(64)],
    "a thousand": [f"10.{i // 250}.0.{i % 250}" for i in range(1000)],
}


@pytest.mark.slow
@pytest.mark.parametrize("addresses", SPREADS.values(), ids=SPREADS)
def test_no_path_is_deeper_than_nftables_follows_whatever_the_addresses_and_ports(addresses: list[str]) -> None:
    """nftables refuses tables in which some path from FORWARD goes through more than 15 chains."""
    local = [pod("a", f"p{i}", text, app="x") for i, text in enumerate(addresses)]
    rules = [allow(pods(who=f"w{i % 5}"), ports=[port(i * 3 + 1)]) for i in range(1025)]
    node = node_of(cluster(*local, policy("a", "p", EVERYTHING, ingress=rules), egress_policy("a", "q", EVERYTHING, *rules)))
    for family in Family:
        hook = [AppendRule(HOOK_PARENT, HOOK_RULE)]
        assert parse_iptables_restore(render.full_iptables_text(node.ruleset, family, hook)).depth(HOOK_PARENT) <= MAX_DEPTH


@pytest.mark.slow
def test_five_thousand_single_ports_with_other_peers_fit_the_tree() -> None:
    rules = [allow(pods(who=f"w{i % 2}"), ports=[port(i * 3 + 1)]) for i in range(5000)]
    node = node_of(cluster(*BASE, policy("a", "p", {"app": "db"}, ingress=rules)))
    key = next(k for k in node._bodies if k.direction is Direction.INGRESS)
    assert longest_walk(node.ruleset, body_chain(key), "npc-allow") <= 1 + 5 * 6


def test_what_allows_a_group_is_made_once_however_many_ports_it_has() -> None:
    """Else a policy of many ports costs their square: every port of a group would write down all of the group."""
    rules = [allow(pods(who=f"w{i % 2}"), ports=[port(i * 3 + 1)]) for i in range(1000)]
    policies = cluster(*BASE, policy("a", "p", {"app": "db"}, ingress=rules))
    before = clean_comment.cache_info()
    node_of(policies)
    after = clean_comment.cache_info()
    assert 0 < after.hits + after.misses - before.hits - before.misses <= 30


def test_pods_with_the_same_policies_share_one_body() -> None:
    local = [pod("a", f"p{i}", f"10.0.0.{i + 1}") for i in range(50)]
    node = node_of(cluster(*local, policy("a", "deny", EVERYTHING)))
    assert len([n for n in node.ruleset.chains[Family.V4] if n.startswith("npc-bi-")]) == 1


def test_more_ports_than_one_match_holds_are_split_or_treed() -> None:
    body = lowered(ingress(allow(ports=[port(2 * n) for n in range(1, 41)])))
    assert [len(r.split("--dports ")[1].split(" ")[0].split(",")) for r in body.rules] == [15, 15, 10]


# -- names and options ---------------------------------------------------------------------------------


def test_names_fit_the_kernel_at_their_length_limits() -> None:
    long = "x" * 253
    node = node_of(
        cluster(
            pod("n" * 63, long, ["10.0.0.1", "fd00::1"], app="v" * 63),
            policy("n" * 63, long, ingress=[allow(pods(app="v" * 63))]),
        )
    )
    assert max(len(n) for c in node.ruleset.chains.values() for n in c) <= 28
    assert max(len(n) for n in node.ruleset.sets) <= 31
    for rules in (r for c in node.ruleset.chains.values() for chain in c.values() for r in texts(chain)):
        assert all(len(m) <= 255 for m in re.findall(r'--comment "([^"]*)"', rules))
        assert all(len(m) <= 63 for m in re.findall(r'--nflog-prefix "([^"]*)"', rules))


def test_accept_mode_accepts_what_is_marked_and_what_is_known() -> None:
    node = node_of(cluster(*BASE, ingress()), LowerOptions(accept=AcceptAction.ACCEPT))
    forward = texts(node.ruleset.chains[Family.V4]["npc-forward"])
    assert forward[0].endswith("-j ACCEPT") and forward[-1] == "-m mark --mark 0x40000/0x40000 -j ACCEPT"


def test_the_mark_is_one_bit() -> None:
    with pytest.raises(ValueError, match="single bit"):
        LowerOptions(mark=0x3)
