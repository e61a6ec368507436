"""The one process of a lab, first of its own user, mount, network and pid namespaces: when it ends, everything ends.

    client ──control.sock──▶ Supervisor ──▶ ApiServer ──▶ Builder (namespaces, links, services)
                                       │            └──▶ LAB/objects ──▶ operator ──▶ LAB/ir ──▶ agents ──▶ LAB/reports
                                       ├──▶ event loop: Servers (what listens), DnsServer, Prober (connect, matrix)
                                       └──▶ with --api, instead of ApiServer and the folders: ApiLab, see there

Started by `client` as `unshare ... python -m netpol_lab.supervisor --dir LAB`. Each request has a thread of its own;
changes are made one at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import socket
import threading
import traceback
from pathlib import Path

from netpol_lab import machine, protocol
from netpol_lab.errors import LabError
from netpol_lab.network import netns
from netpol_lab.requests import Lab


def _own_mounts(folder: Path) -> None:
    """A /run of our own: namespaces' names, the xtables locks, and nothing of the host's but the lab's folder, if it is there."""
    resolv = Path(os.path.realpath("/etc/resolv.conf"))
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    netns.mount("tmpfs", "/run", "tmpfs")
    if folder.resolve().is_relative_to("/run"):
        folder.mkdir(parents=True)
        netns.mount(f"/proc/self/fd/{descriptor}", str(folder), flags=netns.MS_BIND)
    os.close(descriptor)
    (netns.NETNS_DIR).mkdir()
    if resolv.is_relative_to("/run"):
        # A link into /run (systemd-resolved): the pods' resolv.conf is mounted over its target, which must exist.
        resolv.parent.mkdir(parents=True, exist_ok=True)
        resolv.touch()


def _serve(lab: Lab, connection: socket.socket) -> None:
    """One request, from its line to its answer."""
    with connection:
        try:
            request, descriptors = protocol.receive_request(connection)
        except (ValueError, OSError):
            return  # somebody only asked whether we are there
        if not request:
            return
        try:
            result = lab.handle(request, descriptors, connection)
            answer = {"ok": True, "result": result}
        except LabError as error:
            answer = {"ok": False, "error": str(error), "kind": type(error).__name__}
        except Exception as error:  # the supervisor must outlive a fault in one request; the client and the log get it
            traceback.print_exc()
            answer = {"ok": False, "error": f"the lab failed at {request.get('op')!r}: {type(error).__name__}: {error}"}
        try:
            protocol.send(connection, answer)
        except OSError:
            pass  # the client has ended; nobody waits for this answer
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    if request.get("op") == "down":
        # The first process of the pid namespace: the kernel ends all others with it.
        os._exit(0)


def main() -> None:
    """Serve one lab until `down`, SIGTERM, or until killed."""
    arguments = argparse.ArgumentParser(prog="netpol_lab.supervisor")
    arguments.add_argument("--dir", type=Path, required=True, help="the lab's folder")
    folder: Path = arguments.parse_args().dir
    # Every pod costs a namespace and a few sockets; the usual soft limit of 1024 files would end at some 200 pods.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.environ["PATH"] = machine.search_path()
    _own_mounts(folder)
    # Bound after the mounts: who can connect may rely on them.
    listener = protocol.listen(folder)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="packets", daemon=True).start()
    lab = Lab(folder, loop)
    # The kernel does not end the first process of a pid namespace by a signal that it has not asked for.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(lab, connection), daemon=True).start()


if __name__ == "__main__":
    main()
