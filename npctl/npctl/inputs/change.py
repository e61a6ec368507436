"""What files would change in a state: `kubectl apply -f` or `kubectl delete -f`, thought through and not done.

In: a state, documents, whether they are to be deleted. Out: the state afterwards, and one `Change` for each object looked at.
Only what decides about connections between things that are there is looked at: NetworkPolicies, and the labels of namespaces and
pods. A policy takes the place of the one of its name; labels are merged as `kubectl apply` merges them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from netpol_compiler.model.objects import NAMESPACE_NAME_LABEL, Cluster, Key, Labels, Namespace, Policy, Rejected
from netpol_compiler.reading.objects import locate, parse_namespace, parse_pod, parse_policy
from netpol_manifests.documents import Document, Use, classify
from netpol_manifests.pod_templates import WORKLOADS
from netpol_manifests.world import ObjectId
from npctl.errors import bad_input
from npctl.inputs.files import place
from npctl.inputs.state import State
from npctl.output import warn

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_LOOKED_AT = ("NetworkPolicy", "Namespace", "Pod")


@dataclass(frozen=True, slots=True)
class Change:
    """One object of the files; `action` is create, change, delete or none."""

    id: ObjectId
    action: str

    @property
    def words(self) -> str:
        who = f"{self.id.namespace}/{self.id.name}" if self.id.namespace else self.id.name
        done = {
            "create": "would be created",
            "change": "would be changed",
            "delete": "would be deleted",
            "none": "stays as it is",
        }
        return f"{self.id.kind} {who} {done[self.action]}"

    @property
    def data(self) -> dict[str, Any]:
        return {"kind": self.id.kind, "namespace": self.id.namespace or None, "name": self.id.name, "action": self.action}


def changed(
    state: State, documents: Iterable[Document], delete: bool, namespace: str, metadata: Mapping[ObjectId, Mapping[str, Any]]
) -> tuple[State, list[Change]]:
    """The state after the documents; `namespace` is that of an object which names none, `metadata` that of live objects.

    Raises CommandError (bad input) for what cannot be read, everything at once.
    """
    documents = [_homed(d, namespace) for d in documents]
    rejected = [r for d in documents for r in _faults(d)]
    if rejected:
        raise bad_input(rejected)
    cluster = state.cluster
    changes: list[Change] = []
    for document in documents:
        oid = ObjectId(document.kind, document.namespace if document.kind != "Namespace" else "", document.name)
        if document.kind == "NetworkPolicy":
            after, action = (_without if delete else _with_policy)(cluster, document)
        elif document.kind in _LOOKED_AT and not delete:
            after, action = _with_labels(cluster, document, oid, metadata.get(oid) or _as_applied(state, oid))
        else:
            _pass_over(document, delete)
            continue
        cluster = after
        changes.append(Change(oid, action))
    return state.with_cluster(cluster), changes


def _homed(document: Document, namespace: str) -> Document:
    """The document with the namespace that kubectl would give it."""
    if document.kind == "Namespace" or document.namespace:
        return document
    data = {**document.data, "metadata": {**document.data["metadata"], "namespace": namespace}}
    return replace(document, data=data)


def _faults(document: Document) -> list[Rejected]:
    use = classify(document)
    if isinstance(use, Rejected):
        return [use]
    parse = {"NetworkPolicy": parse_policy, "Namespace": parse_namespace, "Pod": parse_pod}.get(document.kind)
    return [locate(r, document) for r in parse(document.data)[1]] if parse is not None and use is Use.USED else []


def _with_policy(cluster: Cluster, document: Document) -> tuple[Cluster, str]:
    policy, _ = parse_policy(document.data)
    assert policy is not None
    old = cluster.policies.get(policy.key)
    if old is not None and _content(old) == _content(policy):
        return cluster, "none"
    policies = {**cluster.policies, policy.key: replace(policy, uid=old.uid if old else policy.uid)}
    return replace(cluster, policies=policies), "change" if old else "create"


def _content(policy: Policy) -> Policy:
    return replace(policy, uid="")


def _without(cluster: Cluster, document: Document) -> tuple[Cluster, str]:
    key = Key(document.namespace, document.name)
    if key not in cluster.policies:
        warn(f"{place(document)}: there is no NetworkPolicy {key} to delete")
        return cluster, "none"
    return replace(cluster, policies={k: p for k, p in cluster.policies.items() if k != key}), "delete"


def _with_labels(cluster: Cluster, document: Document, oid: ObjectId, metadata: Mapping[str, Any]) -> tuple[Cluster, str]:
    written = document.data["metadata"].get("labels") or {}
    removed = set(_last_applied(metadata)) - set(written)
    if oid.kind == "Namespace":
        space = cluster.namespaces.get(oid.name)
        old = space.labels if space else Labels()
        labels = Labels({**{k: v for k, v in old.items() if k not in removed}, **written, NAMESPACE_NAME_LABEL: oid.name})
        after = replace(cluster, namespaces={**cluster.namespaces, oid.name: Namespace(oid.name, labels)})
        return after, "create" if space is None else "none" if labels == old else "change"
    pod = cluster.pods.get(Key(oid.namespace, oid.name))
    if pod is None:
        warn(f"{place(document)}: Pod {oid.namespace}/{oid.name} is passed over: it is not there, so it has no address yet")
        return cluster, "none"
    labels = Labels({**{k: v for k, v in pod.labels.items() if k not in removed}, **written})
    pods = {**cluster.pods, pod.key: replace(pod, labels=labels)}
    return replace(cluster, pods=pods), "none" if labels == pod.labels else "change"


def _last_applied(metadata: Mapping[str, Any]) -> Mapping[str, str]:
    """The labels that the last `kubectl apply` wrote: those that are no longer in the file go."""
    try:
        applied = json.loads((metadata.get("annotations") or {}).get(_LAST_APPLIED) or "{}")
        labels = applied["metadata"]["labels"]
    except (ValueError, KeyError, TypeError):
        return {}
    return labels if isinstance(labels, Mapping) else {}


def _as_applied(state: State, oid: ObjectId) -> Mapping[str, Any]:
    """In files, what is written is what was last applied."""
    document = state.world.documents.get(oid)
    if document is None or document.kind != oid.kind:
        return {}
    return {"annotations": {_LAST_APPLIED: json.dumps({"metadata": {"labels": document.data["metadata"].get("labels")}})}}


def _pass_over(document: Document, delete: bool) -> None:
    """Say so where it might have been meant to count; ConfigMaps and their like never do."""
    if document.kind in WORKLOADS or (delete and document.kind in _LOOKED_AT):
        warn(
            f"{place(document)}: {document.kind} {document.namespace}/{document.name} is passed over: diff looks at"
            " NetworkPolicies, and at the labels of Namespaces and Pods that are there"
        )
