"""What an agent on the API hands to its compiler, and when: who matters here, and what happens while a set is late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from builders import address, allow, pods, policy
from netpol_agent.inputs.mailbox import Mailbox
from netpol_agent.inputs.namespace_lists import FIRST_RELIST_SECONDS, NAMESPACE_LIST_GRACE_SECONDS
from netpol_agent.inputs.needed_sets import FETCH_DELAY_SECONDS, REFETCH_SECONDS
from netpol_agent.inputs.node_inputs import START_WAIT_SECONDS, NodeInputs
from netpol_agent.inputs.policy_handover import NEW_ISOLATION_WAIT_SECONDS, UPDATE_WAIT_SECONDS
from netpol_agent.inputs.source import Delta
from netpol_api.resources import address_set_object, compiled_policy_object, span_label
from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Cluster, Key, Labels, Namespace, Policy
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy
from netpol_compiler.policy.pipeline import compile_cluster

Json = dict[str, Any]


def compiled(value: Policy) -> tuple[CompiledPolicy, str]:
    """A policy with one set, and the set's name."""
    ns = value.key.namespace
    policy = compile_cluster(Cluster(policies={value.key: value}, namespaces={ns: Namespace(ns, Labels())})).policies[value.key]
    return policy, next(iter(policy.set_names), "")


WEB = policy("shop", "web", {"app": "web"}, ingress=[allow(pods(app="friend"))])
WEB_IR, FRIENDS = compiled(WEB)
OTHER_IR, OTHERS = compiled(policy("shop", "web", {"app": "web"}, ingress=[allow(pods(app="other"))]))
SPEC = compile_cluster(Cluster(policies={WEB.key: WEB}, namespaces={"shop": Namespace("shop", Labels())})).sets[FRIENDS].spec


def policy_object(value: CompiledPolicy = WEB_IR, **needs: int) -> Json:
    """`needs`: of every set of the policy, by the word `at`."""
    at = {name: str(needs.get("at", 0)) for name in value.set_names}
    return compiled_policy_object(value, 1, at)


def set_objects(name: str, version: int, *slices: tuple[str, ...]) -> list[Json]:
    value = AddressSet(name, SPEC, frozenset(address(t) for part in slices for t in part))
    found = []
    for index, part in enumerate(slices):
        document = wire.slice_to_wire(value, index, len(slices), [address(t) for t in part])
        data = address_set_object(document, [7])
        data["metadata"]["resourceVersion"] = str(version + index)
        found.append(data)
    return found


def pod_object(
    name: str, host: str = "", phase: str = "Running", host_network: bool = False, namespace: str = "shop", **labels: str
) -> Json:
    status = {"phase": phase, "podIPs": [{"ip": host}] if host else []}
    metadata = {"namespace": namespace, "name": name, "uid": name, "labels": labels}
    return {"metadata": metadata, "spec": {"nodeName": "n1", "hostNetwork": host_network}, "status": status}


BUCKET = 7


@dataclass
class Desk:
    """Inputs, their mailbox, and a clock that the test sets."""

    inputs: NodeInputs
    mailbox: Mailbox
    now: float = 100.0
    answers: bool = True
    """Whether a namespace that is asked for is answered at once, with nothing that the watch has not brought."""

    def pod(self, *args: Any, **kwargs: Any) -> Desk:
        self.inputs.put_pod(pod_object(*args, **kwargs), self.now)
        return self

    def policy(self, value: CompiledPolicy = WEB_IR, **needs: int) -> Desk:
        self.inputs.put_policy(policy_object(value, **needs), self.now)
        return self

    def set(self, name: str, version: int, *slices: tuple[str, ...]) -> Desk:
        for data in set_objects(name, version, *slices):
            self.inputs.sets.put(data, self.now)
        return self

    def synced(self) -> Desk:
        self.inputs.synced(self.now)
        return self

    def take(self, after: float = 0.0) -> Delta:
        self.now += after
        self.inputs.settle(self.now)
        for namespace in self.inputs.namespaces.take_due(self.now) if self.answers else ():
            self.inputs.namespace_listed(namespace, (), -1, self.now)
            self.inputs.settle(self.now)
        return self.mailbox.take()

    @property
    def problems(self) -> tuple[str, ...]:
        return self.mailbox.status.problems


@pytest.fixture
def desk() -> Iterator[Desk]:
    mailbox = Mailbox()
    yield Desk(NodeInputs(mailbox, BUCKET), mailbox)
    mailbox.close()


@pytest.fixture
def running(desk: Desk) -> Desk:
    """An agent in operation, with a pod that no policy selects yet."""
    desk.pod("web", "10.0.0.1", app="web").synced().take()
    assert desk.inputs.complete
    return desk


# -- who matters here ----------------------------------------------------------------------------------


def test_a_policy_is_handed_over_only_while_it_selects_a_live_pod_of_this_node(desk: Desk) -> None:
    desk.policy().set(FRIENDS, 5, ("10.0.0.2",)).synced()
    assert desk.take() == Delta()
    desk.pod("host", "172.31.7.1", host_network=True, app="web").pod("done", "10.0.0.9", phase="Succeeded", app="web")
    delta = desk.take()
    assert (len(delta.pods_up), delta.policies_up, delta.sets_up) == (2, (), ())
    desk.pod("web", app="web")
    delta = desk.take()
    assert [p.key.name for p in delta.pods_up] == ["web"]
    assert delta.policies_up == (WEB_IR,)
    assert [s.name for s in delta.sets_up] == [FRIENDS]
    desk.inputs.delete_pod(Key("shop", "web"), desk.now)
    delta = desk.take()
    assert (delta.pods_down, delta.policies_down, delta.sets_down) == ((Key("shop", "web"),), (WEB_IR.key,), (FRIENDS,))


def test_a_pod_that_comes_back_under_its_name_in_one_step_is_up_and_not_down(running: Desk) -> None:
    running.inputs.delete_pod(Key("shop", "web"), running.now)
    running.pod("web", "10.0.0.7", app="web")
    delta = running.take()
    assert ([p.addresses[0].text for p in delta.pods_up], delta.pods_down) == (["10.0.0.7"], ())


def test_policies_of_namespaces_without_a_pod_here_are_not_even_parsed(desk: Desk) -> None:
    garbage = policy_object()
    garbage["spec"] = {"schema": 99}
    desk.inputs.put_policy(garbage, desk.now)
    desk.synced().take()
    assert desk.inputs.complete
    assert desk.problems == ()


def test_a_deleted_policy_is_down_and_its_set_goes_with_it(running: Desk) -> None:
    running.set(FRIENDS, 5, ("10.0.0.2",)).policy().take()
    running.inputs.delete_policy(WEB_IR.key, running.now)
    delta = running.take()
    assert (delta.policies_down, delta.sets_down) == ((WEB_IR.key,), (FRIENDS,))


def test_nothing_new_means_an_empty_delta(running: Desk) -> None:
    running.set(FRIENDS, 5, ("10.0.0.2",)).policy().take()
    running.pod("web", "10.0.0.1", app="web").policy()
    delta = running.take()
    assert (delta.policies_up, delta.sets_up) == ((), ())


# -- while a set is late -------------------------------------------------------------------------------


def test_a_new_policy_waits_a_moment_for_its_set_and_then_isolates_without_it(running: Desk) -> None:
    running.policy(at=9)
    assert running.take() == Delta()
    assert running.take(NEW_ISOLATION_WAIT_SECONDS * 0.9).policies_up == ()
    delta = running.take(NEW_ISOLATION_WAIT_SECONDS * 0.2)
    assert delta.policies_up == (WEB_IR,)
    assert "missing or older" in running.problems[0]
    assert [s.name for s in running.set(FRIENDS, 9, ("10.0.0.2",)).take().sets_up] == [FRIENDS]
    assert running.problems == ()


def test_a_set_that_comes_in_time_is_handed_over_together_with_its_policy(running: Desk) -> None:
    running.policy(at=9).take()
    delta = running.set(FRIENDS, 9, ("10.0.0.2",)).take(NEW_ISOLATION_WAIT_SECONDS / 2)
    assert (delta.policies_up, [s.name for s in delta.sets_up]) == ((WEB_IR,), [FRIENDS])


def test_a_set_older_than_the_policy_needs_counts_as_late(running: Desk) -> None:
    running.set(FRIENDS, 8, ("10.0.0.2",)).policy(at=9)
    assert running.take().policies_up == ()
    assert running.set(FRIENDS, 9, ("10.0.0.3",)).take().policies_up == (WEB_IR,)


def test_a_newer_version_waits_longer_and_the_old_one_stays(running: Desk) -> None:
    running.set(FRIENDS, 5, ("10.0.0.2",)).policy(at=5).take()
    running.policy(OTHER_IR, at=9)
    delta = running.take()
    assert (delta.policies_up, delta.policies_down, delta.sets_down) == ((), (), ())
    assert running.take(UPDATE_WAIT_SECONDS * 0.9).policies_up == ()
    assert "waits for set" in running.problems[0]
    delta = running.take(UPDATE_WAIT_SECONDS * 0.2)
    assert delta.policies_up == (OTHER_IR,)
    assert delta.sets_down == (FRIENDS,)


def test_a_pod_whose_address_is_new_is_isolated_at_once_whatever_is_late(running: Desk) -> None:
    running.policy(at=9).take()
    delta = running.pod("second", "10.0.0.5", app="web").take()
    assert ([p.key.name for p in delta.pods_up], delta.policies_up) == (["second"], (WEB_IR,))


def test_a_pod_keeps_its_old_labels_while_the_sets_of_a_policy_that_now_selects_it_are_fetched(desk: Desk) -> None:
    desk.pod("web", "10.0.0.1", app="none").policy().synced().take()
    delta = desk.pod("web", "10.0.0.1", app="web").take()
    assert (delta.pods_up, delta.policies_up) == ((), ())
    desk.now += FETCH_DELAY_SECONDS
    assert desk.inputs.sets.fetches.take_due(desk.now) == [FRIENDS]
    desk.inputs.sets.fetched(FRIENDS, set_objects(FRIENDS, 5, ("10.0.0.2",)), 20, desk.now)
    delta = desk.take()
    assert ([p.labels["app"] for p in delta.pods_up], delta.policies_up) == (["web"], (WEB_IR,))
    assert [s.name for s in delta.sets_up] == [FRIENDS]


def test_a_pod_that_waits_for_sets_waits_no_longer_than_a_new_policy_does(desk: Desk) -> None:
    desk.pod("web", "10.0.0.1", app="none").policy().synced().take()
    desk.pod("web", "10.0.0.1", app="web").take()
    delta = desk.take(NEW_ISOLATION_WAIT_SECONDS)
    assert ([p.labels["app"] for p in delta.pods_up], delta.policies_up) == (["web"], (WEB_IR,))


# -- sets by name --------------------------------------------------------------------------------------


def test_a_set_that_leaves_the_watch_stays_until_a_fetch_confirms_that_it_is_gone(running: Desk) -> None:
    running.set(FRIENDS, 5, ("10.0.0.2",)).policy().take()
    running.inputs.sets.unwatch(f"{FRIENDS}.0")
    assert running.take().sets_down == ()
    running.now += FETCH_DELAY_SECONDS
    assert running.inputs.sets.fetches.take_due(running.now) == [FRIENDS]
    running.inputs.sets.fetched(FRIENDS, set_objects(FRIENDS, 6, ("10.0.0.3",)), 20, running.now)
    delta = running.take()
    assert ([m.text for s in delta.sets_up for m in s.members], delta.sets_down) == (["10.0.0.3"], ())
    running.now += REFETCH_SECONDS
    assert running.inputs.sets.fetches.take_due(running.now) == [FRIENDS]
    running.inputs.sets.fetched(FRIENDS, [], 30, running.now)
    assert running.take().sets_down == (FRIENDS,)


def test_a_set_that_leaves_the_watch_and_that_nobody_here_needs_is_dropped_without_a_question(running: Desk) -> None:
    running.set(FRIENDS, 5, ("10.0.0.2",)).take()
    running.inputs.sets.unwatch(f"{FRIENDS}.0")
    assert running.take() == Delta()
    assert running.inputs.sets.fetches.take_due(running.now + 60) == []


def test_an_older_answer_does_not_undo_what_the_watch_has_brought(running: Desk) -> None:
    running.policy().take(FETCH_DELAY_SECONDS)
    running.now += FETCH_DELAY_SECONDS
    assert running.inputs.sets.fetches.take_due(running.now) == [FRIENDS]
    running.set(FRIENDS, 9, ("10.0.0.3",))
    running.inputs.sets.fetched(FRIENDS, set_objects(FRIENDS, 8, ("10.0.0.2",)), 8, running.now)
    assert [m.text for s in running.take().sets_up for m in s.members] == ["10.0.0.3"]


def test_a_set_that_could_not_be_fetched_is_asked_for_again(running: Desk) -> None:
    running.policy().take()
    running.now += FETCH_DELAY_SECONDS
    assert running.inputs.sets.fetches.take_due(running.now) == [FRIENDS]
    running.inputs.sets.fetch_failed(FRIENDS, 1.0, running.now)
    assert running.inputs.sets.fetches.take_due(running.now) == []
    assert running.inputs.sets.fetches.take_due(running.now + 1.0) == [FRIENDS]


def test_a_set_that_lacks_a_slice_keeps_its_last_good_state_and_is_a_problem_only_if_it_stays_so(running: Desk) -> None:
    running.set(FRIENDS, 5, ("10.0.0.2",)).policy().take()
    first, second = set_objects(FRIENDS, 8, ("10.0.0.3",), ("10.0.0.4",))
    running.inputs.sets.put(first, running.now)
    assert (running.take().sets_up, running.problems) == ((), ())
    assert (running.take(1.0).sets_up, "1 slices of 2" in running.problems[0]) == ((), True)
    running.inputs.sets.put(second, running.now)
    delta = running.take()
    assert sorted(m.text for s in delta.sets_up for m in s.members) == ["10.0.0.3", "10.0.0.4"]
    assert running.problems == ()


# -- what is not understood ----------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [None, {}, {"schema": 99}, {"schema": 1}], ids=["none", "empty", "newer", "cut"])
def test_what_is_not_understood_keeps_its_last_good_state_and_is_a_problem(running: Desk, spec: Any) -> None:
    running.set(FRIENDS, 5, ("10.0.0.2",)).policy().take()
    bad_policy, (bad_set,) = policy_object(), set_objects(FRIENDS, 9, ("10.0.0.3",))
    bad_policy["spec"] = bad_set["spec"] = spec
    running.inputs.put_policy(bad_policy, running.now)
    running.inputs.sets.put(bad_set, running.now)
    delta = running.take()
    assert (delta.policies_up, delta.policies_down, delta.sets_up, delta.sets_down) == ((), (), (), ())
    assert len(running.problems) == 2
    running.policy().set(FRIENDS, 10, ("10.0.0.3",))
    assert (len(running.take().sets_up), running.problems) == (1, ())


def newer_schema(value: CompiledPolicy = WEB_IR) -> Json:
    data = policy_object(value)
    data["spec"]["schema"] = 99
    return data


def test_an_agent_that_starts_takes_over_nothing_while_a_policy_of_its_pods_is_not_understood(desk: Desk) -> None:
    desk.inputs.put_policy(newer_schema(), desk.now)
    desk.pod("web", "10.0.0.1", app="web").synced().take()
    desk.take(2 * START_WAIT_SECONDS)
    assert not desk.inputs.complete
    assert "schema 99" in desk.problems[0]
    desk.policy().set(FRIENDS, 5, ("10.0.0.2",)).take()
    assert desk.inputs.complete


def test_a_new_policy_that_is_not_understood_isolates_whom_it_selects(running: Desk) -> None:
    running.inputs.put_policy(newer_schema(), running.now)
    (sealed,) = running.take().policies_up
    assert (sealed.pod_selector, sealed.directions, sealed.rules) == (WEB_IR.pod_selector, WEB_IR.directions, ())
    assert "allows nothing" in running.problems[0]
    running.set(FRIENDS, 5, ("10.0.0.2",)).policy()
    assert (running.take().policies_up, running.problems) == ((WEB_IR,), ())


# -- the start -----------------------------------------------------------------------------------------


def test_an_agent_that_starts_waits_for_the_sets_of_its_policies_but_not_for_ever(desk: Desk) -> None:
    desk.pod("web", "10.0.0.1", app="web").policy().take()
    assert not desk.inputs.complete
    desk.synced().take()
    assert not desk.inputs.complete
    desk.now += FETCH_DELAY_SECONDS
    assert desk.inputs.sets.fetches.take_due(desk.now) == [FRIENDS]
    assert desk.take(START_WAIT_SECONDS).policies_up == (WEB_IR,)
    assert desk.inputs.complete


def test_an_agent_that_starts_is_complete_as_soon_as_its_sets_are_here(desk: Desk) -> None:
    desk.pod("web", "10.0.0.1", app="web").policy().set(FRIENDS, 5, ("10.0.0.2",)).synced()
    delta = desk.take()
    assert (delta.policies_up, len(delta.sets_up), desk.inputs.complete) == ((WEB_IR,), 1, True)


# -- namespaces whose policies are not known yet -------------------------------------------------------


def labelled(data: dict[str, Any], version: int, bucket: int = BUCKET) -> dict[str, Any]:
    metadata = {**data["metadata"], "resourceVersion": str(version), "labels": {span_label(bucket): ""}}
    return {**data, "metadata": metadata}


FARM_IR = replace(WEB_IR, key=Key("farm", "p"), rules=())


@pytest.fixture
def asking(running: Desk) -> Desk:
    """It has just asked for the policies of `farm`, for a first pod there."""
    running.answers = False
    running.pod("till", "10.0.0.9", namespace="farm", app="web")
    assert running.take() == Delta()
    assert running.inputs.namespaces.take_due(running.now) == ["farm"]
    return running


def test_a_first_pod_of_a_namespace_is_kept_back_while_the_policies_are_listed(asking: Desk) -> None:
    assert asking.take(NAMESPACE_LIST_GRACE_SECONDS / 2) == Delta()


def test_then_it_comes_together_with_its_policies(asking: Desk) -> None:
    asking.inputs.namespace_listed("farm", [labelled(policy_object(FARM_IR), 50)], 60, asking.now)
    delta = asking.take()
    assert ([p.key.name for p in delta.pods_up], delta.policies_up) == (["till"], (FARM_IR,))


def test_new_labels_of_the_only_pod_of_a_namespace_ask_for_nothing(running: Desk) -> None:
    running.answers = False
    delta = running.pod("web", "10.0.0.1", app="shop").take()
    assert [p.labels["app"] for p in delta.pods_up] == ["shop"]
    assert running.inputs.namespaces.take_due(running.now) == []


def test_a_list_that_does_not_come_leaves_it_isolated_until_it_does(asking: Desk) -> None:
    delta = asking.take(NAMESPACE_LIST_GRACE_SECONDS)
    assert [p.key.name for p in delta.pods_up] == ["till"]
    [cover] = delta.policies_up
    assert (cover.key.namespace, cover.directions, cover.rules) == ("farm", frozenset(Direction), ())
    assert "not known yet; isolated" in asking.problems[0]
    asking.inputs.namespace_listed("farm", [], 60, asking.now)
    assert asking.take().policies_down == (cover.key,)
    assert asking.problems == ()


def test_a_namespace_is_listed_again_until_all_its_policies_carry_the_label(asking: Desk) -> None:
    asking.inputs.namespace_listed("farm", [labelled(policy_object(FARM_IR), 50, bucket=8)], 60, asking.now)
    assert asking.take().policies_up == (FARM_IR,)
    assert asking.inputs.namespaces.take_due(asking.now + FIRST_RELIST_SECONDS) == ["farm"]
    asking.inputs.namespace_listed("farm", [labelled(policy_object(FARM_IR), 70)], 71, asking.now)
    assert asking.inputs.namespaces.take_due(asking.now + 100) == []


def test_a_list_takes_away_what_it_lacks_but_nothing_newer_than_itself(running: Desk) -> None:
    running.inputs.put_policy(labelled(policy_object(WEB_IR), 50), running.now)
    running.set(FRIENDS, 5, ("10.0.0.2",)).take()
    running.inputs.namespace_listed("shop", [], 49, running.now)
    assert running.take().policies_down == ()
    running.inputs.namespace_listed("shop", [], 51, running.now)
    assert running.take().policies_down == (WEB_IR.key,)


def test_an_old_list_brings_no_deleted_policy_back(asking: Desk) -> None:
    asking.inputs.delete_policy(FARM_IR.key, asking.now)
    asking.inputs.namespace_listed("farm", [labelled(policy_object(FARM_IR), 50)], 60, asking.now)
    assert asking.take() == Delta()
    assert asking.inputs.namespaces.take_due(asking.now) == ["farm"]


def test_what_a_list_has_brought_and_a_new_watch_does_not_is_listed_again(asking: Desk) -> None:
    """Found on a busy machine: the policy had gone after the list of its namespace and before the watch, and stayed for ever."""
    asking.inputs.namespace_listed("farm", [labelled(policy_object(FARM_IR), 50)], 60, asking.now)
    assert asking.take().policies_up == (FARM_IR,)
    asking.inputs.watch_listed({FARM_IR.key}, asking.now)
    assert asking.inputs.namespaces.take_due(asking.now) == []
    asking.inputs.watch_listed((), asking.now)
    assert asking.inputs.namespaces.take_due(asking.now) == ["farm"]
    asking.inputs.namespace_listed("farm", [], 80, asking.now)
    assert asking.take().policies_down == (FARM_IR.key,)


def test_what_is_being_listed_while_the_watch_begins_anew_does_not_count(asking: Desk) -> None:
    asking.inputs.watch_listed((), asking.now)
    asking.inputs.namespace_listed("farm", [labelled(policy_object(FARM_IR), 50)], 60, asking.now)
    assert asking.take() == Delta()
    assert asking.inputs.namespaces.take_due(asking.now) == ["farm"]


def test_a_policy_that_left_the_watch_is_asked_for_by_name_only_where_it_matters(running: Desk) -> None:
    running.set(FRIENDS, 5, ("10.0.0.2",)).policy().take()
    assert running.inputs.unwatch_policy(WEB_IR.key)
    assert running.take().policies_down == ()
    assert not running.inputs.unwatch_policy(FARM_IR.key)
