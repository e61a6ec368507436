"""The IR as the API server holds it, and the one way to change an object of it: create, replace, delete, each checked.

    reflectors of AddressSets, CompiledPolicies --put, gone--> Store <--write, delete-- publisher
                                                                 '--foreign(path)--> publisher: somebody else changed this

Every write carries the resourceVersion that it replaces, so that two writers can never overwrite each other unseen.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netpol_api.address_set import SET_LABEL
from netpol_api.api_objects import version_number
from netpol_api.kinds import ADDRESS_SET
from netpol_api.spans import span_of
from netpol_compiler.policy import wire
from netpol_kube.client import ApiClient, ApiError, Json
from netpol_operator.serving.metrics import Metrics

log = logging.getLogger("npctl.publish")

PARALLEL = 16
"""Writes under way at once: enough to fill the API server's time, few enough to leave room for others."""
TRIES = 3


class NotLeading(Exception):
    """The lease was lost: whatever is still to be written is another replica's business."""


@dataclass(frozen=True, slots=True)
class There:
    """One IR object that the API server holds. `digest` covers all that we write but the span, and `needs`, which ages."""

    uid: str
    version: int
    digest: bytes
    span: frozenset[int]
    status: Json | None = None


class Store:
    """See the module's docstring. `slices`: set name -> paths of its slices that are there.

    `leading` is asked before each write; `on_foreign(path, object)` hears of others' changes (None: deleted).
    """

    def __init__(
        self, client: ApiClient, metrics: Metrics, leading: Callable[[], bool], on_foreign: Callable[[str, Json | None], None]
    ) -> None:
        self.there: dict[str, There] = {}
        self.slices: dict[str, set[str]] = {}
        self._client = client
        self._metrics = metrics
        self._leading = leading
        self._on_foreign = on_foreign
        self._flying: set[str] = set()
        self._slots = asyncio.Semaphore(PARALLEL)

    # -- what the watches tell -------------------------------------------------------------------------

    def seen(self, path: str, data: Json) -> None:
        """The watch tells of an object. What we are just writing is left to that write's own answer."""
        known = self.there.get(path)
        # Mostly an echo of our own writes: thousands after a start, so nothing is worked out of them.
        if path in self._flying or (known is not None and known.version >= _version(data) > 0):
            return
        new = _there(data)
        self._know(path, new)
        if known is None or (known.digest, known.span, known.uid) != (new.digest, new.span, new.uid):
            self._on_foreign(path, data)

    def lost(self, path: str) -> None:
        """The watch tells that an object is no more."""
        if path not in self._flying and path in self.there:
            self._know(path, None)
            self._on_foreign(path, None)

    def _know(self, path: str, now: There | None) -> None:
        """Note what is there; None: nothing any more."""
        if now is not None:
            self.there[path] = now
        else:
            self.there.pop(path, None)
        if not path.startswith(ADDRESS_SET.path()):
            return
        name = path.rpartition("/")[2].rpartition(".")[0]
        if now is not None:
            self.slices.setdefault(name, set()).add(path)
        elif name in self.slices:
            self.slices[name].discard(path)
            if not self.slices[name]:
                del self.slices[name]

    # -- writes ----------------------------------------------------------------------------------------

    async def write(self, path: str, body: Json) -> None:
        """Create or replace. Raises KubeError when it did not come to be, NotLeading."""
        async with self._slots:
            for attempt in range(TRIES):
                self._fence()
                self._flying.add(path)
                try:
                    await self._write(path, body)
                    return
                except ApiError as error:
                    if attempt == TRIES - 1 or not (error.is_conflict or error.already_exists or error.is_not_found):
                        raise
                    await self._refresh(path)
                finally:
                    self._flying.discard(path)

    async def _write(self, path: str, body: Json) -> None:
        known = self.there.get(path)
        kind = body["kind"]
        if known is None:
            data = await self._client.create(path.rpartition("/")[0], body)
            self._metrics.writes.labels(kind, "create").inc()
        else:
            metadata = {**body["metadata"], "resourceVersion": str(known.version), "uid": known.uid}
            data = await self._client.replace(path, {**body, "metadata": metadata})
            self._metrics.writes.labels(kind, "update").inc()
        self._know(path, _there(data))

    async def write_status(self, path: str, status: Json) -> None:
        """Merge into an object's status; one that is gone has none. Raises KubeError, NotLeading."""
        async with self._slots:
            self._fence()
            try:
                data = await self._client.patch(f"{path}/status", {"status": status})
            except ApiError as error:
                if error.is_not_found:
                    return
                raise
            known = self.there.get(path)
            if known is not None and _version(data) > known.version:
                self._know(path, _there(data))

    async def delete(self, path: str) -> None:
        """Delete the object that we know, not one of its name that came since. Raises KubeError, NotLeading."""
        async with self._slots:
            for attempt in range(TRIES):
                self._fence()
                known = self.there.get(path)
                if known is None:
                    return
                self._flying.add(path)
                try:
                    wanted = {"uid": known.uid, "resourceVersion": str(known.version)}
                    await self._client.delete(path, {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": wanted})
                    self._know(path, None)
                    self._metrics.writes.labels("AddressSet" if "addresssets" in path else "CompiledPolicy", "delete").inc()
                    return
                except ApiError as error:
                    if attempt == TRIES - 1 or not (error.status == 409 or error.is_not_found):
                        raise
                    await self._refresh(path)
                finally:
                    self._flying.discard(path)

    async def _refresh(self, path: str) -> None:
        """Look again: somebody else has written, made or deleted it."""
        try:
            self._know(path, _there(await self._client.get(path)))
        except ApiError as error:
            if not error.is_not_found:
                raise
            self._know(path, None)

    def _fence(self) -> None:
        if not self._leading():
            raise NotLeading


class IRSink:
    """A reflector's way into the store, for one of the two kinds."""

    def __init__(self, store: Store, path_of: Callable[[str, str], str]) -> None:
        self._store = store
        self._path_of = path_of

    def put(self, data: Json) -> None:
        metadata = data["metadata"]
        self._store.seen(self._path_of(str(metadata.get("namespace") or ""), str(metadata["name"])), data)

    def gone(self, namespace: str, name: str) -> None:
        self._store.lost(self._path_of(namespace, name))


def digest_of(body: Json) -> bytes:
    """16 bytes over all that readers of an IR object depend on: its spec without `needs`, and whose it is."""
    spec = body.get("spec")
    content = {k: v for k, v in spec.items() if k != "needs"} if isinstance(spec, dict) else spec
    metadata = body.get("metadata") or {}
    owners = [owner.get("uid") for owner in metadata.get("ownerReferences") or ()]
    label = (metadata.get("labels") or {}).get(SET_LABEL)
    try:
        counted = wire.to_bytes({"spec": content, "owners": owners, "set": label})
    except wire.WireError:
        return b""  # no form of ours: it is written anew
    return hashlib.blake2b(counted, digest_size=16).digest()


def _version(data: Json) -> int:
    return version_number((data.get("metadata") or {}).get("resourceVersion"))


def _there(data: Json) -> There:
    metadata: Any = data.get("metadata") or {}
    status = data.get("status")
    return There(
        str(metadata.get("uid") or ""),
        _version(data),
        digest_of(data),
        span_of(metadata.get("labels") or {}),
        status if isinstance(status, dict) else None,
    )
