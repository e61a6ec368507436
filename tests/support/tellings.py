"""What happened in a cluster, and what of it an operator is told: in any order, twice, late, or not at all.

In: nothing. Out: objects with resourceVersions as the API server writes them one after the other, deletions among them, and a
list of what is told of these. Few names, so that they are changed, deleted and made again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from draws import below, pick
from generators import namespaces, pods, policies
from netpol_compiler.model.objects import Labels, Namespace, Pod, Policy
from spellings import manifests, writable

Json = dict[str, Any]
Identity = tuple[str, str, str]
"""Kind, namespace, name."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one object. A deletion carries the object's last state, with the deletion's version."""

    kind: str
    deleted: bool
    data: Json

    @property
    def identity(self) -> Identity:
        metadata = self.data["metadata"]
        return self.kind, metadata.get("namespace", ""), metadata["name"]


@dataclass(slots=True)
class History:
    """`events` in the order in which they happened, `there` as it is after them, `told` as the operator hears of them."""

    events: list[Event] = field(default_factory=list)
    there: dict[Identity, Json] = field(default_factory=dict)
    told: list[Event] = field(default_factory=list)


def namespace_manifest(value: Namespace) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": value.name, "labels": dict(value.labels)}}


def pod_manifest(value: Pod) -> Json:
    ports = [{"containerPort": p.port, "protocol": p.protocol.value} | ({"name": p.name} if p.name else {}) for p in value.ports]
    status = {"phase": value.phase, "podIPs": [{"ip": a.text} for a in value.addresses]}
    metadata = {"namespace": value.key.namespace, "name": value.key.name, "uid": value.uid, "labels": dict(value.labels)}
    spec = {"nodeName": value.node, "hostNetwork": value.host_network, "containers": [{"ports": ports}]}
    metadata["creationTimestamp"] = value.created
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


@st.composite
def objects(draw: st.DrawFn) -> tuple[str, Json]:
    """Kind and manifest, without uid and version."""
    kind, name = pick(draw, ["Namespace", "Pod", "Pod", "NetworkPolicy"]), pick(draw, "pqr")
    if kind == "Namespace":
        value = draw(namespaces(pick(draw, "abc")))
        return kind, namespace_manifest(Namespace(value.name, Labels(value.labels)))
    if kind == "Pod":
        return kind, pod_manifest(draw(pods(name)))
    policy: Policy = draw(policies(name).filter(writable))
    return kind, draw(manifests(policy))


@st.composite
def histories(draw: st.DrawFn) -> History:
    history = History()
    lives: dict[Identity, int] = {}
    for version in range(1, draw(st.integers(1, 12)) + 1):
        if history.there and draw(below(4)) == 0:
            identity = pick(draw, sorted(history.there))
            data, deleted = history.there.pop(identity), True
            uid = data["metadata"]["uid"]
        else:
            kind, data = draw(objects())
            deleted = False
            identity = Event(kind, False, data).identity
            if identity not in history.there:
                lives[identity] = lives.get(identity, 0) + 1
            uid = f"{'-'.join(identity)}-{lives[identity]}"
        data = {**data, "metadata": {**data["metadata"], "uid": uid, "resourceVersion": str(version)}}
        if not deleted:
            history.there[identity] = data
        history.events.append(Event(identity[0], deleted, data))
    # Some are told twice, some never, and all in any order.
    picked = draw(st.lists(st.sampled_from(range(len(history.events))), max_size=18))
    history.told = [history.events[i] for i in picked]
    return history
