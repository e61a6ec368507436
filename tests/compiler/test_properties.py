"""What must hold for every cluster, policy, packet and order of events."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from draws import pick
from generators import clusters, connections, namespaces, pods, policies
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Cluster
from netpol_compiler.node import NodeCompiler
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import IR
from netpol_compiler.policy.pipeline import Pipeline, compile_cluster
from netpol_compiler.policy.verdict import Judge
from netpol_compiler.ruleset.render import rule_text
from netpol_compiler.ruleset.values import Ruleset
from netpol_compiler.witnesses import oracle
from other_process import OtherProcess, everything
from search import searched


@searched(400)
@given(st.data())
def test_oracle_and_ir_give_one_answer(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    judge = Judge(compile_cluster(cluster), cluster)
    for _ in range(6):
        connection = data.draw(connections(cluster))
        expected, got = oracle.judge(cluster, connection), judge.judge(connection)
        assert (got.egress.allowed, got.ingress.allowed) == (expected.egress_allowed, expected.ingress_allowed)
        assert got.egress.isolating == expected.egress_isolating or not got.egress.isolating
        assert got.ingress.isolating == expected.ingress_isolating or not got.ingress.isolating


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, object]]:
    """Events about few names, so that they are changed, removed and added again."""
    events: list[tuple[str, object]] = []
    for _ in range(draw(st.integers(1, 14))):
        kind = draw(
            st.sampled_from(["namespace", "pod", "pod", "policy", "remove namespace", "remove pod", "remove policy", "flush"])
        )
        name = pick(draw, "pqr")
        value: object = None
        if kind == "namespace":
            value = draw(namespaces(pick(draw, "abc")))
        elif kind == "pod":
            value = draw(pods(name))
        elif kind == "policy":
            value = draw(policies(name))
        elif kind != "flush":
            value = pick(draw, "abc"), name
        events.append((kind, value))
    return events


def replay(events: list[tuple[str, Any]]) -> tuple[Pipeline, Cluster]:
    """The incremental pipeline after `events`, and the cluster that they leave behind."""
    from netpol_compiler.model.objects import Key

    pipeline, held = Pipeline(), Cluster({}, {}, {}, {})
    stores: dict[str, Any] = {"namespace": held.namespaces, "pod": held.pods, "policy": held.policies}
    for kind, value in events:
        if kind == "flush":
            pipeline.flush()
            continue
        what = kind.split()[-1]
        if kind.startswith("remove"):
            key = value[0] if what == "namespace" else Key(*value)
            stores[what].pop(key, None)
            getattr(pipeline, f"remove_{what}")(key)
        else:
            stores[what][value.name if what == "namespace" else value.key] = value
            getattr(pipeline, f"set_{what}")(value)
    pipeline.flush()
    return pipeline, held


@searched(400)
@given(histories())
def test_point_16_incremental_equals_from_scratch_in_any_order_of_events(events: list[tuple[str, object]]) -> None:
    pipeline, held = replay(events)
    assert pipeline.ir == compile_cluster(held)
    assert not pipeline.flush()


def apply(node: NodeCompiler, old: IR, new: IR, cluster: Cluster) -> None:
    """Feed a node compiler with what an agent would be told, in publishing order."""
    local = {k: p for k, p in cluster.pods.items() if p.node == node.node}
    for key in [k for k in node.pods if k not in local]:
        node.remove_pod(key)
    for pod in local.values():
        node.set_pod(pod)
    for address_set in new.sets.values():
        node.set_address_set(address_set)
    for policy in new.policies.values():
        node.set_policy(policy)
    for key in old.policies.keys() - new.policies.keys():
        node.remove_policy(key)
    for name in old.sets.keys() - new.sets.keys():
        node.remove_address_set(name)


def copy(ruleset: Ruleset) -> Ruleset:
    return Ruleset({f: dict(c) for f, c in ruleset.chains.items()}, dict(ruleset.sets))


@searched(250)
@given(st.lists(clusters(), min_size=2, max_size=3))
def test_point_16_lowering_a_then_b_equals_lowering_b(states: list[Cluster]) -> None:
    node, old = NodeCompiler("n1"), IR({}, {})
    for cluster in states:
        before, ir = copy(node.ruleset), compile_cluster(cluster)
        apply(node, old, ir, cluster)
        touched = node.flush()
        fresh = NodeCompiler("n1")
        apply(fresh, IR({}, {}), ir, cluster)
        fresh.flush()
        assert node.ruleset == fresh.ruleset
        assert not node.problems and not node.flush()
        # What differs is told: an agent looks at nothing else.
        for family in Family:
            was, now = before.chains[family], node.ruleset.chains[family]
            told = touched.chains.get(family, frozenset())
            assert {n for n in was.keys() | now.keys() if was.get(n) != now.get(n)} <= told
        sets_was, sets_now = before.sets, node.ruleset.sets
        assert {n for n in sets_was.keys() | sets_now.keys() if sets_was.get(n) != sets_now.get(n)} <= touched.sets
        old = ir


@searched(200)
@given(clusters())
def test_every_chain_and_set_that_is_named_exists(cluster: Cluster) -> None:
    node = NodeCompiler("n1")
    apply(node, IR({}, {}), compile_cluster(cluster), cluster)
    node.flush()
    for chains in node.ruleset.chains.values():
        for rules in chains.values():
            for words in (rule_text(rule).split() for rule in rules):
                assert all(
                    words[i + 1] in chains for i, w in enumerate(words) if w in ("-g", "-j") and words[i + 1].startswith("npc-")
                )
                assert all(words[i + 1] in node.ruleset.sets for i, w in enumerate(words) if w == "--match-set")


@searched(200)
@given(clusters())
def test_the_wire_form_is_lossless_and_canonical(cluster: Cluster) -> None:
    ir = compile_cluster(cluster)
    for policy in ir.policies.values():
        content = wire.to_bytes(wire.policy_to_wire(policy))
        assert wire.policy_from_wire(wire.from_bytes(content)) == policy
        assert wire.to_bytes(wire.policy_to_wire(wire.policy_from_wire(wire.from_bytes(content)))) == content
    for address_set in ir.sets.values():
        one = wire.to_bytes(wire.slice_to_wire(address_set, 0, 1, address_set.members))
        assert wire.slices_from_wire([wire.from_bytes(one)]) == address_set


@pytest.fixture(scope="module")
def others() -> Iterator[list[OtherProcess]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(OtherProcess(seed)) for seed in ("0", "4242")]


@searched(60)
@given(data=st.data())
def test_equal_input_gives_equal_bytes_in_every_process(data: st.DataObject, others: list[OtherProcess]) -> None:
    """Whatever order hashes or the teller give to the same objects."""
    state = data.draw(clusters())
    expected = everything(state)
    for other in others:
        pods, policies = (dict(data.draw(st.permutations(list(kind.items())))) for kind in (state.pods, state.policies))
        assert other.everything(Cluster(state.namespaces, pods, policies, state.nodes)) == expected


def test_processes_with_other_hash_seeds_order_a_set_otherwise(others: list[OtherProcess]) -> None:
    """Else the test above could not fail."""
    assert len({other.set_order() for other in others}) == len(others)
