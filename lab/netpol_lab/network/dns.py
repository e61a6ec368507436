"""The lab's DNS server: Services and pods of the cluster's domain, and a few names of the world outside.

In: a Zone (names to addresses). It answers over UDP and TCP; what it does not know is NXDOMAIN.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSError, DNSRecord

from netpol_compiler.model.addresses import Address
from netpol_lab.topology.model import Topology

DOMAIN = "magedu.local"
OUTSIDE_NAMES = ("www.example.com", "example.com", "www.magedu.com", "www.jd.com", "www.baidu.com")


def zone(topology: Topology, domain: str, world: tuple[Address, ...]) -> dict[str, tuple[Address, ...]]:
    """Every name the server knows, without the last dot, in lower case."""
    names: dict[str, tuple[Address, ...]] = dict.fromkeys(OUTSIDE_NAMES, world)
    for service in topology.services.values():
        pods = tuple(sorted({e.address for p in service.ports for e in p.endpoints}))
        names[f"{service.key.name}.{service.key.namespace}.svc.{domain}"] = service.cluster_ips or pods
    for pod in topology.pods.values():
        for address in pod.addresses:
            dashed = address.text.replace(".", "-").replace(":", "-")
            names[f"{dashed}.{pod.key.namespace}.pod.{domain}"] = (address,)
        names[f"{pod.key.name}.{pod.key.namespace}.pod.{domain}"] = pod.addresses
    for node in topology.nodes.values():
        names[f"{node.name}.{domain}"] = node.addresses
    return {name.lower(): addresses for name, addresses in names.items()}


def search_list(namespace: str, domain: str) -> tuple[str, ...]:
    """What a pod's resolv.conf searches."""
    return (f"{namespace}.svc.{domain}", f"svc.{domain}", domain)


def resolv_conf(namespace: str, domain: str, servers: tuple[Address, ...]) -> str:
    """A pod's /etc/resolv.conf."""
    lines = [f"nameserver {s}" for s in servers]
    return "\n".join([*lines, f"search {' '.join(search_list(namespace, domain))}", "options ndots:5", ""])


def answer(request: bytes, names: Mapping[str, tuple[Address, ...]]) -> bytes | None:
    """The reply to one DNS message; None when it is not one."""
    try:
        question = DNSRecord.parse(request)
    except DNSError:
        return None
    reply = question.reply()
    name = str(question.q.qname).rstrip(".").lower()
    if name not in names:
        reply.header.rcode = RCODE.NXDOMAIN
    for address in names.get(name, ()):
        if question.q.qtype == QTYPE.A and address.version == 4:
            reply.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(address.text), ttl=5))
        elif question.q.qtype == QTYPE.AAAA and address.version == 6:
            reply.add_answer(RR(question.q.qname, QTYPE.AAAA, rdata=AAAA(address.text), ttl=5))
    packed: bytes = reply.pack()
    return packed


class DnsServer:
    """Serves `names`, which may be replaced at any time."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[Address, ...]] = {}

    async def serve(self, make_socket: Callable[[int, int], socket.socket], addresses: tuple[Address, ...]) -> None:
        """Listen on port 53 of `addresses`. `make_socket(version, kind)` makes a socket in the server's namespace."""
        for address in addresses:
            stream = make_socket(address.version, socket.SOCK_STREAM)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stream.bind((address.text, 53))
            await asyncio.start_server(self._stream, sock=stream)
            datagram = make_socket(address.version, socket.SOCK_DGRAM)
            datagram.bind((address.text, 53))
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Datagrams(self), sock=datagram)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = answer(await reader.readexactly(length), self.names)
            if reply:
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away: nobody is left to answer
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        reply = answer(data, self._server.names)
        if reply:
            self._transport.sendto(reply, addr)  # type: ignore[attr-defined]  # a datagram transport
