"""Connections by name: `connect`, `matrix` and `lookup`, from the words that people write to what came back.

In: sources and destinations as `targets` reads them. Out: plain JSON rows. Everything runs in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from netpol_compiler.model.addresses import Address
from netpol_lab.errors import LabError
from netpol_lab.network import dns
from netpol_lab.topology import world
from netpol_lab.topology.model import Families, Topology, of_family
from netpol_lab.topology.status import texts
from netpol_lab.traffic import probe, targets
from netpol_lab.traffic.servers import Owner

Row = dict[str, Any]


class Packets:
    """Sends what is asked for. `lab()` gives the topology and the families as they are now."""

    def __init__(self, prober: probe.Prober, domain: str, lab: Callable[[], tuple[Topology, Families]]) -> None:
        self._prober = prober
        self._domain = domain
        self._lab = lab

    async def connect(self, request: Mapping[str, Any], limit: float) -> list[Row]:
        """One row for each port and family. Raises LabError for what cannot be tried."""
        topology, _ = self._lab()
        source = targets.source(str(request["source"]), topology)
        target = targets.find(str(request["destination"]), topology)
        ports = _ports_of(request.get("port"), target)
        family = request.get("family")
        if target.lookup:
            found = await self._find_name(source, target.lookup, family, limit)
            if not found:
                return [_unknown(source, target, port, found is not None) for port in ports]
            target = targets.Target(target.name, "", found)
        own = {a.version for a in source.addresses}
        asked = [a for a in target.addresses if a.version in own and family in (None, a.version)]
        if not asked:
            wanted = f" (IPv{family})" if family else ""
            raise LabError(f"{source.name} and {target.name} have no address family in common{wanted}")
        path = str(request.get("path") or "/")
        tries = [self._try(source, target, address, port, limit, path) for address in asked for port in ports]
        return list(await asyncio.gather(*tries))

    async def _try(
        self, source: targets.Target, target: targets.Target, address: Address, port: probe.Port, limit: float, path: str
    ) -> Row:
        answer, own = await self._prober.probe(source.netns, address, port, limit, path)
        return probe.Seen(
            source=source.name,
            destination=target.name,
            port=str(port),
            family=address.version,
            source_address=own or next((a.text for a in source.addresses if a.version == address.version), ""),
            destination_address=address.text,
            verdict=answer.verdict,
            answer=answer.answer,
            rtt_ms=answer.rtt_ms,
            answered=answer.answered,
            peer=answer.peer,
            detail=answer.detail,
        ).json()

    async def matrix(self, namespaces: frozenset[str], hosts: bool, limit: float) -> list[Row]:
        """All pairs at once. Pods of the host's network are their node: they are left out."""
        topology, _ = self._lab()
        pods = [
            str(p.key) for p in topology.pods.values() if not p.host_network and (not namespaces or p.key.namespace in namespaces)
        ]
        others = [f"host/{world.OUTSIDE}"] if hosts and world.OUTSIDE in topology.hosts else []
        listening = [p for p in (*pods, *others) if targets.find(p, topology).listens]
        pairs = [{"source": a, "destination": b} for a in (*pods, *others) for b in listening if a != b]
        rows = await asyncio.gather(*(self.connect(pair, limit) for pair in pairs))
        return [row for found in rows for row in found]

    def name_server(self, version: int | None = None) -> Address:
        """The DNS server's address. Raises LabError in a lab without nodes, which has none."""
        host = self._lab()[0].hosts.get(world.DNS)
        found = [a for a in host.addresses if version in (None, a.version)] if host else []
        if not found:
            raise LabError("the lab has no DNS server: it has no nodes")
        return found[0]

    async def lookup(self, source: str, name: str, limit: float) -> Row:
        """What the DNS server says to `source` about a name."""
        asking = targets.source(source, self._lab()[0])
        found = await self._find_name(asking, name, None, limit)
        server = self.name_server(asking.addresses[0].version).text
        facts = {"source": asking.name, "name": name, "server": server}
        return {**facts, "answered": found is not None, "addresses": texts(found or ())}

    async def _find_name(self, source: targets.Target, name: str, family: int | None, limit: float) -> tuple[Address, ...] | None:
        """A name's addresses, asked for as the source's resolver does; empty: unknown; None: no answer."""
        server = self.name_server(source.addresses[0].version)
        searched = source.namespace and name.count(".") < 5 and not name.endswith(".")
        search = dns.search_list(source.namespace, self._domain) if searched else ()
        for full in (*(f"{name}.{s}" for s in search), name.rstrip(".")):
            for version in (family,) if family else tuple(int(f) for f in self._lab()[1].each):
                found = await self._prober.lookup(source.netns, server, full, version, limit)
                if found or found is None:
                    return found
        return ()

    async def fetch(self, owner: Owner, url: str) -> bytes:
        """What `owner` gets from a Service that it passes requests on to: `http://NAME[.NAMESPACE][:PORT][/PATH]`."""
        topology, families = self._lab()
        place, _, path = url.removeprefix("http://").partition("/")
        host, _, port = place.partition(":")
        name, _, rest = host.partition(".")
        namespace = rest.split(".")[0] or owner.name.split("/")[0]
        service = next((s for s in topology.services.values() if s.key == (namespace, name)), None)
        address = of_family(service.cluster_ips, families.each[0]) if service else None
        if address is None:
            return b'{"error": "502 no such service"}\n'
        answer, _ = await self._prober.probe(owner.netns, address, probe.Port("tcp", int(port or 80)), path="/" + path)
        facts = {"answered": answer.answered, "peer": answer.peer, "through": owner.name, "verdict": answer.verdict}
        return json.dumps(facts).encode() + b"\n"


def _ports_of(given: object, target: targets.Target) -> list[probe.Port]:
    """The port that was asked for, or all on which the target listens."""
    if given:
        return [probe.parse_port(str(given))]
    if not target.listens:
        raise LabError(f"{target.name} listens on no port of its own: say which with --port, such as 80/tcp")
    return [probe.Port(item.protocol.value.lower(), item.port) for item in target.listens]


def _unknown(source: targets.Target, target: targets.Target, port: probe.Port, answered: bool) -> Row:
    own = source.addresses[0]
    why = "the DNS server does not know it" if answered else "the DNS server did not answer"
    detail = f"the name {target.lookup} was not resolved: {why}"
    return probe.Seen(
        source.name, target.name, str(port), own.version, own.text, "", "error", "none", None, "", "", detail
    ).json()
