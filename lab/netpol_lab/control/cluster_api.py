"""The lab's four verbs on a real API server: apply, delete, label, get. Objects are plain JSON; nothing is cached but discovery.

In: objects of any kind that the server knows, custom resources too. Out: what became of each, or a LabError that names the object
and gives the server's own words. Applying is server-side apply under one field manager, as `kubectl apply --server-side` does it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from netpol_kube.client import ApiClient
from netpol_kube.errors import ApiError, KubeError
from netpol_lab.errors import LabError, LabTimeout

MANAGER = "npctl-lab"
Object = Mapping[str, Any]
_FIRST = ("CustomResourceDefinition", "Namespace", "PriorityClass", "ServiceAccount", "ConfigMap", "Secret", "Node")
_POLL = 0.05
GET_KINDS = {
    "Node": "v1",
    "Namespace": "v1",
    "Pod": "v1",
    "Service": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Deployment": "apps/v1",
    "ReplicaSet": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "Job": "batch/v1",
}
"""What `get` without a kind lists: the kinds that a lab without an API server holds."""


class Resource(NamedTuple):
    """Where objects of one kind are: `root` is /api/v1 or /apis/GROUP/VERSION."""

    root: str
    plural: str
    namespaced: bool

    def path(self, namespace: str = "", name: str = "") -> str:
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.root}{place}/{self.plural}{f'/{name}' if name else ''}"


class ClusterApi:
    """One API server, through `client`."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self._known: dict[tuple[str, str], Resource] = {}

    async def resource(self, api_version: str, kind: str) -> Resource:
        """Where objects of a kind are. Raises LabError for one that the server does not know."""
        found = self._known.get((api_version, kind))
        if found is None:
            root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
            listing = await self.client.find(root) or {}
            for item in listing.get("resources") or ():
                if "/" not in item["name"]:
                    self._known[api_version, item["kind"]] = Resource(root, item["name"], bool(item["namespaced"]))
            found = self._known.get((api_version, kind))
        if found is None:
            raise LabError(f"the API server knows no {kind} of {api_version}")
        return found

    async def apply(self, objects: Iterable[Object], manager: str = MANAGER) -> list[dict[str, str]]:
        """Create or change objects, those that others need first; namespaces that are only mentioned are made.

        The first one that the server refuses ends it: LabError names it; those before it stay.
        """
        actions = []
        for data in sorted(objects, key=_order):
            resource, namespace, name = await self._identity(data)
            if namespace:
                await self._ensure_namespace(namespace)
            actions.append(await self._apply(resource, namespace, name, data, manager))
        return actions

    async def _apply(self, resource: Resource, namespace: str, name: str, data: Object, manager: str) -> dict[str, str]:
        path = resource.path(namespace, name)
        before = await self.client.find(path)
        body = _without_status(data)
        try:
            after = await self.client.patch(path, body, "apply", fieldManager=manager, force="true")
            if resource.plural == "nodes" and (data.get("status") or {}).get("addresses"):
                # Its own subresource: what stands under `status` in the object itself is passed over.
                status = {"status": {"addresses": data["status"]["addresses"]}}
                after = await self.client.patch(f"{path}/status", status, "merge")
        except ApiError as error:
            raise refused(data["kind"], namespace, name, error) from error
        action = "created" if before is None else "unchanged" if _version(before) == _version(after) else "configured"
        return _action(data["kind"], namespace, name, action)

    async def _ensure_namespace(self, name: str) -> None:
        resource = await self.resource("v1", "Namespace")
        if await self.client.find(resource.path(name=name)) is None:
            try:
                await self.client.create(resource.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            except ApiError as error:
                if not error.already_exists:
                    raise refused("Namespace", "", name, error) from error

    async def delete(self, objects: Iterable[Object], limit: float) -> list[dict[str, str]]:
        """Delete objects and wait until they are gone, as kubectl does. Raises LabTimeout after `limit` seconds."""
        actions, waiting = [], []
        for data in objects:
            resource, namespace, name = await self._identity(data)
            path = resource.path(namespace, name)
            try:
                before = await self.client.get(path)
                # The usual 30 s are for programs that need them to end; those of a lab's pods do not.
                options = {"gracePeriodSeconds": 1} if data["kind"] == "Pod" else {}
                await self.client.delete(path, {"propagationPolicy": "Background", **options})
            except ApiError as error:
                if not error.is_not_found:
                    raise refused(data["kind"], namespace, name, error) from error
                actions.append(_action(data["kind"], namespace, name, "missing"))
                continue
            waiting.append((path, before["metadata"]["uid"]))
            actions.append(_action(data["kind"], namespace, name, "deleted"))
        await self._gone(waiting, limit)
        return actions

    async def _gone(self, waiting: list[tuple[str, str]], limit: float) -> None:
        deadline = time.monotonic() + limit
        for path, uid in waiting:
            while (found := await self.client.find(path)) is not None and found["metadata"]["uid"] == uid:
                if time.monotonic() > deadline:
                    raise LabTimeout(f"{path.rpartition('/')[2]} is deleted, but not gone within {limit:g} s: {path}")
                await asyncio.sleep(_POLL)

    async def label(self, kind: str, namespace: str, name: str, labels: Mapping[str, str | None]) -> dict[str, Any]:
        """Set labels (None removes one); returns the object. Raises LabError for one that is not there."""
        resource = await self.resource(GET_KINDS[kind], kind)
        path = resource.path(namespace, name)
        try:
            changed = await self.client.patch(path, {"metadata": {"labels": dict(labels)}}, "strategic", fieldManager=MANAGER)
        except ApiError as error:
            if error.is_not_found:
                raise LabError(f"no {kind} {namespace + '/' if namespace else ''}{name} in the lab") from error
            raise refused(kind, namespace, name, error) from error
        return changed

    async def get(self, kind: str | None, namespace: str | None, name: str | None) -> list[dict[str, Any]]:
        """Objects, sorted by kind, namespace and name; None does not restrict."""
        kinds = [kind] if kind else list(GET_KINDS)
        found = [o for k in kinds for o in await self.list(GET_KINDS.get(k, "v1"), k)]
        wanted = [
            o for o in found
            if (namespace is None or o["metadata"].get("namespace", "") == namespace) and name in (None, o["metadata"]["name"])
        ]  # fmt: skip
        return sorted(wanted, key=lambda o: (o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]))

    async def list(self, api_version: str, kind: str) -> list[dict[str, Any]]:
        """All objects of one kind, each with its kind and apiVersion, which a list of the server leaves out."""
        resource = await self.resource(api_version, kind)
        return [{"apiVersion": api_version, "kind": kind, **item} for item in await self.client.listed(resource.path())]

    async def _identity(self, data: Object) -> tuple[Resource, str, str]:
        metadata = data.get("metadata") or {}
        kind, name, api_version = (
            data.get("kind"),
            metadata.get("name"),
            data.get("apiVersion") or GET_KINDS.get(str(data.get("kind"))),
        )
        if not isinstance(kind, str) or not isinstance(name, str) or not isinstance(api_version, str):
            raise LabError("an object needs apiVersion, kind and metadata.name")
        resource = await self.resource(api_version, kind)
        return resource, str(metadata.get("namespace") or "default") if resource.namespaced else "", name


def refused(kind: str, namespace: str, name: str, error: KubeError) -> LabError:
    """The server's words behind the object's name."""
    words = error.message if isinstance(error, ApiError) else str(error)
    return LabError(f"{kind} {namespace + '/' if namespace else ''}{name}: the API server says: {words}")


def _order(data: Object) -> int:
    kind = data.get("kind")
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)


def _action(kind: str, namespace: str, name: str, action: str) -> dict[str, str]:
    return {"kind": kind, "namespace": namespace, "name": name, "action": action}


def _version(data: Object) -> str:
    return str(data["metadata"]["resourceVersion"])


def _without_status(data: Object) -> dict[str, Any]:
    """What may be applied: an exported object's marks of its server are refused or meaningless here."""
    metadata = {k: v for k, v in data["metadata"].items() if k not in _SERVERS_OWN}
    return {**{k: v for k, v in data.items() if k != "status"}, "metadata": metadata}


_SERVERS_OWN = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink", "deletionTimestamp")
