"""What the feed hands on: each change reaches the pipeline and the spans, and an old event reaches neither."""

from __future__ import annotations

from typing import Any

from netpol_compiler.model.objects import Key, Policy
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.policy.span import Spans
from netpol_operator.inputs.feed import Feed


def pod(version: int, uid: str = "u1", node: str = "n1", app: str = "web") -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": "p", "uid": uid, "resourceVersion": str(version), "labels": {"app": app}}
    spec, status = {"nodeName": node, "containers": []}, {"podIP": "10.0.0.1", "phase": "Running"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def test_spans_hear_of_pods_that_come_move_and_go() -> None:
    spans = Spans()
    feed = Feed(Pipeline(), spans, lambda: None)
    feed.on_update("Pod", pod(1))
    assert spans.nodes_of_namespace("shop") == {"n1"}
    feed.on_update("Pod", pod(2, node="n2"))
    assert spans.nodes_of_namespace("shop") == {"n2"}
    assert feed.on_delete("Pod", "shop", "p")
    assert spans.nodes_of_namespace("shop") == frozenset()


def test_an_older_state_changes_nothing_and_is_told_to_nobody() -> None:
    changes: list[None] = []
    spans = Spans()
    feed = Feed(Pipeline(), spans, lambda: changes.append(None))
    assert feed.on_update("Pod", pod(5, node="n2"))
    assert not feed.on_update("Pod", pod(4, node="n1"))
    assert not feed.on_update("Pod", pod(5, node="n1"))
    assert spans.nodes_of_namespace("shop") == {"n2"} and len(changes) == 1


def test_the_late_deletion_of_an_earlier_life_leaves_the_one_of_today() -> None:
    spans = Spans()
    feed = Feed(Pipeline(), spans, lambda: None)
    feed.on_update("Pod", pod(7, uid="u2"))
    assert not feed.on_delete_event("Pod", pod(6, uid="u1"))
    assert spans.nodes_of_namespace("shop") == {"n1"}
    assert feed.on_delete_event("Pod", pod(8, uid="u2"))
    assert not feed.cached["Pod"]


def test_a_deleted_namespaces_labels_count_no_more() -> None:
    pipeline = Pipeline()
    feed = Feed(pipeline, Spans(), lambda: None)
    peer = {"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}
    metadata = {"namespace": "z", "name": "np", "uid": "u", "resourceVersion": "1"}
    feed.on_update(
        "NetworkPolicy", {"kind": "NetworkPolicy", "metadata": metadata, "spec": {"podSelector": {}, "ingress": [peer]}}
    )
    feed.on_update(
        "Namespace", {"kind": "Namespace", "metadata": {"name": "shop", "resourceVersion": "2", "labels": {"team": "blue"}}}
    )
    feed.on_update("Pod", pod(3))
    pipeline.flush()
    assert [len(s.members) for s in pipeline.ir.sets.values()] == [1]
    assert feed.on_delete("Namespace", "", "shop")
    pipeline.flush()
    assert [len(s.members) for s in pipeline.ir.sets.values()] == [0]


def test_a_deleted_pod_leaves_the_sets() -> None:
    pipeline = Pipeline()
    feed = Feed(pipeline, Spans(), lambda: None)
    metadata = {"namespace": "shop", "name": "np", "uid": "u", "resourceVersion": "1"}
    spec = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}
    feed.on_update("NetworkPolicy", {"kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
    for change, members in ((lambda: feed.on_update("Pod", pod(3)), 1), (lambda: feed.on_delete_event("Pod", pod(4)), 0)):
        assert change()
        pipeline.flush()
        assert [len(s.members) for s in pipeline.ir.sets.values()] == [members]


def test_a_policy_that_goes_is_told_once() -> None:
    gone: list[Key] = []
    told: list[Policy] = []
    feed = Feed(Pipeline(), Spans(), lambda: None, lambda told_of: told.append(told_of.policy), gone.append)
    metadata = {"namespace": "shop", "name": "np", "uid": "u", "resourceVersion": "3", "generation": 4}
    feed.on_update("NetworkPolicy", {"kind": "NetworkPolicy", "metadata": metadata, "spec": {"podSelector": {}}})
    assert [p.key for p in told] == [Key("shop", "np")] and feed.generations == {Key("shop", "np"): 4}
    assert feed.on_delete("NetworkPolicy", "shop", "np") and not feed.on_delete("NetworkPolicy", "shop", "np")
    assert gone == [Key("shop", "np")] and feed.generations == {}
