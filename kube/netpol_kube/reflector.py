"""One kind of objects, kept up to date: a paged list, then a watch, and again from where it broke.

    API server --list (pages)--> put, gone --watch--> put, gone --410 or garbage--> list again

A fresh list after a gap is turned into additions, changes and deletions against what was told before. What a list lacks counts
as deleted only when a second list lacks it too: a partial or empty answer must not take policies or addresses away.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Protocol

from netpol_kube.backoff import Backoff
from netpol_kube.client import ApiClient, ApiError, Json, KubeError, ProtocolError

log = logging.getLogger("npctl.watch")

Identity = tuple[str, str]
"""Namespace (empty for kinds of the whole cluster) and name."""

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.1, 2.0
"""Between tries while the API server does not answer: the first wait and the longest."""
CONFIRM_SECONDS = 0.5


class Sink(Protocol):
    """Who is told. Called in the loop's thread; must not block."""

    def put(self, data: Json) -> None:
        """An object that is new or has changed."""
        ...

    def gone(self, namespace: str, name: str) -> None:
        """An object that was told of and is no more."""
        ...


class Reflector:
    """Follows `path` and tells `sink`. `params` may hold labelSelector and fieldSelector.

    `synced`: whether all there is was told once. `gaps`: how often events may have been missed, so that a list was needed.
    `on_listed` is called after each whole list, when `held` is what there was at its moment. `gives_up` says which failures
    of the first list end `run`, which raises them then; without it none does.
    """

    def __init__(
        self,
        client: ApiClient,
        path: str,
        sink: Sink,
        params: dict[str, str] | None = None,
        *,
        page: int = 500,
        on_gap: Callable[[], None] | None = None,
        on_listed: Callable[[], None] | None = None,
        metadata_only: bool = False,
        gives_up: Callable[[KubeError], bool] | None = None,
    ) -> None:
        self.path = path
        self.synced = False
        self.gaps = 0
        self.failures = 0
        self.resource_version = ""
        self.problem = ""
        self._client = client
        self._sink = sink
        self._params: dict[str, Any] = dict(params or {})
        self._page = page
        self._on_gap = on_gap
        self._on_listed = on_listed
        self._metadata_only = metadata_only
        self._gives_up = gives_up
        self._held: dict[Identity, str] = {}
        self._backoff = Backoff(RETRY_SECONDS, LONGEST_RETRY_SECONDS, jitter=0.5)

    @property
    def held(self) -> dict[Identity, str]:
        """What was told and not taken back: identity -> resourceVersion."""
        return self._held

    async def run(self) -> None:
        """Follow until cancelled. Errors are logged once each, counted, and tried again. Raises what `gives_up` says."""
        while True:
            try:
                if not self.resource_version:
                    await self._list()
                await self._watch()
                # The server ended the watch, as it does every few minutes, or because it is stopping.
                await asyncio.sleep(random.uniform(0, RETRY_SECONDS))
            except ApiError as error:
                if error.is_gone:
                    self._lost(f"{self.path}: events were missed ({error.message}); listing again")
                    continue
                await self._pause(error, error.retry_after)
            except ProtocolError as error:
                self.resource_version = ""
                await self._pause(error)
            except KubeError as error:
                await self._pause(error)

    def _lost(self, words: str) -> None:
        self.resource_version = ""
        if self.synced:
            self.gaps += 1
            log.warning("%s", words)
            if self._on_gap is not None:
                self._on_gap()

    async def _pause(self, error: KubeError, at_least: float = 0.0) -> None:
        if self._gives_up is not None and not self.synced and self._gives_up(error):
            raise error
        self.failures += 1
        words = str(error)
        if words != self.problem:
            log.warning("%s", words)
        self.problem = words
        await asyncio.sleep(self._backoff.next_seconds(at_least))

    def _well(self) -> None:
        if self.problem:
            log.info("%s: the API server answers again", self.path)
        self.problem = ""
        self._backoff.reset()

    async def _list(self) -> None:
        seen: set[Identity] = set()
        version = ""
        async for page in self._client.pages(self.path, limit=self._page, metadata_only=self._metadata_only, **self._params):
            version = page.resource_version
            for data in page.items:
                seen.add(self._tell(data))
            # One page's objects are freed, and others in this loop get their turn, before the next is read.
            page.items.clear()
            await asyncio.sleep(0)
        if not version:
            raise ProtocolError(f"{self.path}: a list without a resourceVersion")
        missing = set(self._held) - seen
        if missing:
            missing = await self._confirmed(missing)
        for identity in missing:
            self._forget(identity)
        self.resource_version = version
        self._well()
        self.synced = True
        if self._on_listed is not None:
            self._on_listed()

    async def _confirmed(self, missing: set[Identity]) -> set[Identity]:
        """Those that a second list lacks too. What is there again comes with the watch, which starts at the first list."""
        await asyncio.sleep(CONFIRM_SECONDS)
        there: set[Identity] = set()
        async for page in self._client.pages(self.path, limit=self._page, metadata_only=True, **self._params):
            there.update(identity_of(data) for data in page.items)
        back = missing & there
        if back:
            log.warning(
                "%s: %d objects were missing from one list and are there in the next; nothing is removed", self.path, len(back)
            )
        return missing - back

    async def _watch(self) -> None:
        async for kind, data in self._client.watch(self.path, self.resource_version, self._metadata_only, **self._params):
            version = data["metadata"].get("resourceVersion")
            if not isinstance(version, str):
                raise ProtocolError(f"watch {self.path}: an event without a resourceVersion")
            if kind in ("ADDED", "MODIFIED"):
                self._tell(data)
            elif kind == "DELETED":
                self._forget(identity_of(data))
            elif kind != "BOOKMARK":
                raise ProtocolError(f"watch {self.path}: an event of type {kind!r}")
            self.resource_version = version
            self._well()

    def _tell(self, data: Json) -> Identity:
        identity = identity_of(data)
        version = str(data["metadata"].get("resourceVersion") or "")
        if self._held.get(identity) != version or not version:
            self._held[identity] = version
            self._sink.put(data)
        return identity

    def _forget(self, identity: Identity) -> None:
        if self._held.pop(identity, None) is not None:
            self._sink.gone(*identity)


def identity_of(data: Json) -> Identity:
    """Namespace and name of an object that a list or a watch brought."""
    metadata = data["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


async def identities(client: ApiClient, path: str, **params: Any) -> dict[Identity, tuple[str, str]]:
    """Every object's (uid, resourceVersion) now, by a paged list of metadata alone: what an audit compares with."""
    found: dict[Identity, tuple[str, str]] = {}
    async for page in client.pages(path, metadata_only=True, **params):
        for data in page.items:
            metadata = data["metadata"]
            found[identity_of(data)] = (str(metadata.get("uid") or ""), str(metadata.get("resourceVersion") or ""))
    return found
