"""The namespace controller: a namespace that is deleted loses what is in it, and then its finalizer.

In: names of namespaces that are being deleted. Out: requests that delete every namespaced object, of every kind that the API
server knows, and at last PUT .../finalize. Pods are deleted when their kubelet has ended them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_api.resources import NAMESPACES
from netpol_kube.backoff import Backoff
from netpol_kube.client import ApiClient, ApiError, KubeError

log = logging.getLogger("npctl.lab")

_FINALIZER = "kubernetes"
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.02, 1.0


@dataclass(frozen=True, slots=True)
class NamespacedKind:
    """One kind of namespaced objects. `collection`: they can be deleted all at once."""

    root: str
    plural: str
    collection: bool

    def path(self, namespace: str) -> str:
        return f"{self.root}/namespaces/{namespace}/{self.plural}"


class NamespaceController:
    """One task for each namespace that is being deleted. Lives in one event loop."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def set(self, terminating: Iterable[str]) -> None:
        """The namespaces that are being deleted now."""
        wanted = set(terminating)
        for uid in set(self._tasks) - wanted:
            self._tasks.pop(uid).cancel()
        for name in wanted - set(self._tasks):
            self._tasks[name] = asyncio.ensure_future(self._end(name))

    @property
    def open(self) -> tuple[str, ...]:
        """The namespaces that are not deleted yet."""
        return tuple(self._tasks)

    async def _end(self, namespace: str) -> None:
        """Try until it is deleted."""
        backoff, logged = Backoff(_RETRY_SECONDS, _LONGEST_RETRY_SECONDS), ""
        while True:
            try:
                if await self._emptied(namespace):
                    await self._finalize(namespace)
                    return
            except ApiError as error:
                if error.is_not_found:
                    return
                words = str(error)
                if not error.is_conflict and words != logged:
                    log.warning("namespace %s: %s", namespace, words)
                logged = words
            except (KubeError, KeyError) as error:
                if str(error) != logged:
                    log.warning("namespace %s: %s", namespace, error)
                logged = str(error)
            await asyncio.sleep(backoff.next_seconds())

    async def _emptied(self, namespace: str) -> bool:
        """Delete everything; whether nothing was left."""
        kinds = await self._kinds()
        left = await asyncio.gather(*(self._left(kind.path(namespace)) for kind in kinds))
        full = [kind for kind, names in zip(kinds, left, strict=True) if names]
        await asyncio.gather(*(self._delete(kind, namespace) for kind in full))
        return not full

    async def _left(self, path: str) -> bool:
        """Whether there is one."""
        try:
            async for page in self._client.pages(path, limit=1, metadata_only=True):
                return bool(page.items)
        except ApiError as error:
            if error.status not in (404, 405):  # a kind that is just being withdrawn
                raise
        return False

    async def _delete(self, kind: NamespacedKind, namespace: str) -> None:
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        path = kind.path(namespace)
        if kind.collection:
            await self._client.delete(path, options)
            return
        async for page in self._client.pages(path, metadata_only=True):
            for data in page.items:
                await self._client.delete(f"{path}/{data['metadata']['name']}", options)

    async def _finalize(self, namespace: str) -> None:
        data = await self._client.get(f"{NAMESPACES}/{namespace}")
        kept = [f for f in data["spec"].get("finalizers") or () if f != _FINALIZER]
        await self._client.replace(f"{NAMESPACES}/{namespace}/finalize", {**data, "spec": {**data["spec"], "finalizers": kept}})

    async def _kinds(self) -> list[NamespacedKind]:
        """All kinds of namespaced objects that can be listed and deleted."""
        groups = (await self._client.get("/apis"))["groups"]
        versions = ["/api/v1", *(f"/apis/{g['preferredVersion']['groupVersion']}" for g in groups)]
        lists = await asyncio.gather(*map(self._client.get, versions))
        return [kind for root, found in zip(versions, lists, strict=True) for kind in _deletable(root, found)]


def _deletable(root: str, found: Mapping[str, Any]) -> list[NamespacedKind]:
    """The kinds of one group's list that are deleted with a namespace."""
    return [
        NamespacedKind(root, r["name"], "deletecollection" in r["verbs"])
        for r in found.get("resources") or ()
        if r.get("namespaced") and "/" not in r["name"] and {"list", "delete"} <= set(r["verbs"])
    ]


__all__ = ["NamespaceController"]
