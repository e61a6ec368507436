"""A node's rules, one change at a time: what each change writes, what it leaves alone, and what it waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import allow, block, cluster, egress_policy, has, pod, pods, policy, port
from lowered import texts
from netpol_compiler.model.kinds import DIRECTIONS, Direction, Family
from netpol_compiler.model.objects import Pod, Policy
from netpol_compiler.model.selectors import EVERYTHING
from netpol_compiler.node import NodeCompiler
from netpol_compiler.node.pod_chains import isolated_set_name, pod_chain_name
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy
from netpol_compiler.policy.pipeline import compile_cluster

DB = pod("a", "db", ["10.0.0.2", "fd00::2"], app="db", ports=["http:80"])
WEB = pod("a", "web", ["10.0.0.1", "fd00::1"], app="web", node="n2", ports=["http:80"])
ALLOWED = policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="web"))])
OTHERS = policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="other"))])


def published(*objects: Pod | Policy) -> tuple[tuple[AddressSet, ...], tuple[CompiledPolicy, ...]]:
    ir = compile_cluster(cluster(*objects))
    return tuple(ir.sets.values()), tuple(ir.policies.values())


def node(*objects: Pod | Policy) -> NodeCompiler:
    """What node n1 has after it was told of all."""
    found = NodeCompiler("n1")
    sets, policies = published(*objects)
    for address_set in sets:
        found.set_address_set(address_set)
    for compiled in policies:
        found.set_policy(compiled)
    for value in objects:
        if isinstance(value, Pod) and value.node == "n1":
            found.set_pod(value)
    found.flush()
    return found


def has_chain(found: NodeCompiler, direction: Direction = Direction.INGRESS, of: Pod = DB, family: Family = Family.V4) -> bool:
    return pod_chain_name(of.key, direction) in found.ruleset.chains[family]


def peers(found: NodeCompiler) -> set[str]:
    """The members of all IPv4 sets but those of isolated pods."""
    return {m for n, s in found.ruleset.sets.items() if n.startswith("npc4-") and "isolated" not in n for m in s.members}


def test_a_new_policy_isolates_at_once_even_if_its_sets_are_not_here() -> None:
    found, (sets, policies) = node(DB), published(WEB, DB, ALLOWED)
    found.set_policy(policies[0])
    found.flush()
    assert has_chain(found) and peers(found) == set()
    assert found.problems and found.incomplete == {ALLOWED.key}
    found.set_address_set(sets[0])
    found.flush()
    assert peers(found) == {"10.0.0.1"} and not found.problems


def test_a_new_version_waits_for_its_sets_with_the_old_one_in_force() -> None:
    found, (sets, policies) = node(WEB, DB, ALLOWED), published(WEB, DB, OTHERS)
    before = dict(found.ruleset.chains[Family.V4])
    for name in tuple(found.address_sets):
        found.remove_address_set(name)
    found.set_policy(policies[0])
    assert not found.flush() and found.ruleset.chains[Family.V4] == before and peers(found) == {"10.0.0.1"}
    found.set_address_set(sets[0])
    found.flush()
    assert found.ruleset.chains[Family.V4] != before and peers(found) == set() and len(found.address_sets) == 1


def test_a_set_that_comes_back_before_it_has_gone_stays() -> None:
    found, (sets, _) = node(WEB, DB, ALLOWED), published(WEB, DB, ALLOWED)
    found.remove_address_set(sets[0].name)
    found.flush()
    found.set_address_set(sets[0])
    found.remove_policy(ALLOWED.key)
    found.flush()
    assert set(found.address_sets) == {sets[0].name}


def test_a_removed_policy_isolates_nobody_and_its_chains_are_told() -> None:
    found = node(WEB, DB, ALLOWED)
    chains = set(found.ruleset.chains[Family.V4])
    found.remove_policy(ALLOWED.key)
    touched = found.flush()
    gone = chains - found.ruleset.chains[Family.V4].keys()
    assert not has_chain(found) and pod_chain_name(DB.key, Direction.INGRESS) in gone
    assert gone <= touched.chains[Family.V4] and peers(found) == set()


def test_a_pods_labels_choose_its_policies_anew() -> None:
    found = node(DB, ALLOWED)
    found.set_pod(pod("a", "db", ["10.0.0.2", "fd00::2"], app="none"))
    found.flush()
    assert not has_chain(found)
    found.set_pod(DB)
    found.flush()
    assert has_chain(found)


def test_a_policy_that_isolates_in_one_more_direction_does_so_for_pods_that_are_there() -> None:
    found = node(DB, policy("a", "p", {"app": "db"}))
    assert [has_chain(found, d) for d in DIRECTIONS] == [True, False]
    _, policies = published(DB, policy("a", "p", {"app": "db"}, directions=DIRECTIONS))
    found.set_policy(policies[0])
    found.flush()
    assert [has_chain(found, d) for d in DIRECTIONS] == [True, True]


def test_a_pod_that_loses_its_address_to_a_younger_one_loses_its_rules_and_gets_them_back() -> None:
    young = pod("a", "young", ["10.0.0.2", "fd00::2"], app="young", created="2026-02-01T00:00:00Z")
    found = node(DB, ALLOWED)
    found.set_pod(young)
    found.flush()
    assert not has_chain(found)
    found.remove_pod(young.key)
    found.flush()
    assert has_chain(found)


@pytest.mark.parametrize("family", Family)
def test_a_pod_with_one_address_has_rules_in_that_family_only(family: Family) -> None:
    one = replace(DB, addresses=tuple(a for a in DB.addresses if a.family is family))
    found = node(one, policy("a", "p", {"app": "db"}))
    assert [f for f in Family if has_chain(found, family=f)] == [family]
    guarded = [f for f in Family if found.ruleset.sets[isolated_set_name(Direction.INGRESS, f)].members]
    assert guarded == [family]


def test_packets_to_a_pod_meet_its_ingress_chain_and_packets_from_it_its_egress_chain() -> None:
    chains = node(DB, policy("a", "p", {"app": "db"}, directions=DIRECTIONS)).ruleset.chains[Family.V4]
    assert texts(chains["npc-ingress"]) == [f"-d 10.0.0.2/32 -g {pod_chain_name(DB.key, Direction.INGRESS)}"]
    assert texts(chains["npc-egress"]) == [f"-s 10.0.0.2/32 -g {pod_chain_name(DB.key, Direction.EGRESS)}"]


def test_a_set_follows_its_members_and_so_does_a_union_of_many() -> None:
    singles = [pod("a", f"w{n}", f"10.0.1.{n}", node="n2", labels={f"w{n}": "x"}) for n in range(6)]
    many = policy("a", "p", {"app": "db"}, ingress=[allow(*(pods(has(f"w{n}")) for n in range(6)))])
    found = node(DB, *singles, many)
    assert peers(found) == {f"10.0.1.{n}" for n in range(6)}
    moved = [replace(singles[0], addresses=pod("a", "x", "10.0.1.99").addresses), *singles[1:5]]
    sets, _ = published(DB, *moved, many)
    for address_set in sets:
        found.set_address_set(address_set)
    found.flush()
    assert peers(found) == {"10.0.1.99", *(f"10.0.1.{n}" for n in range(1, 5))}
    few = node(WEB, DB, ALLOWED)
    (lone,), _ = published(replace(WEB, addresses=pod("a", "x", "10.0.0.9").addresses), DB, ALLOWED)
    few.set_address_set(lone)
    few.flush()
    assert peers(few) == {"10.0.0.9"}


def test_a_blocks_set_stays_while_another_policys_rules_name_it() -> None:
    rule = allow(block("10.0.0.0/8", "10.1.0.0/16"))
    twins = [policy("a", name, {"app": name}, ingress=[rule]) for name in ("db", "web")]
    web = replace(WEB, node="n1")
    found = node(DB, web, *twins)
    for twin, left in ((twins[0], {"10.0.0.0/8", "10.1.0.0/16 nomatch"}), (twins[1], set())):
        found.remove_policy(twin.key)
        found.flush()
        assert peers(found) == left


def test_many_endpoint_sets_are_one_union_of_endpoints() -> None:
    names = [f"p{n}" for n in range(6)]
    server = replace(WEB, ports=pod("a", "x", ports=[f"{name}:{80 + n}" for n, name in enumerate(names)]).ports)
    found = node(DB, server, egress_policy("a", "p", {"app": "db"}, allow(pods(namespaces=EVERYTHING), ports=map(port, names))))
    ((name, union),) = [(n, s) for n, s in found.ruleset.sets.items() if n.startswith("npc4-") and s.type == "hash:ip,port"]
    assert union.members == {f"10.0.0.1,tcp:{80 + n}" for n in range(6)}
    rules = [r for chain in found.ruleset.chains[Family.V4].values() for r in chain if name in r.sets]
    assert rules and all(f"--match-set {name} dst,dst" in r for r in texts(rules))


def test_pods_whose_names_mean_other_numbers_have_bodies_of_their_own() -> None:
    other = pod("a", "db2", "10.0.0.3", app="db", ports=["http:81"])
    found = node(DB, other, policy("a", "p", {"app": "db"}, ingress=[allow(ports=[port("http")])]))
    every = [r for c in found.ruleset.chains[Family.V4].values() for r in texts(c)]
    opened = {r.split("--dport ")[1].split()[0] for r in every if "--dport" in r}
    assert opened == {"80", "81"}
