"""Which policies a node reports as in force: those whose rules the kernel has, for pods that the operator counts."""

from __future__ import annotations

from builders import allow, cluster, key, pod, pods, policy
from dataplanes import rules
from netpol_agent.dataplane.dataplane import Behind
from netpol_agent.reporting.in_force import policies_in_force
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Pod
from netpol_compiler.node import NodeCompiler, compile_node
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.ruleset.reach import leading_to, reachable

WEB, DB = pod("shop", "web", "10.0.0.1", app="web"), pod("shop", "db", "10.0.0.2", app="db")
WEB_POLICY = policy("shop", "web", {"app": "web"}, ingress=[allow(pods(app="db"))])
DB_POLICY = policy("shop", "db", {"app": "db"}, ingress=[allow(pods(app="web"))])
NOBODY = policy("shop", "nobody", {"app": "none"})
ALL = cluster(WEB, DB, WEB_POLICY, DB_POLICY, NOBODY)
IR = compile_cluster(ALL)


def node(*more: Pod) -> NodeCompiler:
    return compile_node("n1", IR, [WEB, DB, *more])


def chain(compiler: NodeCompiler, stem: str) -> str:
    return next(n for n in compiler.ruleset.chains[Family.V4] if n.startswith(f"npc-{stem}"))


def test_those_that_select_a_pod_here_are_in_force_by_their_digests() -> None:
    digests = {str(k): IR.policies[k].digest for k in (key("shop/web"), key("shop/db"))}
    assert policies_in_force(node(), Behind()) == digests


def test_nothing_is_in_force_while_no_packet_reaches_our_chains() -> None:
    assert policies_in_force(node(), Behind(everything=True)) == {}


def test_a_policy_one_of_whose_chains_or_sets_the_kernel_lacks_is_not() -> None:
    compiler = node()
    assert set(policies_in_force(compiler, Behind(chains={Family.V4: frozenset({chain(compiler, "bi-web")})}))) == {"shop/db"}
    name = next(n for n in compiler.ruleset.sets if n.startswith("npc4-n1-web"))
    assert set(policies_in_force(compiler, Behind(sets=frozenset({name})))) == {"shop/web"}


def test_a_policy_that_waits_for_its_set_is_not() -> None:
    compiler = NodeCompiler("n1")
    for value in (WEB, DB):
        compiler.set_pod(value)
    compiler.set_policy(IR.policies[key("shop/web")])
    compiler.flush()
    assert policies_in_force(compiler, Behind()) == {}
    for address_set in IR.sets.values():
        compiler.set_address_set(address_set)
    compiler.flush()
    assert set(policies_in_force(compiler, Behind())) == {"shop/web"}


def test_pods_count_before_they_have_an_address_and_not_when_they_are_over_or_the_hosts() -> None:
    young = pod("shop", "young", app="none", phase="Pending")
    assert "shop/nobody" in policies_in_force(node(young), Behind())
    for other in (pod("shop", "x", "10.0.0.9", app="none", phase="Failed"), pod("shop", "x", app="none", host_network=True)):
        assert "shop/nobody" not in policies_in_force(node(other), Behind())


def test_ways_through_chains_are_found_in_both_directions() -> None:
    written = {"a": ["-j npc-b", "-g npc-c"], "b": ["-j npc-d"], "c": [], "d": ["-j FOREIGN"], "x": ["-s 10.0.0.1 -j npc-b"]}
    chains = {f"npc-{name}": rules(*texts) for name, texts in written.items()}
    assert reachable(chains, ["npc-a", "none"]) == ["npc-a", "npc-b", "npc-c", "npc-d"]
    assert leading_to(chains, ["npc-d"]) == {"npc-a", "npc-b", "npc-x"}
