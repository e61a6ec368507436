"""One active operator among the replicas: a Lease, as kube-scheduler and kube-controller-manager elect theirs.

    standby --the lease is free, or its holder has not renewed it for LEASE_SECONDS--> leader --not renewed in time--> standby

kopf's own peering pauses the handlers of a standby, so that a take-over begins with listing everything, and says itself that two
operators may be active at once. With a Lease the standby keeps its state current, and every change of holder is a write with a
resourceVersion, which only one of two can make. A leader that cannot renew stops writing before anybody else may start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from netpol_api import times
from netpol_api.kinds import LEASE
from netpol_kube.client import ApiClient, ApiError, Json, KubeError

log = logging.getLogger("npctl.election")

LEASE_NAME = "npctl-operator"
LEASE_SECONDS = 10
"""Without a renewal for so long, another may take over."""
RENEW_SECONDS = 2.0
GIVE_UP_SECONDS = 7.0
"""A leader whose last renewal is older writes no more: well before LEASE_SECONDS, whatever the clocks' drift."""


class Election:
    """One candidate. `leading` is true only while the lease is certainly ours."""

    def __init__(self, client: ApiClient, namespace: str, identity: str, on_change: Callable[[bool], None]) -> None:
        self._client = client
        self._path = LEASE.path(namespace, LEASE_NAME)
        self._namespace = namespace
        self._identity = identity
        self._on_change = on_change
        self._renewed = float("-inf")
        self._seen: tuple[Any, ...] = ()
        self._seen_at = 0.0
        self._announced = False
        self._problem = ""

    @property
    def leading(self) -> bool:
        return time.monotonic() - self._renewed < GIVE_UP_SECONDS

    async def run(self) -> None:
        """Stand for election until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._try(), RENEW_SECONDS * 2)
                self._problem = ""
            except (KubeError, TimeoutError) as error:
                message = str(error) or "no answer in time"
                if message != self._problem:
                    log.warning("lease %s/%s: %s", self._namespace, LEASE_NAME, message)
                self._problem = message
            self._announce()
            await asyncio.sleep(RENEW_SECONDS if self.leading else RENEW_SECONDS / 2)
            self._announce()

    def _announce(self) -> None:
        if self.leading != self._announced:
            self._announced = self.leading
            log.info("%s %s", self._identity, "leads" if self._announced else "stands by")
            self._on_change(self._announced)

    async def _try(self) -> None:
        """Renew, take or leave the lease. Times are taken before the request: the lease may only be younger than we think."""
        begun = time.monotonic()
        try:
            lease = await self._client.get(self._path)
        except ApiError as error:
            if not error.is_not_found:
                raise
            await self._write(begun, None, 0)
            return
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        record = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._seen:
            # The other's clock does not count: an age is measured from when we saw the last change.
            self._seen, self._seen_at = record, time.monotonic()
        expired = time.monotonic() - self._seen_at > float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)
        if holder in ("", self._identity) or expired:
            await self._write(begun, lease, int(spec.get("leaseTransitions") or 0) + (holder != self._identity))

    async def _write(self, begun: float, lease: Json | None, transitions: int) -> None:
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "renewTime": times.now_micro(),
            "acquireTime": (lease or {}).get("spec", {}).get("acquireTime") if self.leading else None,
            "leaseTransitions": transitions,
        }
        spec["acquireTime"] = spec["acquireTime"] or spec["renewTime"]
        metadata = {"name": LEASE_NAME, "namespace": self._namespace, **({} if lease is None else lease["metadata"])}
        metadata.pop("managedFields", None)
        body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
        try:
            if lease is None:
                await self._client.create(LEASE.path(self._namespace), body)
            else:
                await self._client.replace(self._path, body)
        except ApiError as error:
            if error.status == 409:
                return  # another candidate was faster: it leads
            raise
        # A lapse that is over before anybody looked is announced all the same: what it stopped must begin again.
        self._announced = self._announced and self.leading
        self._renewed = begun

    async def release(self) -> None:
        """Give the lease back, so that the standby need not wait for it to expire. Best effort."""
        if not self.leading:
            return
        self._renewed = float("-inf")
        try:
            lease = await self._client.get(self._path)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._client.replace(self._path, lease)
        except KubeError as error:
            log.info("lease not given back: %s", error)
