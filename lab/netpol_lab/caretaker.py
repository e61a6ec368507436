"""What the controller-manager does for namespaces: it gives each one its ServiceAccount, and empties those that are deleted.

    new       ServiceAccount `default` and the ConfigMap with the API server's certificate authority
    deleted   every object in it is deleted; when nothing is left, the namespace is let go

The API server's admission gives a service account to every pod and refuses a pod whose account is missing; it is left on, so that
pods in the lab get their accounts and tokens as everywhere. It waits a second or two for an account that is about to be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from netpol_kube.client import ApiClient, ApiError, Json, KubeError
from netpol_kube.reflector import Reflector
from netpol_kube.resources import NAMESPACES

log = logging.getLogger("npctl.lab")

_RETRY = 0.05


class Caretaker:
    """Follows the namespaces; `run` ends only by being cancelled. Lives in one event loop."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._due: asyncio.Queue[str] = asyncio.Queue()

    def put(self, data: Json) -> None:
        name = data["metadata"]["name"]
        if not data["metadata"].get("deletionTimestamp"):
            self._due.put_nowait(name)
        elif name not in self._ending:
            self._ending[name] = asyncio.create_task(self._end(name))

    def gone(self, namespace: str, name: str) -> None:
        """What was in it is gone with it."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Reflector(self._client, NAMESPACES, self, metadata_only=True).run())
            tasks.create_task(self._furnish_all())

    # New

    async def _furnish_all(self) -> None:
        while True:
            namespace = await self._due.get()
            try:
                await self._furnish(namespace)
            except KubeError as error:
                log.info("namespace %s: %s; trying again", namespace, error)
                await asyncio.sleep(_RETRY)
                self._due.put_nowait(namespace)

    async def _furnish(self, namespace: str) -> None:
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
                # It is there already, or the namespace is not, or ends.
                if not (error.already_exists or error.is_not_found or error.status == 403):
                    raise

    # Deleted

    async def _end(self, namespace: str) -> None:
        """Empty the namespace and let it go; tries until it is done."""
        try:
            while not await self._emptied(namespace):
                await asyncio.sleep(_RETRY)
        finally:
            del self._ending[namespace]

    async def _emptied(self, namespace: str) -> bool:
        path = f"{NAMESPACES}/{namespace}"
        try:
            left = False
            async for root, plural in self._kinds():
                left |= await self._empty(f"{root}/namespaces/{namespace}/{plural}")
            if left:
                return False
            data = await self._client.get(path)
            data["spec"] = {"finalizers": []}
            await self._client.replace(f"{path}/finalize", data)
        except ApiError as error:
            if error.is_not_found:
                return True
            log.info("namespace %s: %s; trying again", namespace, error)
            return False
        except KubeError as error:
            log.info("namespace %s: %s; trying again", namespace, error)
            return False
        return True

    async def _empty(self, path: str) -> bool:
        """Delete what is there; whether anything was."""
        names = [item["metadata"]["name"] async for page in self._client.pages(path, metadata_only=True) for item in page.items]
        if names:
            with contextlib.suppress(ApiError):  # forbidden for a kind that deletes itself, such as a pod's metrics
                await self._client.delete(path, {"propagationPolicy": "Background"})
        return bool(names)

    async def _kinds(self) -> AsyncIterator[tuple[str, str]]:
        """(root path, plural) of every kind in namespaces that can be listed and deleted, custom resources too."""
        roots = ["/api/v1"]
        roots += [f"/apis/{g['preferredVersion']['groupVersion']}" for g in (await self._client.get("/apis"))["groups"]]
        for root in roots:
            for item in (await self._client.get(root))["resources"]:
                if item["namespaced"] and "/" not in item["name"] and {"list", "deletecollection"} <= set(item["verbs"]):
                    yield root, item["name"]
