"""A lab on a real API server: the control plane, the door to it from the host, the chart, the kubelets, the lab's verbs on it.

    client ──listening socket──▶ Forwarder ──▶ ControlPlane ◀── Kubelets (pods become namespaces and programs)
    apply, delete, label, get  ──────────────▶ ClusterApi ──▶ operator and agents, pods of the chart ──▶ NodeReports ──▶ inforce

Requests come from the supervisor's threads; everything that talks to the API server runs in one event loop of its own, so that no
list of a thousand pods delays a packet. Excluded: the network itself (`builder`), and what a pod is made of (`kubelets`).
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from netpol_api import resources
from netpol_compiler.reading.objects import parse_node
from netpol_kube.client import ApiClient, KubeError
from netpol_lab.control import chart, in_force, kubernetes_bin
from netpol_lab.control.cluster_api import ClusterApi
from netpol_lab.control.control_plane import APISERVER, ETCD, LOCAL, PORT, ControlPlane
from netpol_lab.control.controllers import GarbageCollector, ServiceAccountController
from netpol_lab.control.forward import Forwarder
from netpol_lab.errors import LabError, LabTimeout
from netpol_lab.kubelet.kubelets import Kubelets
from netpol_lab.network import wiring
from netpol_lab.network.netns import Namespaces
from netpol_lab.offline.objects import ApiServer, LabState, Object
from netpol_lab.options import Options
from netpol_lab.processes import Processes
from netpol_lab.topology import world
from netpol_lab.topology.model import Families, LabHost, Topology
from netpol_manifests.world import ObjectId

T = TypeVar("T")
Tell = Callable[[str], None]
_POLL_SECONDS = 0.05
_AGENT_ANSWER_SECONDS = 2.0
_NODE_LABELS = {"kubernetes.io/os": "linux"}


class ApiLab:
    """One per lab. `change` makes a new state real; it is called from the kubelets, in their threads."""

    def __init__(
        self,
        folder: Path,
        spaces: Namespaces,
        processes: Processes,
        families: Families,
        options: Options,
        change: Callable[[LabState], None],
        listener: socket.socket,
    ) -> None:
        self._folder = folder
        self._spaces = spaces
        self._families = families
        self._options = options
        self._change = change
        self._processes = processes
        self._listener = listener
        (folder / "objects").mkdir(exist_ok=True)
        self._nodes = ApiServer(folder / "objects", families)
        self._objects: list[Object] = []
        self._hosts: dict[str, LabHost] = {}
        self._loop = asyncio.new_event_loop()
        self._plane: ControlPlane
        self._api: ClusterApi
        self._forwarder: Forwarder
        self._kubelets: Kubelets
        self._running: list[asyncio.Future[None]] = []

    # Start

    def plan(self, objects: list[Object]) -> Topology:
        """The machines that the control plane needs before there is an API server: nodes and hosts, no pods.

        Raises LabError for objects that are wrong, before anything is built.
        """
        self._objects = objects
        everything, _ = self._nodes.with_applied(objects)
        nodes = [data for oid, data in everything.objects.items() if oid.kind == "Node"]
        self._nodes.state, _ = self._nodes.with_applied(nodes)
        topology = self._nodes.state.topology
        self._hosts = {**topology.hosts, world.API: world.api_host(topology)}
        return Topology(topology.nodes, self._hosts)

    def start(self, tell: Tell, limit: float) -> None:
        """Build what was planned and start everything; returns when the objects are in force."""
        machines = replace(self._nodes.state, topology=Topology(self._nodes.state.topology.nodes, self._hosts))
        self._change(machines)
        own = wiring.address_lines(world.supervisor_addresses(machines.topology), wiring.SWITCH)
        self._spaces.run("", ["ip", "-batch", "-"], "\n".join(own) + "\n")
        self._plane = ControlPlane(self._spaces, self._processes, self._folder, self._hosts[world.API], self._families)
        self._plane.start(tell, limit)
        threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True).start()
        self._write_kubeconfigs()
        self._run(self._begin())
        tell("installing the chart")
        rendered = chart.rendered(kubernetes_bin.find().helm, self._values(), self._plane.version(), self._folder)
        self._run(chart.install(self._api, rendered, self._options.agents, limit))
        self._run(self._collect_garbage())
        tell("applying the objects")
        self._run(self._api.apply(o for o in self._objects if o.get("kind") != "Node"))
        tell("waiting for the operator and the agents")
        deadline = time.monotonic() + limit
        self.wait(limit)
        while waiting := self._run(self._not_ready()):
            if time.monotonic() > deadline:
                raise LabTimeout(f"not ready within {limit:g} s: {', '.join(waiting)}{self._processes.tail(waiting[0])}")
            time.sleep(_POLL_SECONDS)

    async def _not_ready(self) -> list[str]:
        """The chart's pods that do not say that they are ready, by the names of their programs."""
        pods = await self._api.client.get(f"{resources.NAMESPACES}/{chart.NAMESPACE}/pods")
        return [f"{chart.NAMESPACE}/{p['metadata']['name']}" for p in pods["items"] if not _is_ready(p)]

    def _values(self) -> dict[str, Any]:
        options = self._options
        return {
            "apiServer": {"host": self._hosts[world.API].addresses[0].text, "port": PORT},
            "agent": {"backend": options.backend.value, "established": options.established, "accept": options.accept},
        }

    async def _begin(self) -> None:
        self._api = ClusterApi(ApiClient(self._plane.credentials(), "npctl-lab"))
        self._forwarder = Forwarder(self._listener, self._dial, (LOCAL, PORT))
        await self._forwarder.start()
        await self._apply_nodes(self._nodes.state)
        self._kubelets = Kubelets(self._api.client, self._spaces, self._real, self._families, self._processes)
        self._running = [
            asyncio.ensure_future(part.run()) for part in (ServiceAccountController(self._api.client), self._kubelets)
        ]

    async def _collect_garbage(self) -> None:
        """From when the definitions are there."""
        self._running.append(asyncio.ensure_future(GarbageCollector(self._api.client).run()))

    def _real(self, state: LabState) -> None:
        """What the kubelets made of the API's objects, with the machines that no object stands for."""
        self._change(replace(state, topology=replace(state.topology, hosts=self._hosts)))

    def _dial(self) -> socket.socket:
        with self._spaces.inside(self._plane.netns):
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    def _write_kubeconfigs(self) -> None:
        """The host's view, through the door, and the view of everybody inside the lab."""
        here = f"https://{LOCAL}:{self._listener.getsockname()[1]}"
        for name, server in (("kubeconfig", here), ("kubeconfig-inside", self._plane.server)):
            path = self._folder / name
            path.touch(mode=0o600)
            path.write_text(self._plane.kubeconfig(server))

    # The lab's verbs

    def apply(self, objects: list[Object], tell: Tell) -> list[dict[str, str]]:
        """Create or change objects on the API server; what became of each. Raises LabError."""
        return self._run(self._apply(objects))

    async def _apply(self, objects: list[Object]) -> list[dict[str, str]]:
        nodes = [o for o in objects if o.get("kind") == "Node"]
        done = []
        if nodes:
            self._nodes.state = LabState()
            state, _ = self._nodes.with_applied([*await self._api.get("Node", None, None), *nodes])
            self._refuse_strange(state.topology)
            done = await self._apply_nodes(state, {str(o["metadata"]["name"]) for o in nodes})
        return done + await self._api.apply(o for o in objects if o.get("kind") != "Node")

    async def _apply_nodes(self, state: LabState, names: set[str] | None = None) -> list[dict[str, str]]:
        """Nodes with the addresses and blocks of the lab's families, and the labels that a kubelet gives."""
        nodes = [d for oid, d in state.objects.items() if oid.kind == "Node" and (names is None or oid.name in names)]
        labelled = [
            {**d, "metadata": {**d["metadata"], "labels": {**_NODE_LABELS, **(d["metadata"].get("labels") or {})}}} for d in nodes
        ]
        return await self._api.apply(labelled)

    def _refuse_strange(self, topology: Topology) -> None:
        """Nodes that could not reach the API server, or have the address of another machine. Raises LabError."""
        taken = {a: f"host/{h.name}" for h in self._hosts.values() for a in h.addresses}
        server = self._hosts[world.API].addresses
        for node in topology.nodes.values():
            for own in node.addresses:
                if own in taken:
                    raise LabError(f"Node {node.name}: {own} is the address of {taken[own]}")
                if not any(wiring.onlink(own, other) for other in server):
                    raise LabError(
                        f"Node {node.name}: {own} is not in the network of this lab's API server ({server[0]}); "
                        "give such nodes to `npctl lab up --api -f`"
                    )

    def delete(self, objects: list[Object], limit: float) -> list[dict[str, str]]:
        return self._run(self._api.delete(objects, limit))

    def label(self, oid: ObjectId, labels: Mapping[str, str | None]) -> Object:
        return self._run(self._api.label(oid.kind, oid.namespace, oid.name, labels))

    def get(self, kind: str | None, namespace: str | None, name: str | None) -> list[Object]:
        return list(self._run(self._api.get(kind, namespace, name)))

    # In force

    def wait(self, limit: float) -> None:
        """Return when every pod is as the API says and, where agents run, all is in force. LabTimeout says who lags."""
        deadline = time.monotonic() + limit
        for part in self._running:
            if part.done() and (fault := part.exception()):
                raise LabError(f"the lab's own part of the cluster has ended: {fault!r}") from fault
        try:
            self._run(self._kubelets.settled(limit))
        except LabTimeout as error:
            raise LabTimeout("\n".join([str(error), *self._kubelets.problems])) from error
        while self._options.agents and (lag := self.lagging()):
            if time.monotonic() > deadline:
                words = "; ".join(f"{name} {why}" for name, why in lag.items())
                raise LabTimeout(f"not in force within {limit:g} s: {words}")
            time.sleep(_POLL_SECONDS)

    def lagging(self) -> dict[str, str]:
        """Who is not in force yet, and why."""
        if not self._options.agents:
            return {}
        try:
            return in_force.lagging(self._run(self._reading()))
        except LabError as error:
            return {APISERVER: str(error)}

    @property
    def revision(self) -> int:
        """The API server's newest; 0 when it does not answer."""
        try:
            return int(self._run(self._api.client.get(resources.NAMESPACES, limit="1"))["metadata"]["resourceVersion"])
        except LabError:
            return 0

    async def _reading(self) -> in_force.Reading:
        async def every(path: str) -> tuple[dict[str, Any], ...]:
            return tuple([item async for page in self._api.client.pages(path) for item in page.items])

        lists = dict(zip(in_force.PATHS, await asyncio.gather(*map(every, in_force.PATHS.values())), strict=True))
        # After the lists: an agent that is up to them then is up to them.
        return in_force.Reading(**lists, revisions=await self._agents_revisions(lists["nodes"]))

    @staticmethod
    async def _agents_revisions(nodes: Iterable[Object]) -> dict[str, dict[str, int]]:
        """What each node's agent says of itself; nothing of those that do not answer."""
        parsed = [node for node, _ in map(parse_node, nodes) if node and node.addresses]
        urls = {n.name: f"http://{wiring.in_url(n.addresses[0])}:{in_force.AGENT_PORT}/metrics" for n in parsed}
        timeout = aiohttp.ClientTimeout(total=_AGENT_ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:

            async def asked(url: str) -> str | None:
                try:
                    async with session.get(url) as answer:
                        return await answer.text() if answer.status == 200 else None
                except (aiohttp.ClientError, OSError, TimeoutError):
                    return None

            texts = dict(zip(urls, await asyncio.gather(*map(asked, urls.values())), strict=True))
        return {name: in_force.revisions_of(text) for name, text in texts.items() if text is not None}

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with an object, so that the lab cannot run it."""
        return self._kubelets.problems

    # Programs

    def control(self, program: str, action: str, limit: float) -> int | None:
        """See `Processes.control`; a started API server is waited for."""
        pid = self._processes.control(program, action)
        if program in (APISERVER, ETCD) and action in ("start", "restart", "resume"):
            self._plane.wait_ready(limit)
        return pid

    def compact(self) -> int:
        return self._plane.compact()

    def status(self) -> dict[str, Any] | None:
        """For `npctl lab status`: the API server as people call it, and whether it serves."""
        return {
            "server": f"https://{LOCAL}:{self._forwarder.port}",
            "inside": self._plane.server,
            "kubeconfig": str(self._folder / "kubeconfig"),
            "ready": self._plane.is_ready(),
        }

    def report(self, node: str) -> dict[str, Any]:
        """The node's NodeReport as the API server has it; empty when there is none."""
        try:
            return dict(self._run(self._api.client.get(resources.node_report_path(node))).get("status") or {})
        except LabError:
            return {}

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the event loop; the API's errors become the lab's."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except KubeError as error:
            raise LabError(f"the API server: {error}") from error


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


__all__ = ["ApiLab"]
