"""A lab of two nodes on a real API server, with operator and agents, and what is measured in it.

In: nothing. Out: `ClusterLab`, which runs the measuring programs (inside.py, wire.c) where they have to be.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import datapath
from measure import progress

from netpol_api.api_objects import Json
from netpol_lab.client import LabClient
from netpol_lab.control.control_plane import PORT

NODES = (1, 2)
API_HOST = "host/api"
CLIENT, SERVER = "bench/client", "bench/server"
ECHO_PORT = 9002
UP_SECONDS, IN_FORCE_SECONDS, START_SECONDS = 300.0, 600.0, 0.5
TIMEOUTS = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")


class ClusterLab:
    """One running lab; `client` is the way to it."""

    def __init__(self, client: LabClient, ends: list[str]) -> None:
        self.client = client
        self._ends = ends
        self._kubeconfig = str(client.folder / "kubeconfig-inside")

    def inside(self, mode: str, **wanted: Any) -> Json:
        """Run inside.py beside the API server."""
        program = str(Path(__file__).with_name("inside.py"))
        text = self.printed(API_HOST, [sys.executable, program, mode, json.dumps({"kubeconfig": self._kubeconfig, **wanted})])
        found: Json = json.loads(text)
        return found

    def printed(self, target: str, command: Sequence[str], standard_input: int = 0) -> str:
        """What a program prints that runs in the network of `target`. Raises RuntimeError when it fails."""
        with tempfile.TemporaryFile("w+") as output:
            code = self.client.exec(target, command, files=(standard_input, output.fileno(), 2))
            output.seek(0)
            if code != 0:
                raise RuntimeError(f"{command[:3]} ended with {code}")
            return output.read()

    def serve_echo(self) -> None:
        """Answer datagrams in the server's pod."""
        datapath.started(self.client, [*self._ends, "echo", str(ECHO_PORT)])

    def forget_datagrams(self) -> None:
        """Let the nodes forget an answered datagram after 2 s, not 30: thousands of ports a second would fill their tables."""
        script = " && ".join(f"echo 2 > /proc/sys/net/netfilter/{name}" for name in TIMEOUTS)
        for number in NODES:
            self.printed(f"node/node-{number}", ["sh", "-c", script])

    def probe(self, work: Callable[[], None], period_us: int) -> list[tuple[int, bool]]:
        """Send datagrams from client to server while `work` runs: when each was sent (ns), and whether it was answered."""
        command = [*self._ends, "probe", datapath.address(self.client), str(ECHO_PORT), str(period_us)]
        lines: list[str] = []
        reading, writing = os.pipe()
        prober = threading.Thread(target=lambda: lines.extend(self.printed(CLIENT, command, reading).splitlines()))
        prober.start()
        try:
            time.sleep(START_SECONDS)
            work()
        finally:
            os.close(writing)  # which ends it
            prober.join()
            os.close(reading)
        return [(int(at), answered == "1") for at, answered in map(str.split, lines)]

    def fill(self, namespaces: int, pods: int, policies: int) -> None:
        """Pods and policies of other nodes, which are no lab's; returns when the operator has published them."""
        progress(f"{pods:,} pods and {policies:,} policies elsewhere")
        self.inside("fill", namespaces=namespaces, pods=pods, policies=policies)
        self.client.wait(limit=IN_FORCE_SECONDS)

    def count_bytes(self, number: int) -> None:
        """From now on count what the API server sends to the programs of a node's own network, which is the agent alone."""
        rule = ["INPUT", "-p", "tcp", "--sport", str(PORT), "-j", "RETURN"]
        self.printed(f"node/node-{number}", ["iptables-nft", "-w", "-I", *rule])

    def bytes_counted(self, number: int) -> int:
        """Bytes since `count_bytes`, with the headers of IP and TCP."""
        table = self.printed(f"node/node-{number}", ["iptables-nft", "-w", "-nvxL", "INPUT"])
        (line,) = (line for line in table.splitlines() if f"spt:{PORT}" in line)
        return int(line.split()[1])

    def programs(self) -> Mapping[str, int]:
        """The pids, inside the lab, of what runs there: "npctl-system/npctl-agent-..." and so on."""
        return {name: pid for name, pid in self.client.status()["programs"].items() if pid}


@contextmanager
def cluster_lab(name: str, more: Iterable[Json] = ()) -> Iterator[ClusterLab]:
    """A lab with a client on the first node, a server on the second, and `more` objects."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="npctl-bench-")))
        ends = datapath.wire(folder)
        client = LabClient(f"{name}-{os.getpid()}")
        pods = [datapath.pod("client", 1), datapath.pod("server", 2)]
        objects = [*(datapath.node(number) for number in NODES), *pods, *more]
        client.up(objects, api=True, limit=UP_SECONDS, progress=lambda text: progress(f"lab {name}: {text}"))
        stack.callback(client.down)
        yield ClusterLab(client, ends)
