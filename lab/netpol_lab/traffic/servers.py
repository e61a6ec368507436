"""What listens in the lab: every pod on its containers' ports, and the hosts beside the nodes.

All sockets are made inside their owner's network namespace and served by the one event loop.
TCP answers like a small web server, UDP echoes behind the owner's name, SCTP answers INIT.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Protocol
from netpol_lab.network.netns import Namespaces
from netpol_lab.topology.model import Listen
from netpol_lab.traffic import sctp

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
ANY = {4: "0.0.0.0", 6: "::"}


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody who listens: `name` as `connect` writes it ("ns/pod", "host/outside").

    `bind` lists the addresses for UDP where the owner has several: an answer must leave from the one that was asked.
    """

    name: str
    netns: str
    versions: tuple[int, ...]
    listens: tuple[Listen, ...]
    bind: tuple[Address, ...] = ()
    passes: tuple[tuple[str, str], ...] = ()


class Servers:
    """Opens and closes listeners so that they match the owners. Lives in the event loop's thread."""

    def __init__(self, spaces: Namespaces, fetch: Callable[[Owner, str], Any] | None = None) -> None:
        self._spaces = spaces
        self._fetch = fetch
        self._open: dict[str, tuple[Owner, list[Callable[[], None]]]] = {}
        self.failures: dict[str, str] = {}

    async def set_owners(self, owners: dict[str, Owner]) -> None:
        """Close what is gone or changed, open what is new. A port that cannot be opened is kept in `failures`."""
        for name in [n for n, (o, _) in self._open.items() if owners.get(n) != o]:
            self.close(name)
        for name, owner in owners.items():
            if name not in self._open:
                await self._serve(owner)

    def close(self, name: str) -> None:
        for end in self._open.pop(name, (None, []))[1]:
            end()
        self.failures.pop(name, None)

    async def _serve(self, owner: Owner) -> None:
        closers: list[Callable[[], None]] = []
        self._open[owner.name] = (owner, closers)
        sctp_ports = {item.port for item in owner.listens if item.protocol is Protocol.SCTP}
        for version in owner.versions:
            for item in owner.listens:
                try:
                    if item.protocol is Protocol.TCP:
                        closers.append(await self._tcp(owner, version, item.port))
                    elif item.protocol is Protocol.UDP:
                        closers += await self._udp(owner, version, item.port)
                except OSError as error:
                    # As in a real pod of the host's network: the second one on a port crashes, the rest goes on.
                    self.failures[owner.name] = f"{item.port}/{item.protocol.value.lower()}: {error.strerror}"
            if sctp_ports:
                closers.append(self._sctp(owner, version, sctp_ports))

    def socket(self, netns: str, version: int, kind: int, protocol: int = 0) -> socket.socket:
        """A non-blocking socket that belongs to the namespace `netns`."""
        with self._spaces.inside(netns):
            made = socket.socket(FAMILY[version], kind, protocol)
        made.setblocking(False)
        return made

    async def _tcp(self, owner: Owner, version: int, port: int) -> Callable[[], None]:
        listener = self.socket(owner.netns, version, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((ANY[version], port))
        server = await asyncio.start_server(lambda r, w: self._answer(owner, port, r, w), sock=listener, backlog=1024)
        return server.close

    async def _answer(self, owner: Owner, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer that names the owner, the port, and the peer as it was seen."""
        try:
            line = await asyncio.wait_for(reader.readline(), 30)
            path = line.split()[1].decode("latin-1") if len(line.split()) > 1 else "/"
            body = await self._passed(owner, path)
            if body is None:
                facts = {"answered": owner.name, "port": port, "peer": writer.get_extra_info("peername")[0], "path": path}
                body = json.dumps(facts).encode() + b"\n"
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            writer.close()
        except (OSError, TimeoutError):
            writer.transport.abort()

    async def _passed(self, owner: Owner, path: str) -> bytes | None:
        """What the Service behind the path's prefix answers; None where nothing is passed on."""
        for prefix, url in owner.passes:
            if self._fetch and (path == prefix or path.startswith(prefix.rstrip("/") + "/")):
                answer: bytes = await self._fetch(owner, url)
                return answer
        return None

    async def _udp(self, owner: Owner, version: int, port: int) -> list[Callable[[], None]]:
        places = [a.text for a in owner.bind if a.version == version] or [ANY[version]]
        closers: list[Callable[[], None]] = []
        for place in places:
            bound = self.socket(owner.netns, version, socket.SOCK_DGRAM)
            if version == 6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((place, port))
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Echo(owner.name, port), sock=bound)
            closers.append(transport.close)
        return closers

    def _sctp(self, owner: Owner, version: int, ports: set[int]) -> Callable[[], None]:
        raw = self.socket(owner.netns, version, socket.SOCK_RAW, sctp.PROTOCOL)
        loop = asyncio.get_running_loop()
        loop.add_reader(raw, _answer_sctp, raw, version, ports)

        def close() -> None:
            loop.remove_reader(raw)
            raw.close()

        return close


class _Echo(asyncio.DatagramProtocol):
    """Sends back what came, behind the owner's name."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        facts = {"answered": self._name, "port": self._port, "peer": addr[0]}
        self._transport.sendto(json.dumps(facts).encode() + b"\n" + data, addr)  # type: ignore[attr-defined]  # a datagram transport


def _answer_sctp(raw: socket.socket, version: int, ports: set[int]) -> None:
    try:
        data, peer = raw.recvfrom(2048)
    except BlockingIOError:
        return
    packet = sctp.decode(sctp.payload(data, version))
    if packet is None or packet.chunk != sctp.INIT:
        return
    chunk = sctp.INIT_ACK if packet.destination in ports else sctp.ABORT
    reply = sctp.Packet(packet.destination, packet.source, packet.initiate, chunk, 0x6E706374)
    try:
        raw.sendto(sctp.encode(reply), (peer[0], 0))
    except OSError as error:
        # A filter in the pod's own way out is no reason to stop answering others.
        if error.errno not in (errno.EPERM, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EAGAIN):
            raise
