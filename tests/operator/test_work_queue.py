"""The publisher's work queue: nothing that was to be compared is forgotten, and what fails holds up only what depends on it."""

from __future__ import annotations

import pytest

from builders import key
from netpol_api import resources
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.policy.span import Spans
from netpol_operator.inputs.feed import Feed
from netpol_operator.publishing.desired import DesiredIR
from netpol_operator.publishing.observed import Item, ObservedIR
from netpol_operator.publishing.work_queue import Phase, WorkQueue, blocked_of, items_of
from netpol_operator.serving.metrics import OperatorMetrics

WEB, DB, OLD = key("shop/web"), key("shop/db"), key("shop/old")


@pytest.fixture
def desired() -> DesiredIR:
    """Two policies, each with a set of its own."""
    pipeline, spans = Pipeline(), Spans()
    feed = Feed(pipeline, spans, lambda: None)
    for name in ("web", "db"):
        peers = [{"from": [{"podSelector": {"matchLabels": {"to": name}}}]}]
        metadata = {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1", "generation": 3}
        feed.on_update("NetworkPolicy", {"metadata": metadata, "spec": {"podSelector": {}, "ingress": peers}})
    desired = DesiredIR(feed, pipeline, spans, OperatorMetrics())
    assert desired.flush().items == {WEB, DB, *desired.sets}
    return desired


def observed(*items: Item) -> ObservedIR:
    """What the API server holds: these policies."""
    found = ObservedIR(lambda path, data: None)
    for item in items:
        assert not isinstance(item, str)
        found.on_update(resources.compiled_policy_path(item), {"metadata": {"uid": "u", "resourceVersion": "1"}})
    return found


def set_of(desired: DesiredIR, policy: Item) -> str:
    (name,) = desired.policies[policy].set_names  # type: ignore[index]  # a Key
    return name


def test_each_item_has_one_phase_and_sets_go_up_first_and_down_last(desired: DesiredIR) -> None:
    batch: set[Item] = {WEB, DB, OLD, *desired.sets, "nobodys"}
    assert [items_of(phase, batch, desired) for phase in Phase] == [set(desired.sets), {WEB, DB}, {OLD}, {"nobodys"}]


def test_a_policy_waits_for_its_own_set_only(desired: DesiredIR) -> None:
    failed = {set_of(desired, WEB)}
    assert blocked_of(Phase.WRITE_POLICIES, {WEB, DB}, failed, desired, observed()) == {WEB}
    assert blocked_of(Phase.DELETE_POLICIES, {OLD}, failed, desired, observed(OLD)) == set()


def test_sets_stay_while_a_policy_that_may_name_them_could_not_be_written_or_deleted(desired: DesiredIR) -> None:
    leaving: set[Item] = {"nobodys"}
    for late in (WEB, OLD):
        assert blocked_of(Phase.DELETE_SETS, leaving, {late}, desired, observed(late)) == leaving
        assert blocked_of(Phase.DELETE_SETS, leaving, {late}, desired, observed(DB)) == set()
    assert blocked_of(Phase.DELETE_SETS, leaving, {set_of(desired, WEB)}, desired, observed(WEB)) == set()


def test_what_fails_counts_as_backlog_until_it_is_done() -> None:
    queue = WorkQueue()
    queue.add(WEB, "a", "b")
    batch = queue.take()
    assert batch == {WEB, "a", "b"} and not queue.queued
    queue.finish(batch, {"a", WEB})
    assert queue.failed == {"a", WEB} and queue.backlog == 2
    queue.retry()
    assert queue.queued == queue.failed
    queue.add("c")
    batch = queue.take()
    queue.finish(batch, {WEB})
    assert queue.failed == {WEB} and queue.backlog == 1


def test_a_batch_that_does_not_retry_a_failure_leaves_it_failed() -> None:
    queue = WorkQueue()
    queue.add("a")
    queue.finish(queue.take(), {"a"})
    queue.add("b")
    queue.finish(queue.take(), ())
    assert queue.failed == {"a"}


def test_a_batch_that_is_broken_off_is_queued_again() -> None:
    queue = WorkQueue()
    queue.add(WEB, "a")
    batch = queue.take()
    queue.add("b")
    queue.put_back(batch)
    assert queue.queued == {WEB, "a", "b"}
