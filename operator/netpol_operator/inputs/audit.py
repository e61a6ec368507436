"""Whether the feed's cache is complete and current: a paged list of metadata against it, at the start, after gaps, and regularly.

kopf hands over what exists, never what was deleted while its watch was broken, and does not say when its first list is
through. So each kind counts as complete only when an independent list has nothing that was not handed over, and what an
audit finds missing, stale or left over is looked up by name and repaired. Each repair is counted and logged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from netpol_api import resources
from netpol_kube.client import ApiClient, ApiError, KubeError, checked_object
from netpol_kube.reflector import Identity, identities
from netpol_operator.inputs.feed import Feed
from netpol_operator.serving.metrics import OperatorMetrics

log = logging.getLogger("npctl.audit")

PERIOD_SECONDS = 180.0
GRACE_SECONDS = 1.0
"""A watch may be this much behind a list; what differs for longer is looked up."""
START_SECONDS = 0.3
STALLED_SECONDS, SHORT_STALLED_SECONDS = 10.0, 3.0
"""At the start, what is missing of a kind is looked up one by one when nothing of it was handed over for so long; the short time
holds for at most SHORT_STALLED_OBJECTS of them."""
SHORT_STALLED_OBJECTS = 50
MIN_INTERVAL_SECONDS = 2.0
"""Between audits, however many are asked for: a gap is seen by several watches."""
HANDED_OVER = ("NetworkPolicy", "Namespace")
"""What comes through kopf. Pods come through a reflector that lists anew by itself after a gap."""
LISTS = {"NetworkPolicy": resources.NETWORK_POLICIES, "Namespace": resources.NAMESPACES, "Pod": resources.PODS}


class Audit:
    """See the module's docstring. `complete` once every kind was wholly cached; `on_pass` is called after each audit."""

    def __init__(self, client: ApiClient, feed: Feed, metrics: OperatorMetrics, on_pass: Callable[[bool], None]) -> None:
        self.complete = False
        self._client = client
        self._feed = feed
        self._metrics = metrics
        self._on_pass = on_pass
        self._wanted = asyncio.Event()

    def request(self) -> None:
        """Audit soon: events may have been missed."""
        self._wanted.set()

    async def run(self) -> None:
        """Audit until cancelled; an API server that does not answer is asked again."""
        while True:
            try:
                await self._start()
                break
            except KubeError as error:
                log.warning("first audit: %s", error)
                await asyncio.sleep(1)
        self._on_pass(False)
        while True:
            regular = False
            try:
                await asyncio.wait_for(self._wanted.wait(), PERIOD_SECONDS * random.uniform(0.8, 1.2))
            except TimeoutError:
                regular = True
            self._wanted.clear()
            try:
                for kind in LISTS if regular else HANDED_OVER:
                    await self._audit(kind)
                self._on_pass(regular)
                await asyncio.sleep(MIN_INTERVAL_SECONDS)
            except KubeError as error:
                log.warning("audit: %s", error)
                await asyncio.sleep(GRACE_SECONDS)
                self._wanted.set()

    async def _start(self) -> None:
        """Wait until no list has anything that was not handed over."""
        for kind in HANDED_OVER:
            cached = self._feed.cached[kind]
            missing, waited = await self._missing(kind), 0.0
            while missing:
                await asyncio.sleep(START_SECONDS)
                # Only what is missing counts: what comes and goes all the while must not keep the start waiting.
                left = missing - cached.keys()
                waited = 0.0 if left != missing else waited + START_SECONDS
                missing = left
                if waited >= (SHORT_STALLED_SECONDS if len(missing) <= SHORT_STALLED_OBJECTS else STALLED_SECONDS):
                    # Not handed over, or deleted meanwhile: this finds out which.
                    await self._look_up(kind, missing)
                    missing, waited = await self._missing(kind), 0.0
        self.complete = True

    async def _missing(self, kind: str) -> set[Identity]:
        """What there is now of a kind and was not handed over."""
        there = await identities(self._client, LISTS[kind])
        return set(there) - self._feed.cached[kind].keys()

    async def _audit(self, kind: str) -> None:
        there = await identities(self._client, LISTS[kind])
        cached = self._feed.cached[kind]
        suspects = {identity for identity in cached if identity not in there}
        newest = {identity: resources.version_number(version) for identity, (_, version) in there.items()}
        suspects |= {i for i, version in newest.items() if i not in cached or cached[i].version < version}
        if not suspects:
            return
        before = {identity: cached.get(identity) for identity in suspects}
        await asyncio.sleep(GRACE_SECONDS)
        await self._look_up(kind, {i for i, was in before.items() if cached.get(i) == was})

    async def _look_up(self, kind: str, suspects: set[Identity]) -> None:
        for identity in sorted(suspects):
            repaired = await self._repair(kind, identity)
            if repaired:
                self._metrics.repairs.labels(kind).inc()
                log.warning("%s %s: %s without an event of the watch; repaired", kind, "/".join(filter(None, identity)), repaired)

    async def _repair(self, kind: str, identity: Identity) -> str:
        namespace, name = identity
        base, _, plural = LISTS[kind].rpartition("/")
        path = f"{base}/namespaces/{namespace}/{plural}/{name}" if namespace else f"{base}/{plural}/{name}"
        try:
            data = checked_object(path, await self._client.get(path))
        except ApiError as error:
            if not error.is_not_found:
                raise
            return "deleted" if self._feed.on_delete(kind, namespace, name) else ""
        return "changed" if self._feed.on_update(kind, data) else ""
