"""What the lab knows of the API server's objects: one sink for each kind, told by reflectors.

In: objects and removals, in one event loop's thread. Out: `Objects` for the plan, and a word whether what has changed can change
the plan, or only what is still to be written. Pods of nodes that are not the lab's are kept as names: there may be thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netpol_api import kinds
from netpol_api.api_objects import Json
from netpol_api.kinds import NAMESPACE, NODE, POD, SERVICE
from netpol_compiler.model.objects import TERMINAL_PHASES, Key
from netpol_lab.kubelet.planner import Objects, is_elsewhere
from netpol_manifests.pod_templates import WORKLOADS
from netpol_manifests.world import ObjectId

KINDS = {kind.kind: kind for kind in (NODE, NAMESPACE, POD, SERVICE, *kinds.WORKLOADS)}
"""The kinds that are followed."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """A pod of a node that the lab does not have."""

    uid: str
    node: str
    deleted: bool


class Cache:
    """`changed(plan)` is called after each change, `plan`: whether the plan may change; `arrived(node)`, when a node is new."""

    def __init__(self, changed: Callable[[bool], None], arrived: Callable[[str], None]) -> None:
        self._changed = changed
        self._arrived = arrived
        self.nodes: dict[str, Json] = {}
        self.namespaces: dict[str, Json] = {}
        self.services: dict[Key, Json] = {}
        self.workloads: dict[ObjectId, Json] = {}
        self.pods: dict[Key, Json] = {}
        self.strangers: dict[Key, Stranger] = {}
        self.deletions: Counter[Key] = Counter()

    def objects(self) -> Objects:
        """Everything of now. The containers are copies, so that a plan may be worked out while more is told."""
        return Objects(
            dict(self.nodes), dict(self.namespaces), dict(self.services), dict(self.workloads), dict(self.pods),
            frozenset(self.strangers),
        )  # fmt: skip

    def sink(self, kind: str) -> CacheSink:
        """Where a reflector of `kind` tells."""
        return CacheSink(self, kind)

    def put(self, kind: str, data: Json) -> None:
        """An object that is new or has changed. What lists leave out of it is put back."""
        metadata = data["metadata"]
        metadata.pop("managedFields", None)
        data = {"apiVersion": KINDS[kind].api_version, "kind": kind, **data}
        if kind == "Pod":
            self._put_pod(Key(metadata["namespace"], metadata["name"]), data)
            return
        held, key = self._held(kind, str(metadata.get("namespace") or ""), metadata["name"])
        before = held.get(key)
        held[key] = data
        if kind == "Node" and not is_elsewhere(data) and (before is None or is_elsewhere(before)):
            self._arrived(metadata["name"])
        self._changed(_matters(before, data))

    def gone(self, kind: str, namespace: str, name: str) -> None:
        held, key = self._held(kind, namespace, name)
        before = held.pop(key, None)
        if kind == "Pod":
            self.strangers.pop(key, None)
            if before is not None:
                self.deletions[key] += 1
        if before is not None:
            self._changed(True)

    def _put_pod(self, key: Key, data: Json) -> None:
        before = self.pods.get(key)
        node = str((data.get("spec") or {}).get("nodeName") or "")
        # One that was the lab's stays known after its node has gone: somebody must remove it.
        if node and not self.is_own(node) and before is None:
            deleted = bool(data["metadata"].get("deletionTimestamp"))
            self.strangers[key] = Stranger(data["metadata"]["uid"], node, deleted)
            if deleted:
                self._changed(False)
            return
        self.strangers.pop(key, None)
        self.pods[key] = data
        self._changed(_matters(before, data))

    def is_own(self, node: str) -> bool:
        """Whether the lab has that node."""
        return node in self.nodes and not is_elsewhere(self.nodes[node])

    def _held(self, kind: str, namespace: str, name: str) -> tuple[dict[Any, Json], Any]:
        if kind in WORKLOADS:
            return self.workloads, ObjectId(kind, namespace, name)
        if kind in ("Node", "Namespace"):
            return (self.nodes if kind == "Node" else self.namespaces), name
        return (self.pods if kind == "Pod" else self.services), Key(namespace, name)


@dataclass(frozen=True, slots=True)
class CacheSink:
    """One kind's."""

    cache: Cache
    kind: str

    def put(self, data: Json) -> None:
        self.cache.put(self.kind, data)

    def gone(self, namespace: str, name: str) -> None:
        self.cache.gone(self.kind, namespace, name)


def _matters(before: Json | None, after: Json) -> bool:
    """Whether more has changed than what the lab itself writes into statuses."""
    return before is None or _shown(before) != _shown(after)


def _shown(data: Json) -> tuple[object, ...]:
    status = data.get("status") or {}
    metadata = {k: v for k, v in data["metadata"].items() if k not in ("resourceVersion", "generation")}
    over = status.get("phase") in TERMINAL_PHASES and status["phase"]
    return metadata, data.get("spec"), over, status.get("addresses")


__all__ = ["KINDS", "Cache", "Stranger"]
