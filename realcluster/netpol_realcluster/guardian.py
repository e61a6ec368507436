"""Stands beside a real cluster, outside of its namespaces, and sees to it that nothing is left of it, however it ends.

    owner ──hold──▶ guardian ──▶ unshare ──▶ supervisor ──▶ the cluster

The cluster ends when the owner closes `hold` (as the kernel does for one that is killed) without having written a letter into
it, when the guardian gets SIGTERM, or by itself. In each case the kernel ends all processes of its pid namespace, and with them
go its network namespaces and mounts; control groups and the folder are removed here. When the guardian itself is killed, the
cluster's processes end too, and the next `up` or `down` removes the rest.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from netpol_lab.errors import LabTimeout
from netpol_realcluster.nodes import cgroups

_SUBREAPER = 36
_LIMIT = 20.0
UNSHARE = ("unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")


class _EndedByOrder(Exception):
    """SIGTERM."""


def main() -> int:
    """Returns when nothing of the cluster is left."""
    parser = argparse.ArgumentParser(prog="netpol_realcluster.guardian")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--logs", type=Path, help="where the programs' logs are kept")
    for name in ("hold", "status", "door"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments, rest = parser.parse_known_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _on_order)
    # The first process of the cluster becomes ours when `unshare` has been killed: it has ended when all others have.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    child = None
    try:
        child = _start(arguments, rest)
        _watch(child, arguments.hold)
    except _EndedByOrder:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if child:
            child.kill()
            _reap_all()
        _clean(arguments.dir, arguments.logs)
    return 0


def _on_order(*_: object) -> None:
    raise _EndedByOrder


def _start(arguments: argparse.Namespace, rest: list[str]) -> subprocess.Popen[bytes]:
    """The cluster, which is told to end when this process does."""
    passed = (arguments.status, arguments.door)
    options = ["--dir", str(arguments.dir), "--status", str(arguments.status), "--door", str(arguments.door)]
    supervisor = [
        sys.executable,
        "-m",
        "netpol_realcluster.cluster.supervisor",
        *options,
        "--cgroup",
        cgroups.group_of(arguments.dir),
        *rest,
    ]
    child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *UNSHARE, *supervisor], pass_fds=passed)
    for descriptor in passed:
        os.close(descriptor)
    return child


def _watch(child: subprocess.Popen[bytes], hold: int) -> None:
    """Return when the cluster has ended or is to end."""
    ended = os.pidfd_open(child.pid)
    watched = [ended, hold]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if ended in ready:
            return
        if not os.read(hold, 1):
            return
        watched.remove(hold)  # it may live on without its owner


def _reap_all() -> None:
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return


def _clean(folder: Path, logs: Path | None) -> None:
    if logs:
        shutil.rmtree(logs, ignore_errors=True)
        shutil.copytree(folder / "logs", logs, dirs_exist_ok=True)
    clean(folder)


def clean(folder: Path) -> None:
    """What outlives the processes of the cluster in `folder`. Raises LabTimeout."""
    cgroups.remove(cgroups.group_of(folder))
    deadline = time.monotonic() + _LIMIT
    while folder.exists():  # whoever is just ending may still write
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            raise LabTimeout(f"{folder} cannot be removed: something writes to it")


if __name__ == "__main__":
    sys.exit(main())
