"""Objects of the API server into the pipeline: what is newer is taken, what is stale is ignored.

    kopf handlers (NetworkPolicy, Namespace), pod reflector, audit --on_update, on_delete--> Feed --> Pipeline, Spans

Three sources may notify of one object in any order (kopf hands over each uid in a task of its own, an audit reads beside it), so
an object older than the cached one is ignored: resourceVersions of one API server are ordered (KEP-5504). No I/O, one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_api.resources import version_number
from netpol_compiler.model.objects import Key, Namespace, Pod, Policy, Rejected
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.policy.span import Spans
from netpol_compiler.reading.metadata import DEFAULT_NAMESPACE
from netpol_compiler.reading.objects import parse_namespace, parse_pod, parse_policy
from netpol_kube.client import Json

KINDS = ("NetworkPolicy", "Namespace", "Pod")
Identity = tuple[str, str]
"""Namespace (empty for a Namespace) and name."""

_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Any, tuple[Rejected, ...]]]] = {
    "NetworkPolicy": parse_policy,
    "Namespace": parse_namespace,
    "Pod": parse_pod,
}


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """What is cached of one object: enough to recognize a newer version, and another object of the same name."""

    uid: str
    version: int


@dataclass(frozen=True, slots=True)
class ParsedPolicy:
    """A policy's value, and everything in it that could not be understood."""

    policy: Policy
    rejected: tuple[Rejected, ...]


class Feed:
    """`cached`: kind -> identity -> version. `generations`: of NetworkPolicies. `problems`: what was not understood, by object.

    `on_change` is called after each change, `on_policy` for each new state of a policy, `on_policy_deleted` after its deletion.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        spans: Spans,
        on_change: Callable[[], None],
        on_policy: Callable[[ParsedPolicy], None] | None = None,
        on_policy_deleted: Callable[[Key], None] | None = None,
    ) -> None:
        self.cached: dict[str, dict[Identity, CachedVersion]] = {kind: {} for kind in KINDS}
        self.generations: dict[Key, int] = {}
        self.problems: dict[tuple[str, str, str], tuple[str, ...]] = {}
        self._pipeline = pipeline
        self._spans = spans
        self._on_change = on_change
        self._on_policy = on_policy
        self._on_policy_deleted = on_policy_deleted

    def on_update(self, kind: str, data: Json) -> bool:
        """An object as it is now, or was. Returns whether it was newer than the cached one."""
        identity, new = _identify(kind, data)
        old = self.cached[kind].get(identity)
        if old is not None and new.version and new.version <= old.version:
            return False
        self.cached[kind][identity] = new
        value, rejected = _PARSERS[kind](data)
        self._note((kind, *identity), tuple(r.words for r in rejected))
        if isinstance(value, Policy):
            self._policy(value, rejected, data)
        elif isinstance(value, Namespace):
            self._pipeline.set_namespace(value)
        elif isinstance(value, Pod):
            self._pipeline.set_pod(value)
            self._spans.set_pod(value)
        self._on_change()
        return True

    def _policy(self, policy: Policy, rejected: tuple[Rejected, ...], data: Json) -> None:
        generation = data["metadata"].get("generation")
        self.generations[policy.key] = generation if type(generation) is int else 0
        self._pipeline.set_policy(policy)
        if self._on_policy is not None:
            self._on_policy(ParsedPolicy(policy, rejected))

    def on_delete_event(self, kind: str, data: Json) -> bool:
        """A watch's DELETED event, with the object's last state. That of an earlier object of the same name is ignored."""
        identity, last = _identify(kind, data)
        old = self.cached[kind].get(identity)
        if old is None or (old.uid != last.uid and old.version > last.version):
            return False
        return self.on_delete(kind, *identity)

    def on_delete(self, kind: str, namespace: str, name: str) -> bool:
        """An object was deleted. Returns whether it was cached."""
        if self.cached[kind].pop((namespace, name), None) is None:
            return False
        self.problems.pop((kind, namespace, name), None)
        key = Key(namespace, name)
        if kind == "NetworkPolicy":
            self.generations.pop(key, None)
            self._pipeline.remove_policy(key)
            if self._on_policy_deleted is not None:
                self._on_policy_deleted(key)
        elif kind == "Namespace":
            self._pipeline.remove_namespace(name)
        else:
            self._pipeline.remove_pod(key)
            self._spans.remove_pod(key)
        self._on_change()
        return True

    def _note(self, place: tuple[str, str, str], words: tuple[str, ...]) -> None:
        if words:
            self.problems[place] = words
        else:
            self.problems.pop(place, None)


class PodSink:
    """The pod reflector's way into the feed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def put(self, data: Json) -> None:
        self._feed.on_update("Pod", data)

    def gone(self, namespace: str, name: str) -> None:
        self._feed.on_delete("Pod", namespace, name)


def _identify(kind: str, data: Json) -> tuple[Identity, CachedVersion]:
    metadata = data["metadata"]
    # The same identity as the parsers give it, so that a deletion finds what was added.
    namespace = "" if kind == "Namespace" else str(metadata.get("namespace") or DEFAULT_NAMESPACE)
    version = CachedVersion(str(metadata.get("uid") or ""), version_number(metadata.get("resourceVersion")))
    return (namespace, str(metadata["name"])), version
