"""The one way to change an IR object: create, replace or delete, each checked by the API server.

    set and policy writers, status writer --write, delete, write_status--> CheckedRequests --> API server
                                                                                 '--record--> ObservedIR

Every request carries the resourceVersion that it replaces, so that two writers can never overwrite each other unseen. After a
conflict the object is read and the request sent again. Which objects to write, and when, is not decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from netpol_kube.client import ApiClient, ApiError, Json
from netpol_operator.publishing.observed import ObservedIR, item_of, kind_of, version_of
from netpol_operator.serving.metrics import OperatorMetrics

PARALLEL_WRITES = 16
"""Enough to fill the API server's time, few enough to leave room for others."""
CONFLICT_TRIES = 3
"""How often one write is sent before its conflict counts as a failure."""


class NotLeading(Exception):
    """The lease was lost: whatever is still to be written is left to another replica."""


class CheckedRequests:
    """See the module's docstring. `leading` is asked before each request."""

    def __init__(self, client: ApiClient, observed: ObservedIR, metrics: OperatorMetrics, leading: Callable[[], bool]) -> None:
        self._client = client
        self._observed = observed
        self._metrics = metrics
        self._leading = leading
        self._slots = asyncio.Semaphore(PARALLEL_WRITES)

    async def write(self, path: str, body: Json) -> None:
        """Create or replace. Raises KubeError, NotLeading."""
        async with self._slots:
            for attempt in range(CONFLICT_TRIES):
                self._check_lease()
                with self._observed.writing(path):
                    try:
                        await self._write(path, body)
                        return
                    except ApiError as error:
                        if attempt == CONFLICT_TRIES - 1 or not (error.status == 409 or error.is_not_found):
                            raise
                        await self._read(path)

    async def _write(self, path: str, body: Json) -> None:
        known = self._observed.objects.get(path)
        if known is None:
            data = await self._client.create(path.rpartition("/")[0], body)
        else:
            metadata = {**body["metadata"], "resourceVersion": str(known.version), "uid": known.uid}
            data = await self._client.replace(path, {**body, "metadata": metadata})
        self._metrics.writes.labels(body["kind"], "create" if known is None else "update").inc()
        self._observed.record(path, data)

    async def write_status(self, path: str, status: Json) -> None:
        """Merge into an object's status; a deleted object has none. Raises KubeError, NotLeading."""
        async with self._slots:
            self._check_lease()
            try:
                data = await self._client.patch(f"{path}/status", {"status": status})
            except ApiError as error:
                if error.is_not_found:
                    return
                raise
            known = self._observed.objects.get(path)
            if known is not None and version_of(data) > known.version:
                self._observed.record(path, data)

    async def delete(self, path: str) -> None:
        """Delete the object that we know, not a newer one of its name. Raises KubeError, NotLeading."""
        async with self._slots:
            for attempt in range(CONFLICT_TRIES):
                self._check_lease()
                known = self._observed.objects.get(path)
                if known is None:
                    return
                with self._observed.writing(path):
                    try:
                        same = {"uid": known.uid, "resourceVersion": str(known.version)}
                        await self._client.delete(path, {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": same})
                        self._observed.record(path, None)
                        self._metrics.writes.labels(kind_of(item_of(path)), "delete").inc()
                        return
                    except ApiError as error:
                        if attempt == CONFLICT_TRIES - 1 or not (error.status == 409 or error.is_not_found):
                            raise
                        await self._read(path)

    async def _read(self, path: str) -> None:
        """Read what somebody else has written or deleted meanwhile."""
        try:
            self._observed.record(path, await self._client.get(path))
        except ApiError as error:
            if not error.is_not_found:
                raise
            self._observed.record(path, None)

    def _check_lease(self) -> None:
        if not self._leading():
            raise NotLeading
