"""The kubelets, the scheduler and the controllers of a lab on a real API server.

    Informers ──▶ planner (pure) ──▶ DesiredState ──▶ PodNetworks ──▶ ProgramController
        │                                  └──────────────┬───────────────┘
        │                                                 ▼
        └──▶ NamespaceController      request_all ──▶ RequestQueue: create, bind, delete, remove, statuses, Events

One step at a time: what arrives during a step is the next one. A pod has its network before anybody hears of it, and loses it
before the API server deletes it. Everything lives in one event loop, but the building of networks, which runs in a thread. What
the API server refuses or the network cannot be is reported on the object that it is about, and tried again; nothing ends `run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from netpol_compiler.model.addresses import Address, parse_address
from netpol_kube.client import ApiClient, KubeError
from netpol_lab.errors import LabTimeout
from netpol_lab.kubelet.desired_state import DesiredState, PlanContext
from netpol_lab.kubelet.informer_cache import RETRY_SECONDS, Informers, Listing
from netpol_lab.kubelet.namespace_controller import NamespaceController
from netpol_lab.kubelet.planner import desired_state
from netpol_lab.kubelet.pod_networks import PodNetworks
from netpol_lab.kubelet.pod_programs import PodPrograms, ProgramController
from netpol_lab.kubelet.work_queue import RequestQueue
from netpol_lab.kubelet.writes import WritePass, request_all
from netpol_lab.network.netns import Namespaces
from netpol_lab.offline.objects import LabState
from netpol_lab.processes import Processes
from netpol_lab.topology.model import Families

log = logging.getLogger("npctl.lab")

BURST_REQUESTS, BURST_SECONDS = 8, 0.05
"""While so many requests are under way, a step waits so long: what comes of them in the next moment is one step, not one each."""
SETTLED_POLL_SECONDS = 0.05


class Steps:
    """When the next step is due: `stale` says that the desired state may have changed, else only writes are missing."""

    def __init__(self) -> None:
        self.stale = True
        self.busy = False
        self._wake = asyncio.Event()
        self._done = asyncio.Event()

    def request(self, plan: bool = False) -> None:
        """Something has changed; `plan`: also what the desired state is made from."""
        self.stale = self.stale or plan
        self._wake.set()

    @property
    def pending(self) -> bool:
        """Whether a step is under way or due."""
        return self.busy or self.stale or self._wake.is_set()

    async def next(self) -> None:
        """Wait until a step is due."""
        await self._wake.wait()

    def begin(self) -> None:
        self._wake.clear()
        self.busy = True

    def end(self) -> None:
        self.busy = False
        self._done.set()

    def expect(self) -> None:
        """From now on the end of a step counts for `wait_for_one`."""
        self._done.clear()

    async def wait_for_one(self, seconds: float) -> None:
        """Wait until a step has ended since `expect`, for so long at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), seconds)


class Kubelets:
    """All nodes' of one lab. `real` makes a state's network real; it is called from a thread, one call at a time."""

    def __init__(
        self, client: ApiClient, spaces: Namespaces, real: Callable[[LabState], None], families: Families, processes: Processes
    ) -> None:
        self._client = client
        self._families = families
        self._desired = DesiredState()
        self._steps = Steps()
        self._informers = Informers(client, self._steps.request)
        self._networks = PodNetworks(real, self._replan)
        self._programs = ProgramController(
            PodPrograms(client, spaces, processes, self._replan), self._informers.cache, client.credentials.server
        )
        self._queue = RequestQueue(self._steps.request)
        self._namespaces = NamespaceController(client)

    def _replan(self) -> None:
        self._steps.request(plan=True)

    async def run(self) -> None:
        """Do it until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informers.run())
            tasks.create_task(self._run_steps())

    async def _run_steps(self) -> None:
        while True:
            await self._steps.next()
            if self._queue.under_way >= BURST_REQUESTS:
                await asyncio.sleep(BURST_SECONDS)
            self._steps.begin()
            try:
                if self._informers.synced:
                    await self._step()
            except Exception:  # one step's fault must not end the lab; the next one starts from the objects again
                log.exception("a step of the lab's kubelets failed; trying again")
                self._steps.stale = True
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._steps.request)
            self._steps.end()

    async def _step(self) -> None:
        if self._steps.stale:
            self._steps.stale = False
            context = PlanContext(self._families, self._programs.alive, self._networks.refused, self._api_address())
            desired = desired_state(self._informers.cache.objects(), self._desired, context)
            self._programs.end_deleted(desired)
            self._desired = await self._networks.make(desired, self._desired.running)
            self._programs.start(self._desired)
        self._write()

    def _api_address(self) -> tuple[Address, int]:
        parts = urlsplit(self._client.credentials.server)
        return parse_address(parts.hostname or ""), parts.port or 443

    def _write(self) -> None:
        """Request what is still to be written."""
        now, cache = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), self._informers.cache
        self._queue.begin()
        request_all(WritePass(self._client, self._queue, cache, self._desired, self._programs.status_of, now))
        self._queue.end()
        self._namespaces.set(n for n, d in cache.namespaces.items() if d["metadata"].get("deletionTimestamp"))

    @property
    def problems(self) -> tuple[str, ...]:
        """What the lab cannot do, of which object."""
        return tuple(map(str, self._desired.problems))

    async def settled(self, limit: float) -> None:
        """Return when all that the API server holds now is as it says: pods built, their statuses written.

        Raises LabTimeout after `limit` seconds, with what is missing.
        """
        deadline = time.monotonic() + limit
        listing: Listing = {}
        while True:
            self._steps.expect()
            lag = "the API server's objects are not read yet"
            try:
                if self._informers.synced:
                    listing = listing or await self._informers.listing()
                    lag = self._lag(listing)
            except KubeError as error:
                lag = f"the API server: {error}"
            if not lag:
                return
            if time.monotonic() > deadline:
                raise LabTimeout(f"the lab's pods are not as the API server says within {limit:g} s: {lag}")
            await self._steps.wait_for_one(SETTLED_POLL_SECONDS)

    def _lag(self, listing: Listing) -> str:
        """What is not done yet; empty when all is."""
        if late := self._informers.lag(listing):
            return late
        return "a change is being made" if self._steps.pending else ", ".join(self._queue.open)


__all__ = ["Kubelets"]
