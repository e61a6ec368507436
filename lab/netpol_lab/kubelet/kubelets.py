"""The kubelets, the scheduler and the controllers of a lab on a real API server.

    Reflectors ──▶ Cache ──▶ work_out (pure) ──▶ Plan ──▶ real (namespaces, cables, listeners) ──▶ PodPrograms
                                                    └──▶ Writes: create, bind, delete, remove, statuses, Events

One step at a time: what arrives during a step is the next one. A pod has its network before anybody hears of it, and loses it
before it is gone from the API server. Everything lives in one event loop, but `real`, which blocks and runs in a thread.
What the API server refuses or the network cannot be is told of the object that it is about, and tried again; nothing ends `run`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import urlsplit

from netpol_api import times
from netpol_api.kinds import POD
from netpol_compiler.model.addresses import Address, parse_address
from netpol_compiler.model.objects import Key
from netpol_kube.client import ApiClient, KubeError
from netpol_kube.reflector import Reflector, identity_of
from netpol_lab.errors import LabError, LabTimeout
from netpol_lab.kubelet.informer_cache import KINDS, Cache
from netpol_lab.kubelet.namespace_controller import NamespaceEnds
from netpol_lab.kubelet.planner import Around, Plan, work_out
from netpol_lab.kubelet.pod_container import program_container, read_program
from netpol_lab.kubelet.pod_programs import PodPrograms
from netpol_lab.kubelet.pod_status import Run
from netpol_lab.kubelet.work_queue import Writes
from netpol_lab.kubelet.writes import Wanted, ask_for
from netpol_lab.network.netns import Namespaces
from netpol_lab.offline.objects import State
from netpol_lab.processes import Processes
from netpol_lab.topology.model import Families, Topology

log = logging.getLogger("npctl.lab")

_RETRY = 0.5
_REFUSED_SECONDS = 5.0
"""So long a pod or node whose network could not be made is left out before it is tried again."""
_LOOK_AGAIN = 0.05
_MANY, _BURST_SECONDS = 8, 0.05


class Kubelets:
    """All nodes' of one lab. `real` makes a state's network real; it is called from a thread, one call at a time."""

    def __init__(
        self, client: ApiClient, spaces: Namespaces, real: Callable[[State], None], families: Families, processes: Processes
    ) -> None:
        self._client = client
        self._real = real
        self._families = families
        self._wake = asyncio.Event()
        self._stepped = asyncio.Event()
        self._stale = True
        self._busy = False
        self._started = False
        self._plan = Plan()
        self._built = Topology()
        self._refused: dict[str, str] = {}
        self._config_errors: dict[str, str] = {}
        self._cache = Cache(self._changed, self._arrived)
        self._reflectors = {
            name: Reflector(client, kind.path(), self._cache.sink(name), on_listed=self._wake.set) for name, kind in KINDS.items()
        }
        self._writes = Writes(self._wake.set)
        self._programs = PodPrograms(client, spaces, processes, functools.partial(self._changed, True))
        self._ends = NamespaceEnds(client)
        self._fetches: set[asyncio.Future[None]] = set()

    async def run(self) -> None:
        """Do it until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            # Pods last: whether they are the lab's is known by their nodes.
            for kind, reflector in self._reflectors.items():
                if kind != "Pod":
                    tasks.create_task(self._forever(f"following {kind}s", reflector.run))
            await self._until(lambda: all(r.synced for k, r in self._reflectors.items() if k != "Pod"))
            tasks.create_task(self._forever("following Pods", self._reflectors["Pod"].run))
            await self._until(lambda: self._reflectors["Pod"].synced)
            self._started = True
            tasks.create_task(self._steps())

    @staticmethod
    async def _forever(what: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:  # a fault of ours in one kind must not stop the others
                log.exception("%s", what)
            await asyncio.sleep(_RETRY)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._wake.clear()
            await self._wake.wait()

    def _changed(self, plan: bool) -> None:
        self._stale = self._stale or plan
        self._wake.set()

    def _arrived(self, node: str) -> None:
        """A node is new: pods may have been waiting for it, of which only the names are kept."""
        if any(s.node == node for s in self._cache.strangers.values()):
            fetch = asyncio.ensure_future(self._fetch(node))
            self._fetches.add(fetch)
            fetch.add_done_callback(self._fetches.discard)

    async def _fetch(self, node: str) -> None:
        while True:
            try:
                async for page in self._client.pages(POD.path(), fieldSelector=f"spec.nodeName={node}"):
                    for data in page.items:
                        if identity_of(data) in self._cache.strangers:
                            self._cache.put("Pod", data)
                return
            except KubeError as error:
                log.warning("pods of node %s: %s", node, error)
                await asyncio.sleep(_RETRY)

    @property
    def problems(self) -> tuple[str, ...]:
        """What the lab cannot do, of which object, in words."""
        return _in_words(self._plan)

    # Steps

    async def _steps(self) -> None:
        self._wake.set()
        while True:
            await self._wake.wait()
            if self._writes.under_way >= _MANY:
                await asyncio.sleep(_BURST_SECONDS)  # what comes of them in the next moment is one step, not one each
            self._wake.clear()
            self._busy = True
            try:
                await self._step()
            except Exception:  # one step's fault must not end the lab; the next one starts from the objects again
                log.exception("a step of the lab's kubelets failed; trying again")
                self._stale = True
                asyncio.get_running_loop().call_later(_RETRY, self._wake.set)
            self._busy = False
            self._stepped.set()

    async def _step(self) -> None:
        if self._stale:
            self._stale = False
            around = Around(self._families, self._programs.alive, self._refused, self._api_address())
            plan = work_out(self._cache.objects(), self._plan, around)
            self._end_programs(plan)
            self._plan = await self._make(plan)
            self._start_programs(self._plan)
        self._write()

    def _api_address(self) -> tuple[Address, int]:
        parts = urlsplit(self._client.credentials.server)
        return parse_address(parts.hostname or ""), parts.port or 443

    async def _make(self, plan: Plan) -> Plan:
        """Make the plan's network real; returns the plan as far as it is."""
        problems = _in_words(plan)
        before = self._plan.running
        renewed = {
            k for k, p in plan.running.items()
            if k in before and before[k].uid != p.uid and not plan.topology.pods[k].host_network
        }  # fmt: skip
        if renewed:
            # Another pod of the same name gets a namespace of its own, even where it has the same address.
            rest = {k: p for k, p in self._built.pods.items() if k not in renewed}
            await self._build(replace(self._built, pods=rest), problems)
        if plan.topology == self._built:
            return plan
        try:
            await self._build(plan.topology, problems)
        except (LabError, OSError, KeyError) as error:
            return await self._without_faulty(plan, problems, error)
        return plan

    async def _build(self, topology: Topology, problems: tuple[str, ...]) -> None:
        await asyncio.to_thread(self._real, State(topology=topology, problems=problems))
        self._built = topology

    async def _without_faulty(self, plan: Plan, problems: tuple[str, ...], error: Exception) -> Plan:
        """Find the new pods that cannot be built, one by one, and leave them out for a while. Raises `error` where it is none."""
        new = [k for k in plan.topology.pods if k not in self._built.pods]
        pods = {k: p for k, p in plan.topology.pods.items() if k not in new}
        refused = set()
        for key in new:
            try:
                await self._build(replace(plan.topology, pods={**pods, key: plan.topology.pods[key]}), problems)
                pods[key] = plan.topology.pods[key]
            except (LabError, OSError, KeyError) as fault:
                self._refuse(plan.running[key].uid, f"its network cannot be made: {fault}")
                refused.add(key)
        if not refused:
            raise error
        await self._build(replace(plan.topology, pods=pods), problems)
        self._changed(True)
        return replace(plan, topology=self._built, running={k: p for k, p in plan.running.items() if k not in refused})

    def _refuse(self, uid: str, words: str) -> None:
        self._refused[uid] = words

        def forget() -> None:
            self._refused.pop(uid, None)
            self._changed(True)

        asyncio.get_running_loop().call_later(_REFUSED_SECONDS, forget)

    # Programs

    def _end_programs(self, plan: Plan) -> None:
        """Those whose pod is deleted or whose node is gone. A deleted pod keeps its network until its program has ended."""
        going = {p.uid for p in plan.running.values()}
        deleted = {d["metadata"]["uid"]: d["metadata"] for d in self._cache.pods.values()}
        for uid in self._programs.alive:
            metadata = deleted.get(uid) or {}
            if uid not in going:
                self._programs.end(uid, 0.0)
            elif metadata.get("deletionTimestamp"):
                self._programs.end(uid, float(metadata.get("deletionGracePeriodSeconds") or 0))

    def _start_programs(self, plan: Plan) -> None:
        server = self._client.credentials.server
        host, port = urlsplit(server).hostname or "", urlsplit(server).port or 443
        defaults = {
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": str(port),
            "KUBERNETES_PORT": f"tcp://{host}:{port}",
        }
        uids = {p.uid for p in plan.running.values()}
        self._config_errors = {u: w for u, w in self._config_errors.items() if u in uids}
        for key, placed in plan.running.items():
            pod = self._cache.pods.get(key)
            if pod is None or pod["metadata"].get("deletionTimestamp") or program_container(pod) is None:
                continue
            try:
                netns = plan.topology.pods[key].netns
                self._programs.start(read_program(pod, netns, placed.addresses, placed.node.addresses, defaults))
                self._config_errors.pop(placed.uid, None)
            except LabError as error:
                self._config_errors[placed.uid] = str(error)

    def _run_of(self, key: Key, uid: str) -> Run | None:
        """How a pod's program does; None where it has none."""
        if uid in self._config_errors:
            return Run(running=False, ready=False, words=self._config_errors[uid])
        if program_container(self._cache.pods[key]) is None:
            return None
        return self._programs.run_of(uid) or Run(running=False, ready=False)

    # What is still to be written

    def _write(self) -> None:
        now = times.now()
        self._writes.begin()
        ask_for(Wanted(self._client, self._writes, self._cache, self._plan, self._run_of, now))
        self._writes.end()
        self._ends.set(n for n, d in self._cache.namespaces.items() if d["metadata"].get("deletionTimestamp"))

    # Settled

    async def settled(self, limit: float) -> None:
        """Return when all that the API server holds now is as it says: pods built, their statuses written.

        Raises LabTimeout after `limit` seconds, with what is missing.
        """
        deadline = time.monotonic() + limit
        fresh: dict[str, tuple[dict[tuple[str, str], str], str]] = {}
        while True:
            self._stepped.clear()
            lag = "the API server's objects are not read yet"
            try:
                if self._started:
                    fresh = fresh or dict(
                        zip(KINDS, await asyncio.gather(*(self._listed(kind.path()) for kind in KINDS.values())), strict=True)
                    )
                    lag = self._lag(fresh)
            except KubeError as error:
                lag = f"the API server: {error}"
            if not lag:
                return
            if time.monotonic() > deadline:
                raise LabTimeout(f"the lab's pods are not as the API server says within {limit:g} s: {lag}")
            try:
                await asyncio.wait_for(self._stepped.wait(), _LOOK_AGAIN)
            except TimeoutError:
                continue

    async def _listed(self, path: str) -> tuple[dict[tuple[str, str], str], str]:
        """Every object's resourceVersion, and the list's."""
        found: dict[tuple[str, str], str] = {}
        version = ""
        async for page in self._client.pages(path, metadata_only=True):
            version = page.resource_version
            found.update({identity_of(d): str(d["metadata"]["resourceVersion"]) for d in page.items})
        return found, version

    def _lag(self, fresh: dict[str, tuple[dict[tuple[str, str], str], str]]) -> str:
        """What is not done yet; empty when all is."""
        for kind, (listed, version) in fresh.items():
            reflector = self._reflectors[kind]
            held, seen = reflector.held, int(reflector.resource_version or 0)
            late = [i for i, v in listed.items() if int(held.get(i) or seen) < int(v)]
            # What is held and was not listed: gone, and nobody has told us yet; or newer than the list.
            late += [i for i, v in held.items() if i not in listed and int(v) <= int(version)]
            if late:
                return f"{kind} {'/'.join(late[0])} has changed, and the watch has not told yet"
        if self._busy or self._stale or self._wake.is_set() or self._fetches:
            return "a change is being made"
        return ", ".join(self._writes.open)


def _in_words(plan: Plan) -> tuple[str, ...]:
    return tuple(f"{p.kind} {_named(p.key)}: {p.words}" for p in plan.problems)


def _named(key: Key) -> str:
    return str(key) if key.namespace else key.name


__all__ = ["Kubelets"]
