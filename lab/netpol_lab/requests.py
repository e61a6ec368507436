"""What a lab can be asked: each operation of the protocol is a method here.

Requests come from the supervisor's threads. Changes hold a lock; probes run in the event loop and see the network as it is.
What is asked of the objects goes to one of two worlds: `FolderLab` (the lab's own store), or `ApiLab` (a real API server).
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netpol_lab import protocol
from netpol_lab.errors import LabError
from netpol_lab.network.netns import Namespaces
from netpol_lab.offline.lab import FolderLab
from netpol_lab.options import Options
from netpol_lab.processes import Processes
from netpol_lab.topology import status
from netpol_lab.topology.model import Backend, Families, NetworkKind, Topology
from netpol_lab.traffic import probe, targets
from netpol_lab.traffic.execution import run_in_target
from netpol_lab.traffic.live_network import LiveNetwork
from netpol_manifests.world import ObjectId

Request = dict[str, Any]

if TYPE_CHECKING:
    from netpol_lab.control.lab import ApiLab


class Lab:
    """Everything of one lab. `loop` runs in a thread of its own."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._spaces = Namespaces()
        self._processes = Processes(self._spaces, folder / "logs")
        self._network = LiveNetwork(self._spaces, loop)
        self._kind: NetworkKind | None = None
        self._families = Families.IPV4
        self._options = Options(Backend.NFT)
        self._cluster: FolderLab | ApiLab
        self._ready = False

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
            resolv_conf = self._network.resolv_conf(target)
            return run_in_target(self._spaces, target, list(request["command"]), descriptors, connection, resolv_conf)
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
        return self._network.topology

    # Changes

    def _up(self, request: Request, descriptors: list[int], tell: Callable[[str], None]) -> dict[str, Any]:
        with self._lock:
            if self._ready or self._kind:
                raise LabError("the lab is up already")
            try:
                kind, backend = NetworkKind(request["network"]), Backend(request["backend"])
                self._families = Families(request["family"])
            except ValueError as error:
                raise LabError(str(error)) from error
            self._kind = kind
            self._options = Options(backend, request["established"], request["accept"], bool(request["agents"]), request["guard"])
            self._cluster = self._make_cluster(bool(request.get("api")), descriptors)
            planned = self._cluster.plan(request["objects"])
            pods = f", {len(planned.pods)} pods" if planned.pods else ""
            tell(f"building {len(planned.nodes)} nodes{pods}")
            self._network.start(kind, backend, self._families)
        # Without the lock: a real API server's pods become real from other threads.
        self._cluster.start(tell, float(request["limit"]))
        self._ready = True
        return self._status({})

    def _make_cluster(self, api: bool, descriptors: list[int]) -> FolderLab | ApiLab:
        if not api:
            return FolderLab(self._folder, self._processes, self._families, self._options, self._network.apply)
        if not descriptors:
            raise LabError("a lab with an API server needs the client's listening socket")
        from netpol_lab.control.lab import ApiLab  # its HTTP client takes longer to import than a small lab to build

        listener = socket.socket(fileno=os.dup(descriptors[0]))
        return ApiLab(self._folder, self._spaces, self._processes, self._families, self._options, self._network.apply, listener)

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
            "network": self._kind.value if self._kind else "",
            "backend": self._options.backend.value,
            "family": self._families.value,
            "agents": self._options.agents,
            "api": self._cluster.status(),
            "programs": {name: self._processes.pid(name) for name in self._processes.names()},
            "in_force": not lagging,
            "lagging": lagging,
            "revision": self._cluster.revision,
            "problems": list(self._cluster.problems),
            "not_listening": self._network.not_listening,
            **status.of_topology(self.topology, self._cluster.report),
        }

    # Packets

    def _connect(self, request: Request) -> list[dict[str, Any]]:
        return self._network.on_loop(self._network.packets.connect(request, _limit(request)))

    def _connect_many(self, request: Request) -> list[list[dict[str, Any]]]:
        limit = _limit(request)

        async def every() -> list[list[dict[str, Any]]]:
            return list(await asyncio.gather(*(self._network.packets.connect(c, limit) for c in request["connections"])))

        return self._network.on_loop(every())

    def _matrix(self, request: Request) -> list[dict[str, Any]]:
        namespaces = frozenset(request.get("namespaces") or ())
        return self._network.on_loop(self._network.packets.matrix(namespaces, bool(request.get("hosts", True)), _limit(request)))

    def _lookup(self, request: Request) -> dict[str, Any]:
        return self._network.on_loop(self._network.packets.lookup(str(request["source"]), str(request["name"]), _limit(request)))


def _waiting(request: Request) -> float:
    """How long to wait until something is in force, in seconds."""
    return float(request.get("limit", 30.0))


def _limit(request: Request) -> float:
    """How long to wait for an answer, in seconds."""
    return float(request.get("limit") or probe.LIMIT)


__all__ = ["Lab"]
