"""Where connections of a real cluster begin: in a pod, on a node, on the machine outside.

In: a running cluster. Out: `Place`s, which send real packets from their own network namespace and say what became of them. The
API server is not asked and no program is started there, so that a place can ask while its node is cut off or in trouble.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubectl import Kubectl
from netpol_compiler.model.addresses import Address, parse_address
from netpol_compiler.model.objects import TERMINAL_PHASES
from netpol_lab.errors import LabError
from netpol_lab.network.netns import setns
from netpol_lab.traffic.probe import Answer, Prober, parse_port
from netpol_realcluster import plan
from netpol_realcluster.client import RealCluster

LIMIT = 2.0
"""Seconds without an answer after which a connection counts as refused: time for one packet to be lost and sent again."""
_CNI_CACHE = "var/lib/cni/results"


@dataclass(frozen=True, slots=True)
class Place:
    """`address` is the place's own; `netns` a file of its network namespace, as this machine calls it; `words` go before a
    command that is to run in that network, with the programs of the node."""

    name: str
    node: str
    address: str
    netns: Path
    words: tuple[str, ...]

    def answers(self, *targets: str) -> list[Answer]:
        """What becomes of connections to `targets` (10.1.2.3:8080, 10.1.2.3:53/udp, 10.1.2.3:icmp), all at the same time."""
        return asyncio.run(self.ask(*targets))

    def reaches(self, *targets: str) -> list[bool]:
        """Whether packets of these connections pass; a reset is an answer too."""
        found = self.answers(*targets)
        if broken := [f"{t}: {a.detail}" for t, a in zip(targets, found, strict=True) if a.verdict == "error"]:
            raise LabError(f"{self.name} cannot ask {', '.join(broken)}")
        return [a.verdict == "allowed" for a in found]

    def get(self, url: str) -> str:
        """What a web server at an address answers; empty when nothing does within LIMIT seconds."""
        parts = urlsplit(url)
        with self.socket("", 4, socket.SOCK_STREAM, 0) as wire:
            wire.settimeout(LIMIT)
            asked = http.client.HTTPConnection(str(parts.hostname))
            asked.sock = wire
            try:
                wire.connect((parts.hostname, parts.port or 80))
                asked.request("GET", parts.path or "/")
                return asked.getresponse().read().decode()
            except OSError:
                return ""

    def run(self, *command: str, limit: float = 60) -> subprocess.CompletedProcess[str]:
        """A program of the node's in this network, whatever comes of it."""
        return subprocess.run([*self.words, *command], capture_output=True, text=True, timeout=limit, check=False)

    async def ask(self, *targets: str) -> list[Answer]:
        """`answers`, for whoever has more to do meanwhile."""
        prober = Prober(self.socket)
        asked = [prober.probe(self.name, *_target(target), LIMIT) for target in targets]
        return [answer for answer, _ in await asyncio.gather(*asked)]

    async def lookup(self, server: Address, name: str) -> tuple[Address, ...] | None:
        """Ask a DNS server for a name: its IPv4 addresses (none: unknown there), or None without an answer."""
        return await Prober(self.socket).lookup(self.name, server, name, 4, LIMIT)

    def socket(self, _: str, version: int, kind: int, protocol: int) -> socket.socket:
        with _inside(self.netns):
            made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind, protocol)
        made.setblocking(False)
        return made


def machine(real: RealCluster, name: str) -> Place:
    """A node, by its name, or plan.OUTSIDE."""
    return Place(name, name, plan.ADDRESSES.get(name, name), real.netns(name), tuple(real.inside(name)))


def pod(real: RealCluster, item: dict[str, Any]) -> Place:
    """The pod that `item` describes, as the API server does; it has its address."""
    meta, node, address = item["metadata"], str(item["spec"]["nodeName"]), str(item["status"]["podIP"])
    name = f"{meta['namespace']}/{meta['name']}"
    if item["spec"].get("hostNetwork"):
        return Place(name, node, address, real.netns(node), tuple(real.inside(node)))
    file = _netns_file(real, node, address)
    enter = ("nsenter", f"--net={file}", "--")
    return Place(name, node, address, real.node_root(node) / file.relative_to("/"), (*real.inside(node), *enter))


def pods(real: RealCluster, kubectl: Kubectl, namespace: str, *options: str) -> dict[str, Place]:
    """The pods of a namespace that have addresses and are not over, by name. `options` are kubectl's, such as --selector=..."""
    found = [p for p in kubectl.items("pods", f"--namespace={namespace}", *options) if p["status"].get("podIP")]
    return {p["metadata"]["name"]: pod(real, p) for p in found if p["status"]["phase"] not in TERMINAL_PHASES}


def all_reach(questions: list[tuple[Place, str]]) -> list[bool]:
    """`reaches` of several places, all at the same time."""
    with ThreadPoolExecutor(len(questions) or 1) as threads:
        asked = [threads.submit(place.reaches, target) for place, target in questions]
        return [done.result()[0] for done in asked]


def is_free(real: RealCluster, node: str, address: str) -> bool:
    """Whether no pod of the node has the address, nor anything that is left of one."""
    return not (_given_out(real, node) / address).exists()


def give_next(real: RealCluster, node: str, address: str) -> None:
    """The node's next pod gets this address, if it is free then."""
    (_given_out(real, node) / "last_reserved_ip.0").write_text(str(ip_address(address) - 1))


def _given_out(real: RealCluster, node: str) -> Path:
    """Where CNI's host-local keeps the addresses that are in use, each as a file, and the last one that it gave."""
    return real.folder / "nodes" / node / "var/lib/cni/networks/cbr0"


def _netns_file(real: RealCluster, node: str, address: str) -> Path:
    """The file that the container runtime gave the pod's network, as the node calls it. Raises LabError."""
    for file in (real.folder / "nodes" / node / _CNI_CACHE).glob("*-eth0"):
        text = file.read_text(encoding="utf-8")
        # The gateway's entry ends differently: only the pod's own address has this mask behind it.
        if f'"{address}/24"' in text:
            return Path("/run/netns", text.partition("/netns/")[2].partition('"')[0])
    raise LabError(f"node {node} has no pod with the address {address}")


def _target(text: str) -> tuple[Address, Any]:
    address, _, port = text.rpartition(":")
    return parse_address(address), parse_port(port)


@contextmanager
def _inside(netns: Path) -> Iterator[None]:
    """The calling thread is in that network for the time of the block."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            setns(home)
    finally:
        os.close(home)
