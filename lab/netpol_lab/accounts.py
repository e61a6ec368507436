"""What the controller-manager gives every namespace: the ServiceAccount `default`, and the API server's certificate authority.

The API server's admission gives a service account to every pod and refuses a pod whose account is missing; it is left on, so that
pods in the lab get their accounts and tokens as everywhere. It waits a second or two for an account that is about to be made.
"""

from __future__ import annotations

import asyncio
import contextlib

from netpol_kube.client import ApiClient, ApiError, Json, KubeError
from netpol_kube.reflector import Reflector
from netpol_kube.resources import NAMESPACES

_RETRY = 0.2


class Accounts:
    """Follows the namespaces; `run` ends only by being cancelled. Lives in one event loop."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._due: asyncio.Queue[str] = asyncio.Queue()

    def put(self, data: Json) -> None:
        if not data["metadata"].get("deletionTimestamp"):
            self._due.put_nowait(data["metadata"]["name"])

    def gone(self, namespace: str, name: str) -> None:
        """What was in it is gone with it."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Reflector(self._client, NAMESPACES, self, metadata_only=True).run())
            tasks.create_task(self._work())

    async def _work(self) -> None:
        while True:
            namespace = await self._due.get()
            try:
                await self.ensure(namespace)
            except KubeError:
                await asyncio.sleep(_RETRY)
                self._due.put_nowait(namespace)

    async def ensure(self, namespace: str) -> None:
        """Make what is missing. Raises KubeError; a namespace that is gone or ends needs nothing."""
        path = f"{NAMESPACES}/{namespace}"
        metadata = {"namespace": namespace}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**metadata, "name": "default"}}
        authority = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**metadata, "name": "kube-root-ca.crt"},
            "data": {"ca.crt": self._client.credentials.ca},
        }
        for plural, body in (("serviceaccounts", account), ("configmaps", authority)):
            with contextlib.suppress(_Needless):
                await self._create(f"{path}/{plural}", body)

    async def _create(self, path: str, body: Json) -> None:
        try:
            await self._client.create(path, body)
        except ApiError as error:
            if error.already_exists or error.is_not_found or error.status == 403:
                raise _Needless from error
            raise


class _Needless(Exception):
    """It is there already, or the namespace is not, or ends."""
