"""Two controllers of the controller-manager: every namespace gets its ServiceAccount, and what lost its owner is deleted.

    new Namespace ──ServiceAccountController──▶ ServiceAccount `default`, and the ConfigMap with the API server's authority
    deleted Node, NetworkPolicy ──GarbageCollector──▶ deletes the NodeReport, the CompiledPolicy that it owns

The API server's admission gives a service account to every pod and refuses a pod whose account is missing; it is left on, so that
pods in the lab get their accounts and tokens as everywhere. It waits a second or two for an account that is about to be made.
The garbage collector knows npctl's own kinds only: pods are deleted with their workloads by `kubelets`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from netpol_api.resources import COMPILED_POLICIES, NAMESPACES, NETWORK_POLICIES, NODE_REPORTS, NODES
from netpol_kube.client import ApiClient, ApiError, Json, KubeError
from netpol_kube.reflector import Reflector

log = logging.getLogger("npctl.lab")

_RETRY_SECONDS = 0.2


class ServiceAccountController:
    """Follows the namespaces; `run` ends only by being cancelled. Lives in one event loop."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._due: asyncio.Queue[str] = asyncio.Queue()

    def put(self, data: Json) -> None:
        if not data["metadata"].get("deletionTimestamp"):
            self._due.put_nowait(data["metadata"]["name"])

    def gone(self, namespace: str, name: str) -> None:
        """What was in it is deleted with it."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Reflector(self._client, NAMESPACES, self, metadata_only=True).run())
            tasks.create_task(self._create_all())

    async def _create_all(self) -> None:
        while True:
            namespace = await self._due.get()
            try:
                await self._create_in(namespace)
            except KubeError as error:
                log.info("namespace %s: %s; trying again", namespace, error)
                await asyncio.sleep(_RETRY_SECONDS)
                self._due.put_nowait(namespace)

    async def _create_in(self, namespace: str) -> None:
        path = f"{NAMESPACES}/{namespace}"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        authority = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kube-root-ca.crt"},
            "data": {"ca.crt": self._client.credentials.ca},
        }
        for plural, body in (("serviceaccounts", account), ("configmaps", authority)):
            try:
                await self._client.create(f"{path}/{plural}", body)
            except ApiError as error:
                # It is there already; or the namespace is not, or is being deleted.
                if not (error.already_exists or error.is_not_found or error.status == 403):
                    raise


@dataclass(eq=False, slots=True)
class _MetadataSink:
    """Identities with their metadata; `changed` after each change."""

    changed: Callable[[], None]
    known: dict[tuple[str, str], Json]

    def put(self, data: Json) -> None:
        metadata = data["metadata"]
        self.known[metadata.get("namespace") or "", metadata["name"]] = metadata
        self.changed()

    def gone(self, namespace: str, name: str) -> None:
        self.known.pop((namespace, name), None)
        self.changed()


class GarbageCollector:
    """Deletes what lost its owner; `run` ends only by being cancelled. Lives in one event loop."""

    OWNED_BY = ((NODE_REPORTS, NODES), (COMPILED_POLICIES, NETWORK_POLICIES))

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._due = asyncio.Event()
        self._sinks = {path: _MetadataSink(self._due.set, {}) for pair in self.OWNED_BY for path in pair}
        self._reflectors = {p: Reflector(client, p, sink, metadata_only=True) for p, sink in self._sinks.items()}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors.values():
                tasks.create_task(reflector.run())
            tasks.create_task(self._collect())

    async def _collect(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                for owned, owners in self.OWNED_BY:
                    if self._reflectors[owners].synced:
                        await self._collect_kind(owned, owners)
            except KubeError as error:
                log.info("garbage: %s; trying again", error)
                await asyncio.sleep(_RETRY_SECONDS)
                self._due.set()

    async def _collect_kind(self, owned: str, owners: str) -> None:
        there = {m["uid"] for m in self._sinks[owners].known.values()}
        for (namespace, name), metadata in list(self._sinks[owned].known.items()):
            references = metadata.get("ownerReferences") or ()
            if references and not there & {r["uid"] for r in references} and await self._is_orphan(owners, namespace, references):
                options = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
                with contextlib.suppress(ApiError):  # deleted already, or another of its name
                    await self._client.delete(_path(owned, namespace, name), options)

    async def _is_orphan(self, owners: str, namespace: str, references: list[Json]) -> bool:
        """Asked of the API server itself, because the watch of the owners may be behind that of the owned."""
        for reference in references:
            try:
                owner = await self._client.get(_path(owners, namespace, reference["name"]))
            except ApiError as error:
                if not error.is_not_found:
                    raise
                continue
            if owner["metadata"]["uid"] == reference["uid"]:
                return False
        return True


def _path(kind: str, namespace: str, name: str) -> str:
    root, _, plural = kind.rpartition("/")
    return f"{root}{f'/namespaces/{namespace}' if namespace else ''}/{plural}/{name}"
