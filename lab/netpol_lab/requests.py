"""What a lab can be asked: each operation of the protocol is a method here.

Requests come from the supervisor's threads. Changes hold a lock; probes run in the event loop and see the network as it is.
What is asked of the objects goes to one of two worlds: `FolderLab` (the lab's own store), or `ApiLab` (a real API server).
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from netpol_compiler.model.addresses import Address
from netpol_lab import protocol
from netpol_lab.errors import LabError
from netpol_lab.network import dns
from netpol_lab.network.builder import Builder
from netpol_lab.network.netns import Namespaces
from netpol_lab.offline.lab import FolderLab
from netpol_lab.offline.objects import LabState
from netpol_lab.options import Options
from netpol_lab.processes import Processes
from netpol_lab.topology import status, world
from netpol_lab.topology.model import Backend, Families, NetworkKind, Topology
from netpol_lab.traffic import probe, targets
from netpol_lab.traffic.connections import Packets
from netpol_lab.traffic.execution import run_in_target
from netpol_lab.traffic.servers import Owner, Servers
from netpol_manifests.world import ObjectId

Request = dict[str, Any]
T = TypeVar("T")

if TYPE_CHECKING:
    from netpol_lab.control.lab import ApiLab


class Lab:
    """Everything of one lab. `loop` runs in a thread of its own."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._folder = folder
        self._loop = loop
        self._lock = threading.RLock()
        self._spaces = Namespaces()
        self._processes = Processes(self._spaces, folder / "logs")
        self._domain = dns.DOMAIN
        self._network = ""
        self._family = Families.IPV4
        self._options = Options(Backend.NFT)
        self._state = LabState()
        self._cluster: FolderLab | ApiLab
        self._builder: Builder
        self._ready = False
        self._dns = dns.DnsServer()
        self._names_served = False
        self._servers = Servers(self._spaces, lambda owner, url: self._packets.fetch(owner, url))
        self._packets = Packets(probe.Prober(self._servers.socket), self._domain, lambda: (self.topology, self._family))

    def handle(self, request: Request, descriptors: list[int], connection: socket.socket) -> Any:
        """Do one request. Raises LabError."""
        operation = str(request.get("op"))

        def tell(text: str) -> None:
            protocol.send(connection, {"progress": text})

        if operation == "up":
            return self._up(request, descriptors, tell)
        if operation == "down":
            return {}
        if not self._ready:
            raise LabError("the lab is not up yet")
        if operation == "exec":
            target = targets.source(str(request["target"]), self.topology)
            return run_in_target(
                self._spaces, target, list(request["command"]), descriptors, connection, self._resolv_conf(target)
            )
        methods: dict[str, Callable[[Request], Any]] = {
            "delete": self._delete,
            "label": self._label,
            "get": self._get,
            "connect": self._connect,
            "matrix": self._matrix,
            "connect-many": self._connect_many,
            "lookup": self._lookup,
            "wait": self._wait,
            "restart": self._restart,
            "control": self._control,
            "compact": self._compact,
            "status": self._status,
        }
        if operation == "apply":
            return self._apply(request, tell)
        if operation not in methods:
            raise LabError(f"the lab does not know how to {operation!r}: is it of another version?")
        return methods[operation](request)

    @property
    def topology(self) -> Topology:
        return self._state.topology

    # Changes

    def _up(self, request: Request, descriptors: list[int], tell: Callable[[str], None]) -> dict[str, Any]:
        with self._lock:
            if self._ready or self._network:
                raise LabError("the lab is up already")
            try:
                kind, backend = NetworkKind(request["network"]), Backend(request["backend"])
                self._family = Families(request["family"])
            except ValueError as error:
                raise LabError(str(error)) from error
            self._network = kind.value
            self._options = Options(backend, request["established"], request["accept"], bool(request["agents"]))
            self._builder = Builder(self._spaces, kind, backend, self._family)
            self._cluster = self._make_cluster(bool(request.get("api")), descriptors)
            planned = self._cluster.plan(request["objects"])
            pods = f", {len(planned.pods)} pods" if planned.pods else ""
            tell(f"building {len(planned.nodes)} nodes{pods}")
            self._builder.start()
        # Without the lock: a real API server's pods become real from other threads.
        self._cluster.start(tell, float(request["limit"]))
        self._ready = True
        return self._status({})

    def _make_cluster(self, api: bool, descriptors: list[int]) -> FolderLab | ApiLab:
        if not api:
            return FolderLab(self._folder, self._processes, self._family, self._options, self._change)
        if not descriptors:
            raise LabError("a lab with an API server needs the client's listening socket")
        from netpol_lab.control.lab import ApiLab  # its HTTP client takes longer to import than a small lab to build

        listener = socket.socket(fileno=os.dup(descriptors[0]))
        return ApiLab(self._folder, self._spaces, self._processes, self._family, self._options, self._change, listener)

    def _change(self, state: LabState) -> None:
        """Make a new state's network real, with the names and listeners in it."""
        with self._lock:
            self._builder.apply(state.topology)
            self._state = state
            self._dns.names = dns.zone(state.topology, self._domain, self._world_addresses(state.topology))
            self._on_loop(self._servers.set_owners(_owners(state.topology)))
            if not self._names_served:
                self._names_served = True
                self._on_loop(self._serve_names())

    @staticmethod
    def _world_addresses(topology: Topology) -> tuple[Address, ...]:
        outside = topology.hosts.get(world.OUTSIDE)
        return outside.extra if outside else ()

    async def _serve_names(self) -> None:
        host = self.topology.hosts.get(world.DNS)
        if host:
            await self._dns.serve(lambda version, kind: self._servers.socket(host.netns, version, kind), host.addresses)

    def _in_force(self, request: Request) -> None:
        if request.get("wait", True):
            self._cluster.wait(_waiting(request))

    def _apply(self, request: Request, tell: Callable[[str], None]) -> list[dict[str, str]]:
        actions = self._cluster.apply(request["objects"], tell)
        self._in_force(request)
        return actions

    def _delete(self, request: Request) -> list[dict[str, str]]:
        actions = self._cluster.delete(request["objects"], _waiting(request))
        self._in_force(request)
        return actions

    def _label(self, request: Request) -> Any:
        oid = self._named(str(request["kind"]), str(request.get("namespace") or ""), str(request["name"]))
        changed = self._cluster.label(oid, request["labels"])
        self._in_force(request)
        return changed

    def _restart(self, request: Request) -> dict[str, Any]:
        """End a program and start it again: two actions of `control`."""
        actions = ("kill", "start") if request.get("crash") else ("restart",)
        return [self._control({**request, "action": action}) for action in actions][-1]

    def _control(self, request: Request) -> dict[str, Any]:
        name = str(request["program"])
        return {"program": name, "pid": self._cluster.control(name, str(request["action"]), _waiting(request))}

    def _compact(self, request: Request) -> dict[str, Any]:
        return {"revision": self._cluster.compact()}

    def _named(self, kind: str, namespace: str, name: str) -> ObjectId:
        """The object's identity; a pod may be named by a beginning, as in `connect`."""
        if kind != "Pod":
            return ObjectId(kind, "", name)
        found = targets.find(f"{namespace or 'default'}/{name}", self.topology)
        return ObjectId("Pod", *found.name.split("/", 1))

    # Questions

    def _get(self, request: Request) -> Any:
        return self._cluster.get(request.get("kind"), request.get("namespace"), request.get("name"))

    def _wait(self, request: Request) -> dict[str, Any]:
        self._cluster.wait(_waiting(request))
        return {"revision": self._cluster.revision}

    def _status(self, request: Request) -> dict[str, Any]:
        lagging = self._cluster.lagging()
        return {
            "name": self._folder.name,
            "folder": str(self._folder),
            "network": self._network,
            "backend": self._options.backend.value,
            "family": self._family.value,
            "agents": self._options.agents,
            "api": self._cluster.status(),
            "programs": {name: self._processes.pid(name) for name in self._processes.names()},
            "in_force": not lagging,
            "lagging": lagging,
            "revision": self._cluster.revision,
            "problems": list(self._cluster.problems),
            "not_listening": dict(self._servers.failures),
            **status.of_topology(self.topology, self._cluster.report),
        }

    # Packets

    def _connect(self, request: Request) -> list[dict[str, Any]]:
        return self._on_loop(self._packets.connect(request, _limit(request)))

    def _connect_many(self, request: Request) -> list[list[dict[str, Any]]]:
        limit = _limit(request)

        async def every() -> list[list[dict[str, Any]]]:
            return list(await asyncio.gather(*(self._packets.connect(c, limit) for c in request["connections"])))

        return self._on_loop(every())

    def _matrix(self, request: Request) -> list[dict[str, Any]]:
        namespaces = frozenset(request.get("namespaces") or ())
        return self._on_loop(self._packets.matrix(namespaces, bool(request.get("hosts", True)), _limit(request)))

    def _lookup(self, request: Request) -> dict[str, Any]:
        return self._on_loop(self._packets.lookup(str(request["source"]), str(request["name"]), _limit(request)))

    def _resolv_conf(self, target: targets.Target) -> str:
        if not target.namespace:
            return "".join(f"nameserver {a}\n" for a in (self._packets.name_server(),))
        servers = tuple(self._packets.name_server(int(f)) for f in self._family.each)
        return dns.resolv_conf(target.namespace, self._domain, servers)

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _owners(topology: Topology) -> dict[str, Owner]:
    """Who listens: pods, and the machines beside the nodes (the DNS server's own ports are its own business)."""
    owners = [
        Owner(
            str(p.key),
            p.netns,
            tuple(sorted({a.version for a in p.addresses})),
            p.listens,
            p.addresses if p.host_network else (),
            p.passes,
        )
        for p in topology.pods.values()
    ]
    owners += [
        Owner(f"host/{h.name}", h.netns, tuple(sorted({a.version for a in h.addresses})), h.listens, (*h.addresses, *h.extra))
        for h in topology.hosts.values() if h.name != world.DNS
    ]  # fmt: skip
    return {owner.name: owner for owner in owners}


def _waiting(request: Request) -> float:
    """How long to wait until something is in force, in seconds."""
    return float(request.get("limit", 30.0))


def _limit(request: Request) -> float:
    """How long to wait for an answer, in seconds."""
    return float(request.get("limit") or probe.LIMIT)


__all__ = ["Lab"]
