"""What runs a real cluster: first of its own mount, network, host name, IPC and pid namespaces, so that all of it ends with it.

    owner ──pipe──▶ guardian ──▶ this ──▶ etcd, API server, controllers, scheduler      in the namespace host-api
            (outside)                └──▶ node: containerd, kubelet, kube-proxy, flanneld   in node-NAME, with mounts of its own
    loopback port ──▶ Forwarder ──▶ API server
    FOLDER/control ──▶ `_obey` ──▶ a program is stopped, held back, started

In: a plan, the owner's listening socket, archives of images. Out: lines of JSON on a pipe: {"progress": text}, then
{"ready": true} or {"error": text}. Started by `guardian`, which also removes what outlives processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from netpol_lab import machine
from netpol_lab.control.control_plane import PORT
from netpol_lab.control.forward import Forwarder
from netpol_lab.errors import LabError
from netpol_lab.network import netns
from netpol_lab.network.wiring import in_url
from netpol_realcluster import plan
from netpol_realcluster.cluster import cluster


def main() -> int:
    """Serve one cluster until killed."""
    arguments = _arguments()
    worker = os.fork()
    if worker:
        return _first_process(worker)
    os.environ["PATH"] = machine.search_path()
    tell = _teller(arguments.status)
    try:
        _own_mounts(arguments.dir, arguments.programs)
        wanted = plan.make_plan(arguments.nodes, arguments.network)
        door = socket.socket(fileno=arguments.door)
        built = cluster.Builder(wanted, arguments.cgroup, lambda text: tell("progress", text))
        built.build(plan.BINARIES, [plan.ARCHIVES / name for name in arguments.image], door.getsockname()[1])
        asyncio.run(_serve(built, door, lambda: tell("ready", True)))
    except LabError as error:
        tell("error", str(error))
    except Exception as error:
        traceback.print_exc()
        tell("error", f"{type(error).__name__}: {error}")
    return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="netpol_realcluster.cluster.supervisor")
    for name, kind in (("dir", Path), ("programs", Path), ("cgroup", str), ("network", str)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name in ("nodes", "status", "door"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--image", action="append", default=[])
    return parser.parse_args()


def _first_process(worker: int) -> int:
    """What the first process of a pid namespace owes the others: it takes in those whose parents have ended."""
    while True:
        pid, status = os.wait()
        if pid == worker:
            return os.waitstatus_to_exitcode(status)


def _teller(descriptor: int) -> Callable[[str, object], None]:
    def tell(key: str, value: object) -> None:
        # An owner that has gone reads no more; the guardian ends us, or was told to let us live.
        with contextlib.suppress(BrokenPipeError):
            os.write(descriptor, json.dumps({key: value}).encode() + b"\n")

    return tell


def _own_mounts(folder: Path, programs: Path) -> None:
    """A /run of our own, with the cluster's folder and the nodes' programs under names that do not depend on the machine."""
    places = {plan.FOLDER: folder, plan.BINARIES: programs}
    descriptors = {inside: os.open(outside, os.O_PATH | os.O_DIRECTORY) for inside, outside in places.items()}
    netns.mount("tmpfs", "/run", "tmpfs")
    netns.NETNS_DIR.mkdir()
    for inside, descriptor in descriptors.items():
        inside.mkdir(exist_ok=True)
        netns.mount(f"/proc/self/fd/{descriptor}", str(inside), flags=netns.MS_BIND)
        os.close(descriptor)


async def _serve(built: cluster.Builder, door: socket.socket, ready: Callable[[], None]) -> None:
    """Pass connections on and obey orders, for as long as the cluster lives."""
    forwarder = Forwarder(door, built.dial, (in_url(built.plan.api.addresses[0]), PORT))
    await forwarder.start()
    server = await asyncio.start_unix_server(functools.partial(_obey, built), plan.FOLDER / plan.CONTROL)
    ready()
    await server.serve_forever()


async def _obey(built: cluster.Builder, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One order, {"program": name, "action": one of `processes.ACTIONS`}; answered by {"pid": ...} or {"error": text}."""
    try:
        order = json.loads(await reader.readline())
        told: dict[str, object] = {"pid": await asyncio.to_thread(built.control, order["program"], order["action"])}
    except LabError as error:
        told = {"error": str(error)}
    writer.write(json.dumps(told).encode() + b"\n")
    await writer.drain()
    writer.close()


if __name__ == "__main__":
    sys.exit(main())
