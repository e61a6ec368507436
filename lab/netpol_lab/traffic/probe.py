"""Real packets from one namespace to an address, many at once: what came back, and how soon.

Sockets are made in the source's namespace. An answer with data, and a reset or a "port unreachable", mean that the packets
passed; no answer within the limit means that they were refused.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from dnslib import DNSError, DNSRecord

from netpol_compiler.model.addresses import Address, parse_address
from netpol_lab.errors import LabError
from netpol_lab.traffic import sctp

LIMIT = 1.0
ICMP_PROTOCOL = {4: 1, 6: 58}
_ERROR_QUEUE = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}  # IP_RECVERR and IPV6_RECVERR of <linux/in.h>
_REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPROTO, errno.ENOPROTOOPT)


@dataclass(frozen=True, slots=True)
class Port:
    """`protocol` is tcp, udp, sctp or icmp; `number` is 0 for icmp."""

    protocol: str
    number: int = 0

    def __str__(self) -> str:
        return self.protocol if self.protocol == "icmp" else f"{self.number}/{self.protocol}"


def parse_port(text: str) -> Port:
    """`8080/tcp`, `53/udp`, `99/sctp`, `8080` (TCP) or `icmp`. Raises LabError for anything else."""
    if text.lower() == "icmp":
        return Port("icmp")
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if not (number.isascii() and number.isdigit()) or not 1 <= int(number) <= 65535 or protocol not in ("tcp", "udp", "sctp"):
        raise LabError(f"{text!r} is not a port: write 8080/tcp, 53/udp, 99/sctp or icmp")
    return Port(protocol, int(number))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `answered` and `peer` are who answered and which source address it saw, where it said so."""

    verdict: str
    answer: str
    rtt_ms: float | None = None
    answered: str = ""
    peer: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One connection that was tried, as `connect -o json` prints it."""

    source: str
    destination: str
    port: str
    family: int
    source_address: str
    destination_address: str
    verdict: str
    answer: str
    rtt_ms: float | None
    answered: str
    peer: str
    detail: str

    def json(self) -> dict[str, Any]:
        return asdict(self)


MakeSocket = Callable[[str, int, int, int], socket.socket]


class Prober:
    """Sends probes. `make_socket(netns, version, kind, protocol)` gives a non-blocking socket in a namespace."""

    def __init__(self, make_socket: MakeSocket, at_once: int = 200) -> None:
        self._make = make_socket
        self._slots = asyncio.Semaphore(at_once)

    async def probe(self, netns: str, address: Address, port: Port, limit: float = LIMIT, path: str = "/") -> tuple[Answer, str]:
        """Try one connection. Returns what came back, and the source's own address."""
        send = {"tcp": self._tcp, "udp": self._udp, "sctp": self._sctp, "icmp": self._icmp}[port.protocol]
        async with self._slots:
            start = time.monotonic()
            own = [""]
            try:
                answer: Answer = await asyncio.wait_for(send(netns, address, port, path, own), limit)
            except TimeoutError:
                # A connection that was made has passed, even when nobody speaks on it.
                return (Answer("allowed", "none") if own[0].endswith("+") else Answer("refused", "none")), own[0].rstrip("+")
            except OSError as error:
                return self._of_error(error, start), own[0]
            return replace(answer, rtt_ms=_since(start)), own[0].rstrip("+")

    @staticmethod
    def _of_error(error: OSError, start: float) -> Answer:
        if error.errno in _REFUSED:
            return Answer("allowed", "reset", _since(start))
        return Answer("error", "none", detail=error.strerror or str(error))

    async def _tcp(self, netns: str, address: Address, port: Port, path: str, own: list[str]) -> Answer:
        loop = asyncio.get_running_loop()
        with self._make(netns, address.version, socket.SOCK_STREAM, 0) as sock:
            # An ICMP error that arrives while connect(2) still runs is only kept in the error queue.
            sock.setsockopt(*_ERROR_QUEUE[address.version], 1)
            await loop.sock_connect(sock, (address.text, port.number))
            _raise_queued_error(sock)
            own[0] = sock.getsockname()[0] + "+"
            await loop.sock_sendall(sock, f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            data = b""
            while chunk := await loop.sock_recv(sock, 65536):
                data += chunk
        return _data(data.partition(b"\r\n\r\n")[2])

    async def _udp(self, netns: str, address: Address, port: Port, path: str, own: list[str]) -> Answer:
        loop = asyncio.get_running_loop()
        with self._make(netns, address.version, socket.SOCK_DGRAM, 0) as sock:
            sock.connect((address.text, port.number))
            own[0] = sock.getsockname()[0]
            # To port 53 a real question goes: whoever serves names would not answer anything else.
            message = bytes(DNSRecord.question("npctl.probe").pack()) if port.number == 53 else b"npctl probe"
            return _data(await _repeat(sock, message, lambda: loop.sock_recv(sock, 65536)))

    async def _sctp(self, netns: str, address: Address, port: Port, path: str, own: list[str]) -> Answer:
        loop = asyncio.get_running_loop()
        with self._make(netns, address.version, socket.SOCK_RAW, sctp.PROTOCOL) as sock:
            sock.connect((address.text, 0))
            own[0] = sock.getsockname()[0]
            tag, from_port = random.getrandbits(32) | 1, random.randint(32768, 60999)
            init = sctp.encode(sctp.Packet(from_port, port.number, 0, sctp.INIT, tag))

            async def reply() -> sctp.Packet:
                while True:
                    packet = sctp.decode(sctp.payload(await loop.sock_recv(sock, 65536), address.version))
                    if packet and (packet.source, packet.destination, packet.tag) == (port.number, from_port, tag):
                        return packet

            packet = await _repeat(sock, init, reply)
        return Answer("allowed", "data" if packet.chunk == sctp.INIT_ACK else "reset")

    async def _icmp(self, netns: str, address: Address, port: Port, path: str, own: list[str]) -> Answer:
        loop = asyncio.get_running_loop()
        asked, answered = (8, 0) if address.version == 4 else (128, 129)
        with self._make(netns, address.version, socket.SOCK_RAW, ICMP_PROTOCOL[address.version]) as sock:
            sock.connect((address.text, 0))
            own[0] = sock.getsockname()[0]
            rest = os.urandom(4) + b"npctl"

            async def reply() -> bytes:
                while True:
                    data = sctp.payload(await loop.sock_recv(sock, 65536), address.version)
                    if data[:1] == bytes([answered]) and data[4:] == rest:
                        return data

            await _repeat(sock, _echo_request(asked, rest), reply)
        return Answer("allowed", "data")

    async def lookup(
        self, netns: str, server: Address, name: str, version: int, limit: float = LIMIT
    ) -> tuple[Address, ...] | None:
        """Ask `server` for a name from `netns`: its addresses (none: unknown there), or None without an answer."""
        loop = asyncio.get_running_loop()
        question = DNSRecord.question(name, "A" if version == 4 else "AAAA")
        try:
            with self._make(netns, server.version, socket.SOCK_DGRAM, 0) as sock:
                sock.connect((server.text, 53))
                data = await asyncio.wait_for(_repeat(sock, question.pack(), lambda: loop.sock_recv(sock, 65536)), limit)
            return tuple(parse_address(str(r.rdata)) for r in DNSRecord.parse(data).rr)
        except (OSError, TimeoutError, DNSError):
            return None


async def _repeat(sock: socket.socket, message: bytes, receive: Callable[[], Any]) -> Any:
    """Send, and send again after a while, until something is received; the caller sets the limit."""
    waiting = asyncio.ensure_future(receive())
    pause = 0.15
    try:
        while True:
            sock.send(message)
            done, _ = await asyncio.wait({waiting}, timeout=pause)
            if done:
                return waiting.result()
            pause *= 2
    finally:
        waiting.cancel()


def _raise_queued_error(sock: socket.socket) -> None:
    """The ICMP error that a connection met, if it is not connected."""
    try:
        sock.getpeername()
    except OSError as error:
        _, extra, _, _ = sock.recvmsg(512, 1024, socket.MSG_ERRQUEUE)
        numbers = [struct.unpack("=I", data[:4])[0] for _, _, data in extra if len(data) >= 16]
        raise OSError(numbers[0] if numbers else error.errno, os.strerror(numbers[0]) if numbers else str(error)) from error


def _echo_request(kind: int, rest: bytes) -> bytes:
    """An ICMP echo request; the kernel itself writes ICMPv6's checksum."""
    message = struct.pack("!BBH", kind, 0, 0) + rest
    padded = message + b"\0" * (len(message) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!BBH", kind, 0, ~(total + (total >> 16)) & 0xFFFF) + rest


def _data(body: bytes) -> Answer:
    try:
        facts = json.loads(body.partition(b"\n")[0])
        return Answer("allowed", "data", answered=str(facts["answered"]), peer=str(facts["peer"]))
    except (ValueError, KeyError, TypeError):
        return Answer("allowed", "data")  # somebody else's server


def _since(start: float) -> float:
    return round((time.monotonic() - start) * 1000, 2)
