"""Which nodes need which policy and set: after any order of changes the same as counted from scratch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key, Labels, Pod
from netpol_compiler.model.selectors import EVERYTHING, Operator, Requirement, make_selector
from netpol_compiler.policy.ir import CompiledPolicy, CompiledRule, Peers
from netpol_compiler.policy.span import Spans

SELECTORS = (EVERYTHING, make_selector([Requirement("app", Operator.IN, ("web",))]))


def pod(name: str, node: str = "a", app: str = "web", namespace: str = "shop", **more: object) -> Pod:
    return replace(Pod(Key(namespace, name), name, Labels({"app": app}), node), **more)


def policy(name: str, selector: int, *sets: str, namespace: str = "shop") -> CompiledPolicy:
    rules = (CompiledRule(Direction.INGRESS, 0, Peers(sets), None),)
    return CompiledPolicy(Key(namespace, name), name, SELECTORS[selector], frozenset({Direction.INGRESS}), rules)


def test_a_node_needs_the_policies_that_select_a_pod_of_it_and_their_sets():
    spans = Spans()
    spans.set_policy(policy("p", 1, "s"))
    spans.set_pod(pod("one", "a"))
    spans.set_pod(pod("two", "a"))
    spans.set_pod(pod("other", "b", app="db"))
    assert spans.nodes(Key("shop", "p")) == {"a": 2}
    assert spans.nodes_of_set("s") == {"a"}


def test_a_pod_counts_once_it_is_bound_and_not_after_it_ended_or_on_the_hosts_network():
    spans = Spans()
    spans.set_policy(policy("p", 0, "s"))
    spans.set_pod(pod("waiting", ""))
    spans.set_pod(pod("over", "b", phase="Succeeded"))
    spans.set_pod(pod("hosty", "c", host_network=True))
    assert not spans.nodes(Key("shop", "p"))
    spans.set_pod(pod("waiting", "a"))
    assert spans.nodes(Key("shop", "p")) == {"a": 1}


def test_only_sets_whose_nodes_changed_are_dirty():
    spans = Spans()
    spans.set_policy(policy("p", 1, "s"))
    spans.set_pod(pod("one", "a"))
    spans.take_dirty()
    spans.set_pod(pod("two", "a"))
    assert spans.take_dirty() == ({Key("shop", "p")}, frozenset(), frozenset())
    spans.set_pod(pod("three", "b"))
    assert spans.take_dirty() == ({Key("shop", "p")}, {"s"}, {"shop"})


pods = st.builds(
    pod, st.sampled_from("xyz"), st.sampled_from(["", "a", "b"]), st.sampled_from(["web", "db"]),
    st.sampled_from(["shop", "farm"]),
    host_network=st.booleans(), phase=st.sampled_from(["Running", "Failed"]),
)  # fmt: skip
policies = st.builds(
    lambda name, selector, sets, namespace: policy(name, selector, *sets, namespace=namespace),
    st.sampled_from("pq"), st.sampled_from([0, 1]), st.sets(st.sampled_from("st")), st.sampled_from(["shop", "farm"]),
)  # fmt: skip
changes = st.lists(
    st.one_of(
        st.tuples(st.just("set_pod"), pods),
        st.tuples(st.just("remove_pod"), pods.map(lambda p: p.key)),
        st.tuples(st.just("set_policy"), policies),
        st.tuples(st.just("remove_policy"), policies.map(lambda p: p.key)),
    ),
    max_size=30,
)


@given(changes)
def test_any_order_of_changes_gives_what_counting_from_scratch_gives(steps):
    spans, now_pods, now_policies = Spans(), {}, {}
    told: tuple[dict, dict, dict] = ({}, {}, {})
    for name, value in steps:
        getattr(spans, name)(value)
        if name == "set_pod":
            now_pods[value.key] = value
        elif name == "set_policy":
            now_policies[value.key] = value
        else:
            (now_pods if name == "remove_pod" else now_policies).pop(value, None)
        dirty = spans.take_dirty()
        told[0].update({k: dict(spans.nodes(k)) for k in dirty.policies})
        told[1].update({n: spans.nodes_of_set(n) for n in dirty.sets})
        told[2].update({n: spans.nodes_of_namespace(n) for n in dirty.namespaces})
    for key, value in now_policies.items():
        expected = Counter(
            p.node for p in now_pods.values()
            if p.node and not p.host_network and p.phase == "Running" and p.key.namespace == key.namespace
            and value.pod_selector.matches(p.labels)
        )  # fmt: skip
        assert spans.nodes(key) == expected == told[0][key]
    for name in "st":
        users = [k for k, v in now_policies.items() if name in v.set_names]
        expected_nodes = {n for k in users for n in spans.nodes(k)}
        assert spans.nodes_of_set(name) == expected_nodes == told[1].get(name, frozenset())
    for namespace in ("shop", "farm"):
        here = {
            p.node for p in now_pods.values()
            if p.node and not p.host_network and p.phase == "Running" and p.key.namespace == namespace
        }  # fmt: skip
        assert spans.nodes_of_namespace(namespace) == here == told[2].get(namespace, frozenset())
