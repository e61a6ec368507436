"""What a lab can be asked: each operation of the protocol is a method here.

Requests come from the supervisor's threads. Changes hold a lock; probes run in the event loop and see the network as it is.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from netpol_compiler.addresses import Address
from netpol_compiler.workloads import ObjectId
from netpol_lab import dns, probe, protocol, targets, world
from netpol_lab.agents import Programs
from netpol_lab.apiserver import ApiServer, State
from netpol_lab.builder import Builder
from netpol_lab.errors import LabError
from netpol_lab.execution import run_in_target
from netpol_lab.model import Backend, Families, NetworkKind, Topology, of_family
from netpol_lab.netns import Namespaces
from netpol_lab.servers import Owner, Servers

Request = dict[str, Any]
T = TypeVar("T")


class Lab:
    """Everything of one lab. `loop` runs in a thread of its own."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._folder = folder
        self._loop = loop
        self._lock = threading.RLock()
        self._spaces = Namespaces()
        self._domain = dns.DOMAIN
        self._network = ""
        self._family = Families.IPV4
        self._api: ApiServer
        self._builder: Builder
        self._programs: Programs
        self._ready = False
        self._dns = dns.DnsServer()
        self._servers = Servers(self._spaces, self._fetch)
        self._prober = probe.Prober(self._servers.socket)

    def handle(self, request: Request, descriptors: list[int], connection: socket.socket) -> Any:
        """Do one request. Raises LabError."""
        operation = str(request.get("op"))

        def tell(text: str) -> None:
            protocol.send(connection, {"progress": text})

        if operation == "up":
            return self._up(request, tell)
        if operation == "down":
            return {}
        if not self._ready:
            raise LabError("the lab is not up yet")
        if operation == "exec":
            target = targets.source(str(request["target"]), self.topology)
            return run_in_target(self._spaces, target, list(request["command"]), descriptors, connection, self._resolv_conf(target))
        methods: dict[str, Callable[[Request], Any]] = {
            "delete": self._delete, "label": self._label, "get": self._get, "connect": self._connect, "matrix": self._matrix,
            "connect-many": self._connect_many, "lookup": self._lookup, "wait": self._wait, "status": self._status,
        }
        if operation == "apply":
            return self._apply(request, tell)
        if operation not in methods:
            raise LabError(f"the lab does not know how to {operation!r}: is it of another version?")
        return methods[operation](request)

    @property
    def topology(self) -> Topology:
        return self._api.state.topology

    # Changes

    def _up(self, request: Request, tell: Callable[[str], None]) -> dict[str, Any]:
        with self._lock:
            if self._ready:
                raise LabError("the lab is up already")
            try:
                kind, backend = NetworkKind(request["network"]), Backend(request["backend"])
                self._family = Families(request["family"])
            except ValueError as error:
                raise LabError(str(error)) from error
            self._network = kind.value
            for folder in ("objects", "ir", "reports"):
                (self._folder / folder).mkdir(exist_ok=True)
            self._api = ApiServer(self._folder / "objects", self._family)
            self._builder = Builder(self._spaces, kind, backend, self._family)
            self._programs = Programs(self._folder, self._spaces, backend, request["established"], request["accept"])
            state, _ = self._api.with_applied(request["objects"])
            tell(f"building {len(state.topology.nodes)} nodes, {len(state.topology.pods)} pods")
            self._builder.start()
            if request["agents"]:
                self._programs.start_operator()
            self._change(state)
            self._on_loop(self._serve_names())
            self._ready = True
            tell("waiting for the agents")
            self._programs.wait(self._api.revision, float(request["limit"]))
            return self._status({})

    def _change(self, state: State) -> None:
        """Make a new state real: the network first, then what the others read, as pods have their network before they are told."""
        self._builder.apply(state.topology)
        self._api.commit(state)
        self._dns.names = dns.zone(state.topology, self._domain, self._world_addresses(state.topology))
        self._on_loop(self._servers.set_owners(_owners(state.topology)))
        if self._programs.running:
            self._programs.set_nodes(state.topology.nodes)

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
            self._programs.wait(self._api.revision, float(request.get("limit", 30.0)))

    def _apply(self, request: Request, tell: Callable[[str], None]) -> list[dict[str, str]]:
        with self._lock:
            state, actions = self._api.with_applied(request["objects"])
            for words in state.problems:
                tell(words)
            self._change(state)
        self._in_force(request)
        return actions

    def _delete(self, request: Request) -> list[dict[str, str]]:
        with self._lock:
            state, actions = self._api.with_deleted(request["objects"])
            self._change(state)
        self._in_force(request)
        return actions

    def _label(self, request: Request) -> Any:
        with self._lock:
            oid = self._named(str(request["kind"]), str(request.get("namespace") or ""), str(request["name"]))
            self._change(self._api.with_labels(oid, request["labels"]))
        self._in_force(request)
        return self._api.state.objects[oid]

    def _named(self, kind: str, namespace: str, name: str) -> ObjectId:
        """The object's identity; a pod may be named by a beginning, as in `connect`."""
        if kind != "Pod":
            return ObjectId(kind, "", name)
        found = targets.find(f"{namespace or 'default'}/{name}", self.topology)
        return ObjectId("Pod", *found.name.split("/", 1))

    # Questions

    def _get(self, request: Request) -> Any:
        return self._api.get(request.get("kind"), request.get("namespace"), request.get("name"))

    def _wait(self, request: Request) -> dict[str, Any]:
        self._programs.wait(self._api.revision, float(request.get("limit", 30.0)))
        return {"revision": self._api.revision}

    def _status(self, request: Request) -> dict[str, Any]:
        topology = self.topology
        lagging = self._programs.lagging(self._api.revision) if self._programs.running else {}
        return {
            "name": self._folder.name, "folder": str(self._folder), "network": self._network, "backend": self._builder.backend.value,
            "family": self._family.value, "agents": bool(self._programs.running), "in_force": not lagging, "lagging": lagging,
            "revision": self._api.revision, "problems": list(self._api.state.problems), "not_listening": dict(self._servers.failures),
            "nodes": [
                {"name": n.name, "addresses": _texts(n.addresses), "cidrs": [c.text for c in n.cidrs], "report": self._programs.report(n.name)}
                for n in topology.nodes.values()
            ],
            "hosts": [
                {"name": h.name, "addresses": _texts(h.addresses), "extra": _texts(h.extra), "ports": _ports(h.listens)}
                for h in topology.hosts.values()
            ],
            "pods": [
                {"namespace": p.key.namespace, "name": p.key.name, "node": p.node, "addresses": _texts(p.addresses), "ports": _ports(p.listens)}
                for p in topology.pods.values()
            ],
            "services": [
                {"namespace": s.key.namespace, "name": s.key.name, "addresses": _texts(s.cluster_ips),
                 "ports": [{"port": f"{p.port}/{p.protocol.value.lower()}", "node_port": p.node_port,
                            "endpoints": [f"{e.address}:{e.port}" for e in p.endpoints]} for p in s.ports]}
                for s in topology.services.values()
            ],
        }  # fmt: skip

    # Packets

    def _connect(self, request: Request) -> list[dict[str, Any]]:
        return self._on_loop(self._probe(request, float(request.get("limit") or probe.LIMIT)))

    def _connect_many(self, request: Request) -> list[list[dict[str, Any]]]:
        limit = float(request.get("limit") or probe.LIMIT)

        async def every() -> list[list[dict[str, Any]]]:
            return list(await asyncio.gather(*(self._probe(c, limit) for c in request["connections"])))

        return self._on_loop(every())

    async def _probe(self, request: Request, limit: float) -> list[dict[str, Any]]:
        source = targets.source(str(request["source"]), self.topology)
        target = targets.find(str(request["destination"]), self.topology)
        given = request.get("port")
        ports = [probe.parse_port(str(given))] if given else [probe.Port(i.protocol.value.lower(), i.port) for i in target.listens]
        if not ports:
            raise LabError(f"{target.name} listens on no port of its own: say which with --port, such as 80/tcp")
        family = request.get("family")
        if target.lookup:
            found = await self._find_name(source, target.lookup, family, limit)
            if not found:
                return [_unknown(source, target, port) for port in ports]
            target = targets.Target(target.name, "", found)
        pairs = [(a, b) for a in source.addresses for b in target.addresses if a.version == b.version and family in (None, a.version)]
        if not pairs:
            raise LabError(f"{source.name} and {target.name} have no address family in common{f' (IPv{family})' if family else ''}")
        path = str(request.get("path") or "/")
        tries = [(address, port) for _, address in dict((b, (a, b)) for a, b in pairs).values() for port in ports]
        return list(await asyncio.gather(*(self._try(source, target, address, port, limit, path) for address, port in tries)))

    async def _try(
        self, source: targets.Target, target: targets.Target, address: Address, port: probe.Port, limit: float, path: str
    ) -> dict[str, Any]:
        answer, own = await self._prober.probe(source.netns, address, port, limit, path)
        own = own or next((a.text for a in source.addresses if a.version == address.version), "")
        return probe.Seen(
            source.name, target.name, str(port), address.version, own, address.text, answer.verdict, answer.answer,
            answer.rtt_ms, answer.answered, answer.peer, answer.detail,
        ).json()  # fmt: skip

    def _matrix(self, request: Request) -> list[dict[str, Any]]:
        """All pairs at once. Pods of the host's network are their node: they are left out."""
        wanted = set(request.get("namespaces") or ())
        limit = float(request.get("limit") or probe.LIMIT)
        pods = [f"{p.key}" for p in self.topology.pods.values() if not p.host_network and (not wanted or p.key.namespace in wanted)]
        others = [f"host/{world.OUTSIDE}"] if request.get("hosts", True) and world.OUTSIDE in self.topology.hosts else []
        listening = [p for p in (*pods, *others) if targets.find(p, self.topology).listens]
        pairs = [{"source": a, "destination": b} for a in (*pods, *others) for b in listening if a != b]

        async def every() -> list[dict[str, Any]]:
            rows = await asyncio.gather(*(self._probe(pair, limit) for pair in pairs))
            return [row for found in rows for row in found]

        return self._on_loop(every())

    def _name_server(self, version: int | None = None) -> Address:
        host = self.topology.hosts.get(world.DNS)
        found = [a for a in host.addresses if version in (None, a.version)] if host else []
        if not found:
            raise LabError("the lab has no DNS server: it has no nodes")
        return found[0]

    async def _find_name(self, source: targets.Target, name: str, family: int | None, limit: float) -> tuple[Address, ...] | None:
        """A name's addresses, asked for as the source's resolver does; None without any answer."""
        server = self._name_server(source.addresses[0].version)
        search = dns.search_list(source.namespace, self._domain) if source.namespace and name.count(".") < 5 and not name.endswith(".") else ()
        answered = False
        for full in (*(f"{name}.{s}" for s in search), name.rstrip(".")):
            for version in (family,) if family else tuple(int(f) for f in self._family.each):
                found = await self._prober.lookup(source.netns, server, full, version, limit)
                if found:
                    return found
                if found is None:
                    return None
                answered = True
        return () if answered else None

    def _lookup(self, request: Request) -> dict[str, Any]:
        source = targets.source(str(request["source"]), self.topology)
        limit = float(request.get("limit") or probe.LIMIT)
        found = self._on_loop(self._find_name(source, str(request["name"]), None, limit))
        server = self._name_server(source.addresses[0].version).text
        return {"source": source.name, "name": request["name"], "server": server, "answered": found is not None, "addresses": _texts(found or ())}

    async def _fetch(self, owner: Owner, url: str) -> bytes:
        """What a pod's web server gets from the Service that it passes requests on to: `http://NAME[.NAMESPACE][:PORT][/PATH]`."""
        place, _, path = url.removeprefix("http://").partition("/")
        host, _, port = place.partition(":")
        name, _, namespace = host.partition(".")
        service = next((s for s in self.topology.services.values() if s.key == (namespace.split(".")[0] or owner.name.split("/")[0], name)), None)
        address = of_family(service.cluster_ips, self._family.each[0]) if service else None
        if address is None:
            return b'{"error": "502 no such service"}\n'
        answer, _ = await self._prober.probe(owner.netns, address, probe.Port("tcp", int(port or 80)), path="/" + path)
        words = f'{{"answered": "{answer.answered}", "through": "{owner.name}", "verdict": "{answer.verdict}", "peer": "{answer.peer}"}}\n'
        return words.encode()

    def _resolv_conf(self, target: targets.Target) -> str:
        if not target.namespace:
            return "".join(f"nameserver {a}\n" for a in (self._name_server(),))
        servers = tuple(self._name_server(int(f)) for f in self._family.each)
        return dns.resolv_conf(target.namespace, self._domain, servers)

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _owners(topology: Topology) -> dict[str, Owner]:
    """Who listens: pods, and the machines beside the nodes (the DNS server's own ports are its own business)."""
    owners = [
        Owner(str(p.key), p.netns, tuple(sorted({a.version for a in p.addresses})), p.listens, p.addresses if p.host_network else (), p.passes)
        for p in topology.pods.values()
    ]
    owners += [
        Owner(f"host/{h.name}", h.netns, tuple(sorted({a.version for a in h.addresses})), h.listens, (*h.addresses, *h.extra))
        for h in topology.hosts.values() if h.name != world.DNS
    ]  # fmt: skip
    return {owner.name: owner for owner in owners}


def _unknown(source: targets.Target, target: targets.Target, port: probe.Port) -> dict[str, Any]:
    detail = f"the name {target.lookup} was not resolved"
    return probe.Seen(
        source.name, target.name, str(port), source.addresses[0].version, source.addresses[0].text, "", "error", "none", None, "", "", detail
    ).json()


def _texts(addresses: Iterable[Address]) -> list[str]:
    return [a.text for a in addresses]


def _ports(listens: Iterable[Any]) -> list[str]:
    return [f"{item.port}/{item.protocol.value.lower()}" for item in listens]


__all__ = ["Lab"]
