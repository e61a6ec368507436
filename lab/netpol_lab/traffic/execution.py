"""A program in the network of a pod, node or host: `npctl lab exec`, and what the benchmark measures with.

In: a target, a command, and the client's own three files, so the program reads and writes there directly. Out: its exit code.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from netpol_lab.errors import LabError
from netpol_lab.network import netns
from netpol_lab.network.builder import lock_of
from netpol_lab.network.netns import Namespaces
from netpol_lab.traffic.targets import Target


def run_in_target(
    spaces: Namespaces, target: Target, command: list[str], files: list[int], connection: socket.socket, resolv_conf: str
) -> dict[str, Any]:
    """Run `command`; ends it when the client goes away. Raises LabError where there is nothing to run."""
    if not command:
        raise LabError("say what to run: npctl lab exec POD -- COMMAND")
    if len(files) != 3:
        raise LabError("exec needs the client's standard input, output and error")
    handle, name = tempfile.mkstemp(dir="/run", prefix="resolv-")
    with os.fdopen(handle, "w") as file:
        file.write(resolv_conf)
    os.chmod(name, 0o644)
    try:
        # This request's thread is its own, so it may leave the others' namespaces for good; the program inherits what it has.
        netns.unshare(netns.CLONE_NEWNS | netns.CLONE_NEWUTS)
        if os.path.exists("/etc/resolv.conf"):  # without one, the program asks its own machine, as everywhere
            netns.mount(name, os.path.realpath("/etc/resolv.conf"), flags=netns.MS_BIND)
        socket.sethostname(target.name.rpartition("/")[2][:63])
        with spaces.inside(target.netns):
            process = subprocess.Popen(
                command,
                stdin=files[0],
                stdout=files[1],
                stderr=files[2],
                start_new_session=True,
                cwd="/",
                env={**os.environ, **lock_of(target.netns)},
            )
        return {"exit": _wait(process, connection)}
    except OSError as error:
        raise LabError(f"{shlex.join(command)}: {error.strerror}") from error
    finally:
        Path(name).unlink()


def _wait(process: subprocess.Popen[bytes], connection: socket.socket) -> int:
    """The exit code; the whole process group is ended when the client closes its connection."""
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(connection, select.POLLIN | select.POLLRDHUP)
        while process.poll() is None:
            events = dict(poll.poll())
            if connection.fileno() in events:
                os.killpg(process.pid, signal.SIGKILL)
                break
        code = process.wait()
    finally:
        os.close(ended)
    return code if code >= 0 else 128 - code
