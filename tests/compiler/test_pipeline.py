"""The incremental compiler, one change at a time: which addresses a set has after it, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import allow, egress_policy, key, namespace, none_of, one_of, pod, pods, policy, port, selector
from netpol_compiler.model.objects import Namespace, Pod, Policy, Rule
from netpol_compiler.model.selectors import EVERYTHING
from netpol_compiler.policy.ir import IRDelta, Peers
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.policy.translate import translate

WEB = pod("a", "web", ["10.0.0.1", "fd00::1"], app="web", ports=["http:80"])
ALLOWED = policy("a", "p", ingress=[allow(pods(app="web"))])
BLUE = policy("z", "p", ingress=[allow(pods(namespaces=selector(team="blue")))])


def pipeline(*objects: Namespace | Pod | Policy) -> Pipeline:
    """One that has been told of `objects`, and has flushed."""
    found = Pipeline()
    for each in objects:
        if isinstance(each, Namespace):
            found.set_namespace(each)
        elif isinstance(each, Pod):
            found.set_pod(each)
        else:
            found.set_policy(each)
    found.flush()
    return found


def members(found: Pipeline) -> set[str]:
    """Of the one set that there is, after a flush."""
    found.flush()
    (only,) = found.ir.sets.values()
    return {str(m) if hasattr(m, "text") else f"{m.address}:{m.port}" for m in only.members}  # type: ignore[union-attr]


def test_a_deleted_pods_addresses_leave_the_set() -> None:
    found = pipeline(WEB, ALLOWED)
    assert members(found) == {"10.0.0.1", "fd00::1"}
    found.remove_pod(WEB.key)
    assert members(found) == set()


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_is_over_leaves_the_set_with_the_labels_that_it_had(phase: str) -> None:
    found = pipeline(WEB, ALLOWED)
    found.set_pod(replace(WEB, phase=phase))
    assert members(found) == set()


def test_a_pods_new_address_takes_the_place_of_the_old() -> None:
    found = pipeline(WEB, ALLOWED)
    found.set_pod(replace(WEB, addresses=pod("a", "x", "10.0.0.9").addresses))
    assert members(found) == {"10.0.0.9"}


def test_a_pods_new_labels_and_ports_count() -> None:
    found = pipeline(WEB, ALLOWED)
    found.set_pod(pod("a", "web", ["10.0.0.1", "fd00::1"], app="db"))
    assert members(found) == set()
    named = pipeline(WEB, egress_policy("a", "p", EVERYTHING, allow(pods(app="web"), ports=[port("http")])))
    assert members(named) == {"10.0.0.1:80", "fd00::1:80"}
    named.set_pod(pod("a", "web", "10.0.0.1", app="web", ports=["http:81"]))
    assert members(named) == {"10.0.0.1:81"}


def test_an_address_given_anew_is_in_the_sets_of_the_younger_pod_only_and_comes_back() -> None:
    young = pod("a", "young", "10.0.0.1", app="other", created="2026-02-01T00:00:00Z")
    found = pipeline(WEB, ALLOWED)
    found.set_pod(young)
    assert members(found) == {"fd00::1"}
    found.remove_pod(young.key)
    assert members(found) == {"10.0.0.1", "fd00::1"}


def test_labels_of_namespaces_count_as_they_change_and_go() -> None:
    found = pipeline(namespace("a", team="blue"), WEB, BLUE)
    assert members(found) == {"10.0.0.1", "fd00::1"}
    found.set_namespace(namespace("a", team="red"))
    assert members(found) == set()
    found.set_namespace(namespace("a", team="blue"))
    found.remove_namespace("a")
    assert members(found) == set()


def test_a_namespace_that_nobody_told_of_has_its_name() -> None:
    named = policy("z", "p", ingress=[allow(pods(namespaces=selector(one_of("kubernetes.io/metadata.name", "a"))))])
    assert members(pipeline(WEB, named)) == {"10.0.0.1", "fd00::1"}


@pytest.mark.parametrize("order", [1, -1])
def test_pods_are_found_by_each_value_of_a_requirement(order: int) -> None:
    both = policy("a", "p", ingress=[allow(pods(one_of("app", "db", "web"), none_of("tier", "x"), namespaces=EVERYTHING))])
    objects = [WEB, pod("b", "db", "10.0.0.2", app="db"), pod("a", "no", "10.0.0.3", app="web", tier="x"), both]
    assert members(pipeline(*objects[::order])) == {"10.0.0.1", "fd00::1", "10.0.0.2"}


def test_a_set_stays_as_long_as_one_policy_names_it_and_no_longer() -> None:
    twin = policy("a", "q", ingress=[allow(pods(app="web"))])
    found = pipeline(WEB, ALLOWED, twin)
    (name,) = found.ir.sets
    found.remove_policy(twin.key)
    assert found.flush() == IRDelta(policies_down=(twin.key,))
    found.set_policy(policy("a", "p"))
    delta = found.flush()
    assert (delta.sets_up, delta.sets_down) == ((), (name,))
    assert [p.key for p in delta.policies_up] == [key("a/p")] and not found.flush()


def test_a_changed_policy_is_told_again_and_an_equal_one_is_not() -> None:
    found = pipeline(WEB, ALLOWED)
    found.set_policy(policy("a", "p", ingress=[allow(pods(app="web"))]))
    assert not found.flush()
    found.set_policy(policy("a", "p", {"app": "db"}, ingress=[allow(pods(app="web"))]))
    assert [p.pod_selector for p in found.flush().policies_up] == [selector(app="db")]


# -- one policy --------------------------------------------------------------------------------------


def words(written: Policy) -> list[str]:
    """What the sets hold that a policy names."""
    return sorted(spec.words for spec in translate(written).specs.values())


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (allow(pods(app="web")), ["pods app=web of namespace a"]),
        (allow(pods(namespaces=EVERYTHING, app="web")), ["pods app=web of all namespaces"]),
        (allow(pods(namespaces=selector(team="blue"))), ["all pods of namespaces team=blue"]),
        (allow(pods(), ports=[port("http")]), ["all pods of namespace a, port http/TCP"]),
        (allow(ports=[port("http")]), ["all pods of all namespaces, port http/TCP"]),
        (allow(pods(), ports=[port("http"), port(1)]), ["all pods of namespace a", "all pods of namespace a, port http/TCP"]),
    ],
)
def test_a_peer_is_the_set_of_just_what_it_selects(rule: Any, expected: list[str]) -> None:
    assert words(egress_policy("a", "p", EVERYTHING, rule)) == expected


def test_missing_and_rejected_peers_and_ports_stay_apart() -> None:
    for direction in translate(policy("a", "p", egress=[allow()])).policy.directions:
        for peers in (None, ()):
            for ports in (None, ()):
                written = replace(policy("a", "p", directions=[direction]), rules=(Rule(direction, 3, peers, ports),))
                (rule,) = translate(written).policy.rules
                assert (rule.peers, rule.ports, rule.index) == (None if peers is None else Peers((), ()), ports, 3)
