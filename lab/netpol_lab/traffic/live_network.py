"""A lab's network while it is up: built as the last state says, with its names, its listeners, and packets through it.

    LabState ──apply──▶ Builder (namespaces, cables) ──▶ names, listeners ──▶ Packets (connect, matrix, lookup)

`apply` blocks and is called from threads, one call at a time; packets run in the event loop and see the network as it is.
Excluded: where states come from.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from netpol_compiler.model.addresses import Address
from netpol_lab.network import dns
from netpol_lab.network.builder import Builder
from netpol_lab.network.netns import Namespaces
from netpol_lab.offline.objects import LabState
from netpol_lab.topology import world
from netpol_lab.topology.model import Backend, Families, NetworkKind, Topology
from netpol_lab.traffic import probe
from netpol_lab.traffic.connections import Packets
from netpol_lab.traffic.servers import Owner, Servers
from netpol_lab.traffic.targets import Target

T = TypeVar("T")


class LiveNetwork:
    """`topology`: what is built. `packets`: connections through it. `loop` runs in a thread of its own."""

    def __init__(self, spaces: Namespaces, loop: asyncio.AbstractEventLoop) -> None:
        self.topology = Topology()
        self._spaces = spaces
        self._loop = loop
        self._lock = threading.RLock()
        self._families = Families.IPV4
        self._builder: Builder
        self._domain = dns.DOMAIN
        self._dns = dns.DnsServer()
        self._names_served = False
        self._servers = Servers(spaces, lambda owner, url: self.packets.fetch(owner, url))
        self.packets = Packets(probe.Prober(self._servers.socket), self._domain, lambda: (self.topology, self._families))

    def start(self, kind: NetworkKind, backend: Backend, families: Families) -> None:
        """What every network of this kind needs, before the first state."""
        self._families = families
        self._builder = Builder(self._spaces, kind, backend, families)
        self._builder.start()

    def apply(self, state: LabState) -> None:
        """Make a state's network real, with the names and listeners in it."""
        with self._lock:
            self._builder.apply(state.topology)
            self.topology = state.topology
            self._dns.names = dns.zone(state.topology, self._domain, _outside_addresses(state.topology))
            self.on_loop(self._servers.set_owners(_owners(state.topology)))
            if not self._names_served:
                self._names_served = True
                self.on_loop(self._serve_names())

    async def _serve_names(self) -> None:
        host = self.topology.hosts.get(world.DNS)
        if host:
            await self._dns.serve(lambda version, kind: self._servers.socket(host.netns, version, kind), host.addresses)

    @property
    def not_listening(self) -> dict[str, str]:
        """Listeners that could not be opened, and why."""
        return dict(self._servers.failures)

    def resolv_conf(self, target: Target) -> str:
        """The file as a program in the target's network should see it."""
        if not target.namespace:
            return f"nameserver {self.packets.name_server()}\n"
        servers = tuple(self.packets.name_server(int(f)) for f in self._families.each)
        return dns.resolv_conf(target.namespace, self._domain, servers)

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it in the event loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _outside_addresses(topology: Topology) -> tuple[Address, ...]:
    outside = topology.hosts.get(world.OUTSIDE)
    return outside.extra if outside else ()


def _owners(topology: Topology) -> dict[str, Owner]:
    """Who listens: pods, and the machines beside the nodes (the DNS server opens its own ports)."""
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


__all__ = ["LiveNetwork"]
