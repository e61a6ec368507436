"""The lab's cache of the API server's objects, and the informers that fill it: one reflector for each kind.

    API server ──▶ reflectors, nodes before pods ──on_update, on_delete──▶ InformerCache ──objects()──▶ planner
                                                                               └──▶ changed(plan), on_new_node(node)

All of it lives in one event loop's thread. A change says whether it can change the desired state, or only what is still to be
written. Pods of nodes that are not the lab's are cached as names: there may be thousands. No writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_api import resources
from netpol_compiler.model.objects import Key
from netpol_kube.client import ApiClient, KubeError
from netpol_kube.reflector import Identity, Reflector, identity_of
from netpol_lab.kubelet.desired_state import TERMINAL_PHASES, Json, ObservedObjects, is_elsewhere
from netpol_manifests.documents import USED_KINDS
from netpol_manifests.pod_templates import WORKLOADS
from netpol_manifests.world import ObjectId

log = logging.getLogger("npctl.lab")

RETRY_SECONDS = 0.5
"""Before what has failed unexpectedly is tried again."""
PATHS = {
    "Node": resources.NODES,
    "Namespace": resources.NAMESPACES,
    "Pod": resources.PODS,
    "Service": "/api/v1/services",
    "Deployment": "/apis/apps/v1/deployments",
    "ReplicaSet": "/apis/apps/v1/replicasets",
    "StatefulSet": "/apis/apps/v1/statefulsets",
    "DaemonSet": "/apis/apps/v1/daemonsets",
    "Job": "/apis/batch/v1/jobs",
}
"""The kinds that are followed, and where their lists are."""


Listing = Mapping[str, tuple[Mapping[Identity, str], str]]
"""Of each kind: the objects with their resourceVersions, and the list's own."""


@dataclass(frozen=True, slots=True)
class ForeignPod:
    """A pod of a node that the lab does not have."""

    uid: str
    node: str
    deleted: bool


class InformerCache:
    """The newest known state of every object, by kind. `deletions`: how often a pod of that name was deleted.

    `on_change(plan)` is called after each change, `plan`: whether the desired state may change; `on_new_node(node)`, when the lab
    has a node more.
    """

    def __init__(self, on_change: Callable[[bool], None], on_new_node: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._on_new_node = on_new_node
        self.nodes: dict[str, Json] = {}
        self.namespaces: dict[str, Json] = {}
        self.services: dict[Key, Json] = {}
        self.workloads: dict[ObjectId, Json] = {}
        self.pods: dict[Key, Json] = {}
        self.foreign_pods: dict[Key, ForeignPod] = {}
        self.deletions: Counter[Key] = Counter()

    def objects(self) -> ObservedObjects:
        """Everything of now. The containers are copies, so that a plan may be made while more arrives."""
        return ObservedObjects(
            dict(self.nodes), dict(self.namespaces), dict(self.services), dict(self.workloads), dict(self.pods),
            frozenset(self.foreign_pods),
        )  # fmt: skip

    def sink(self, kind: str) -> InformerSink:
        """What a reflector of `kind` notifies."""
        return InformerSink(self, kind)

    def on_update(self, kind: str, data: Json) -> None:
        """An object is new or has changed. What lists leave out of it is put back."""
        metadata = data["metadata"]
        metadata.pop("managedFields", None)
        data = {"apiVersion": USED_KINDS[kind], "kind": kind, **data}
        if kind == "Pod":
            self._update_pod(Key(metadata["namespace"], metadata["name"]), data)
            return
        cached, key = self._cached(kind, str(metadata.get("namespace") or ""), metadata["name"])
        before = cached.get(key)
        cached[key] = data
        if kind == "Node" and not is_elsewhere(data) and (before is None or is_elsewhere(before)):
            self._on_new_node(metadata["name"])
        self._on_change(_matters(before, data))

    def on_delete(self, kind: str, namespace: str, name: str) -> None:
        """An object was deleted."""
        cached, key = self._cached(kind, namespace, name)
        before = cached.pop(key, None)
        if kind == "Pod":
            self.foreign_pods.pop(key, None)
            if before is not None:
                self.deletions[key] += 1
        if before is not None:
            self._on_change(True)

    def _update_pod(self, key: Key, data: Json) -> None:
        before = self.pods.get(key)
        node = str((data.get("spec") or {}).get("nodeName") or "")
        # One that was the lab's stays cached after its node was deleted: somebody must remove it.
        if node and not self.is_own(node) and before is None:
            deleted = bool(data["metadata"].get("deletionTimestamp"))
            self.foreign_pods[key] = ForeignPod(data["metadata"]["uid"], node, deleted)
            if deleted:
                self._on_change(False)
            return
        self.foreign_pods.pop(key, None)
        self.pods[key] = data
        self._on_change(_matters(before, data))

    def is_own(self, node: str) -> bool:
        """Whether the lab has that node."""
        return node in self.nodes and not is_elsewhere(self.nodes[node])

    def _cached(self, kind: str, namespace: str, name: str) -> tuple[dict[Any, Json], Any]:
        if kind in WORKLOADS:
            return self.workloads, ObjectId(kind, namespace, name)
        if kind in ("Node", "Namespace"):
            return (self.nodes if kind == "Node" else self.namespaces), name
        return (self.pods if kind == "Pod" else self.services), Key(namespace, name)


@dataclass(frozen=True, slots=True)
class InformerSink:
    """What one kind's reflector notifies."""

    cache: InformerCache
    kind: str

    def put(self, data: Json) -> None:
        self.cache.on_update(self.kind, data)

    def gone(self, namespace: str, name: str) -> None:
        self.cache.on_delete(self.kind, namespace, name)


class Informers:
    """The reflectors of all kinds, and the cache that they fill. `synced`: everything was listed once.

    `on_change` is called as the cache calls it, and after each whole list.
    """

    def __init__(self, client: ApiClient, on_change: Callable[[bool], None]) -> None:
        self.synced = False
        self.cache = InformerCache(on_change, self._on_new_node)
        self._client = client
        self._listed = asyncio.Event()
        self._on_change = on_change
        self._reflectors = {
            kind: Reflector(client, path, self.cache.sink(kind), on_listed=self._on_listed) for kind, path in PATHS.items()
        }
        self._fetches: set[asyncio.Future[None]] = set()

    async def run(self) -> None:
        """Follow every kind until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            # Pods last: whether they are the lab's is known by their nodes.
            others = {kind: reflector for kind, reflector in self._reflectors.items() if kind != "Pod"}
            for kind, reflector in others.items():
                tasks.create_task(_forever(f"following {kind}s", reflector.run))
            await self._until_synced(*others)
            tasks.create_task(_forever("following Pods", self._reflectors["Pod"].run))
            await self._until_synced("Pod")
            self.synced = True
            self._on_change(True)

    async def _until_synced(self, *kinds: str) -> None:
        while not all(self._reflectors[kind].synced for kind in kinds):
            self._listed.clear()
            await self._listed.wait()

    def _on_listed(self) -> None:
        self._listed.set()
        self._on_change(False)

    # Pods that were foreign

    def _on_new_node(self, node: str) -> None:
        """Pods may have been waiting for this node, of which only the names are cached."""
        if any(pod.node == node for pod in self.cache.foreign_pods.values()):
            fetch = asyncio.ensure_future(self._fetch(node))
            self._fetches.add(fetch)
            fetch.add_done_callback(self._fetches.discard)

    async def _fetch(self, node: str) -> None:
        while True:
            try:
                async for page in self._client.pages(resources.PODS, fieldSelector=f"spec.nodeName={node}"):
                    for data in page.items:
                        if identity_of(data) in self.cache.foreign_pods:
                            self.cache.on_update("Pod", data)
                return
            except KubeError as error:
                log.warning("pods of node %s: %s", node, error)
                await asyncio.sleep(RETRY_SECONDS)

    # How far they are

    async def listing(self) -> Listing:
        """What the API server holds now. Raises KubeError."""
        return dict(zip(PATHS, await asyncio.gather(*map(self._listing_of, PATHS.values())), strict=True))

    async def _listing_of(self, path: str) -> tuple[dict[Identity, str], str]:
        found: dict[Identity, str] = {}
        version = ""
        async for page in self._client.pages(path, metadata_only=True):
            version = page.resource_version
            found.update({identity_of(d): str(d["metadata"]["resourceVersion"]) for d in page.items})
        return found, version

    def lag(self, listing: Listing) -> str:
        """What of a listing is not cached yet; empty when all is."""
        for kind, (listed, version) in listing.items():
            reflector = self._reflectors[kind]
            known, seen = reflector.held, int(reflector.resource_version or 0)
            late = [i for i, v in listed.items() if int(known.get(i) or seen) < int(v)]
            # What is known and was not listed: deleted, without an event so far; or newer than the list.
            late += [i for i, v in known.items() if i not in listed and int(v) <= int(version)]
            if late:
                return f"{kind} {'/'.join(late[0])} has changed, and the watch has not sent it yet"
        return "pods of a new node are being read" if self._fetches else ""


async def _forever(what: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception:  # a fault of ours in one kind must not stop the others
            log.exception("%s", what)
        await asyncio.sleep(RETRY_SECONDS)


def _matters(before: Json | None, after: Json) -> bool:
    """Whether more has changed than what the lab itself writes into statuses."""
    return before is None or _shown(before) != _shown(after)


def _shown(data: Json) -> tuple[object, ...]:
    status = data.get("status") or {}
    metadata = {k: v for k, v in data["metadata"].items() if k not in ("resourceVersion", "generation")}
    over = status.get("phase") in TERMINAL_PHASES and status["phase"]
    return metadata, data.get("spec"), over, status.get("addresses")


__all__ = ["PATHS", "RETRY_SECONDS", "ForeignPod", "InformerCache", "Informers", "Listing"]
