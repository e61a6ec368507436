"""An API server of its own for one measurement: etcd and kube-apiserver in namespaces that end with the measuring program.

In: nothing; it is called in a program that `enclosed` started. Out: an administrator's ApiClient, npctl's definitions and rights
in it, and a kubeconfig. There are no nodes and no kubelets: pods are what is written about them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from measure import progress

from netpol_compiler.model.addresses import parse_address
from netpol_kube.client import ApiClient
from netpol_kube.credentials import Credentials
from netpol_lab import machine
from netpol_lab.control import chart, kubernetes_bin
from netpol_lab.control.cluster_api import ClusterApi
from netpol_lab.control.control_plane import APISERVER, ETCD, PORT, ControlPlane
from netpol_lab.network import netns
from netpol_lab.network.netns import Namespaces
from netpol_lab.processes import Processes
from netpol_lab.topology.model import Families, LabHost

ADDRESS = "172.31.9.1"
READY_SECONDS = 120.0
COUNTED = ("addresssets", "compiledpolicies", "events", "namespaces", "networkpolicies", "nodereports", "nodes", "pods")
_COUNTER = re.compile(r'^apiserver_request_total\{.*\bresource="(\w+)".*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Server:
    """A running API server. `folder` holds the kubeconfig, and logs."""

    credentials: Credentials
    version: str
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def client(self) -> ApiClient:
        return ApiClient(self.credentials, "npctl-bench")

    def requests(self) -> int:
        """How many requests for what npctl reads and writes the server has answered so far; a watch counts when it ends."""
        connection = http.client.HTTPSConnection(ADDRESS, PORT, timeout=60, context=self.credentials.tls())
        with contextlib.closing(connection):
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {self.credentials.bearer()}"})
            text = connection.getresponse().read().decode()
        return sum(int(float(count)) for resource, count in _COUNTER.findall(text) if resource in COUNTED)

    async def install(self) -> None:
        """npctl's definitions and rights, without its programs."""
        values = {"apiServer": {"host": ADDRESS}}
        objects = chart.rendered(kubernetes_bin.find().helm, values, self.version, self.folder)
        async with self.client() as client:
            await chart.install(ClusterApi(client), objects, False, READY_SECONDS)


def enclosed(file: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `python FILE ARGUMENTS` as the first process of new namespaces: whatever it starts ends with it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PATH": machine.search_path()}
    # setpriv: when this program is killed, so is that one.
    command = ["setpriv", "--pdeathsig", "KILL", *machine.UNSHARE, sys.executable, file, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server, in whose network the calling thread is until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="npctl-bench-") as name:
        folder = Path(name)
        (folder / "logs").mkdir()
        netns.mount("tmpfs", "/run", "tmpfs")
        spaces = Namespaces()
        host = LabHost("api", (parse_address(ADDRESS),))
        spaces.create(host.netns)
        spaces.run(host.netns, ["ip", "-batch", "-"], f"link set lo up\naddress add {ADDRESS}/32 dev lo\n")
        processes = Processes(spaces, folder / "logs")
        plane = ControlPlane(spaces, processes, folder, host, Families.IPV4)
        try:
            plane.start(progress, READY_SECONDS)
            made = Server(plane.credentials(), plane.version(), folder)
            with spaces.inside(host.netns):
                yield made
        finally:
            for program in (APISERVER, ETCD):
                processes.end(program, 5)


def output(process: subprocess.Popen[str]) -> IO[str]:
    """What an enclosed program prints."""
    assert process.stdout is not None  # it was asked for
    return process.stdout
