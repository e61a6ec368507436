"""Whatever an operator is told of a cluster, in any order, twice or never: after a look at what there is, it holds just that."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hostile import spoiled_json
from netpol_compiler.model.objects import Cluster
from netpol_compiler.policy.pipeline import Pipeline, compile_cluster
from netpol_compiler.policy.span import Spans
from netpol_compiler.reading.objects import parse_namespace, parse_pod, parse_policy
from netpol_kube.client import ProtocolError, checked_object
from netpol_operator.inputs.feed import KINDS, Feed
from search import searched
from tellings import Event, History, Identity, histories


def picture(there: dict[Identity, Any]) -> Cluster:
    """What there is, parsed."""

    def each(kind: str, parse: Any) -> list[Any]:
        return [parse(data)[0] for identity, data in there.items() if identity[0] == kind]

    return Cluster(
        {n.name: n for n in each("Namespace", parse_namespace)},
        {p.key: p for p in each("Pod", parse_pod)},
        {p.key: p for p in each("NetworkPolicy", parse_policy)},
    )


def tell(feed: Feed, event: Event) -> None:
    (feed.on_delete_event if event.deleted else feed.on_update)(event.kind, event.data)


def look(feed: Feed, there: dict[Identity, Any]) -> None:
    """What an audit or a fresh list does: puts what there is, takes away what is not there."""
    for kind in KINDS:
        for namespace, name in list(feed.cached[kind]):
            if (kind, namespace, name) not in there:
                feed.on_delete(kind, namespace, name)
    for (kind, _, _), data in there.items():
        feed.on_update(kind, data)


@searched(250)
@given(histories())
def test_after_events_in_any_order_twice_late_or_never_a_look_at_all_gives_a_compile_from_scratch(history: History) -> None:
    pipeline = Pipeline()
    feed = Feed(pipeline, Spans(), lambda: None)
    for event in history.told:
        tell(feed, event)
        pipeline.flush()
    look(feed, history.there)
    pipeline.flush()
    assert pipeline.ir == compile_cluster(picture(history.there))
    assert {(kind, *identity) for kind in KINDS for identity in feed.cached[kind]} == history.there.keys()


@searched(150)
@given(histories())
def test_in_the_order_in_which_it_happened_no_look_is_needed_even_if_all_is_told_twice(history: History) -> None:
    pipeline = Pipeline()
    feed = Feed(pipeline, Spans(), lambda: None)
    for event in history.events:
        tell(feed, event)
        tell(feed, event)
        pipeline.flush()
    assert pipeline.ir == compile_cluster(picture(history.there))


@searched(200)
@given(histories(), st.data())
def test_after_whatever_objects_a_look_gives_a_compile_from_scratch(history: History, data: st.DataObject) -> None:
    """What is odd is told without a version, which counts as newer than anything."""
    pipeline = Pipeline()
    feed = Feed(pipeline, Spans(), lambda: None)
    for event in history.told:
        odd = data.draw(spoiled_json(event.data))
        with contextlib.suppress(ProtocolError):
            metadata = {**checked_object("/things", odd)["metadata"], "resourceVersion": "odd"}
            tell(feed, Event(event.kind, event.deleted, {**odd, "metadata": metadata}))
            pipeline.flush()
    look(feed, history.there)
    pipeline.flush()
    assert pipeline.ir == compile_cluster(picture(history.there))
    assert {(kind, *identity) for kind in KINDS for identity in feed.cached[kind]} == history.there.keys()


def test_a_policy_that_names_no_namespace_goes_as_it_came() -> None:
    """Found by odd objects: it was held under no namespace and compiled under "default", so nothing ever took it away."""
    pipeline = Pipeline()
    feed = Feed(pipeline, Spans(), lambda: None)
    feed.on_update("NetworkPolicy", {"metadata": {"name": "p", "uid": "u"}, "spec": {"policyTypes": ["Ingress"]}})
    look(feed, {})
    pipeline.flush()
    assert not pipeline.ir.policies


@searched(150)
@given(histories())
def test_what_is_held_never_becomes_older(history: History) -> None:
    feed = Feed(Pipeline(), Spans(), lambda: None)
    for event in history.told:
        identity = event.identity[1:]
        before = feed.cached[event.kind].get(identity)
        tell(feed, event)
        after = feed.cached[event.kind].get(identity)
        assert before is None or after is None or after.version >= before.version
