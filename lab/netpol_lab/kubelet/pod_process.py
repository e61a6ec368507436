"""The process of a pod's program: started in the pod's network and in a mount namespace of its own, and again when it has ended.

    ProgramThread ──enter: token and host paths mounted──▶ Processes ──▶ python -m npctl ...   LAB/logs/NAMESPACE.POD.log
          ▲                                                    │ ended: again after 0.1 s, 0.2 s ... 5 s, unless held
          └────────────────────────────────────────────────────┘──▶ notify(changes of the ProgramStatus)

One thread for each program: its mount namespace is inherited by the processes that it starts. Everything else of a pod's program
lives in the event loop (`pod_programs`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from netpol_kube.backoff import Backoff
from netpol_lab.errors import LabError
from netpol_lab.kubelet.pod_container import SERVICE_ACCOUNT, HostPath, PodProgram
from netpol_lab.network import netns
from netpol_lab.network.builder import lock_of
from netpol_lab.processes import Processes

RESTART_SECONDS, LONGEST_RESTART_SECONDS = 0.1, 5.0
"""Until a program that has ended is started again: the first wait and the longest."""
LONG_RUN_SECONDS = 10.0
"""After a run of this length the waits begin anew."""
_HELD_POLL_SECONDS = 1.0
_NODES = Path("/run/nodes")
_INHERITED_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LANG", "LC_ALL", "TZ", "TMPDIR", "XTABLES_LIBDIR")


class ProgramThread:
    """Runs one program until `stop`. `notify` gets changes of its ProgramStatus, and is called in the thread.

    `account_folder`: what is mounted as the service account's.
    """

    def __init__(self, program: PodProgram, processes: Processes, account_folder: Path, notify: Callable[..., None]) -> None:
        self._program = program
        self._processes = processes
        self._account_folder = account_folder
        self._notify = notify
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pod {program.key}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Start it no more, and notify no more."""
        self._stop.set()

    def end(self, grace_seconds: float) -> None:
        """End the process (SIGTERM, then SIGKILL) and the stopped thread; returns when they have ended."""
        while True:
            # Again, where the thread has started another one in between.
            self._processes.end(self._program.name, grace_seconds)
            if self._thread.ident is None or not self._thread.is_alive():
                return
            self._thread.join(0.1)

    def _run(self) -> None:
        try:
            self._enter()
        except OSError as error:
            self._notify(message=f"its file system cannot be made: {error}")
            return
        backoff = Backoff(RESTART_SECONDS, LONGEST_RESTART_SECONDS)
        while not self._stop.is_set():
            if self._processes.held(self._program.name):
                self._processes.wait_released(self._program.name, _HELD_POLL_SECONDS)
                continue
            started = time.monotonic()
            code = self._run_once()
            if code is not None and not self._goes_on(code):
                return
            if time.monotonic() - started > LONG_RUN_SECONDS:
                backoff.reset()
            self._stop.wait(backoff.next_seconds())

    def _run_once(self) -> int | None:
        """Run it to its end; returns the exit code, None where it could not be started."""
        program = self._program
        inherited = {k: os.environ[k] for k in _INHERITED_VARIABLES if k in os.environ}
        env = {**inherited, "HOME": "/", "PYTHONUNBUFFERED": "1", **lock_of(f"node-{program.node}"), **program.env}
        try:
            process = self._processes.start(
                program.name,
                [sys.executable, "-m", "npctl", *program.arguments],
                program.netns,
                env,
                supervised=True,
                grace=program.grace,
            )
        except (LabError, KeyError) as error:
            self._notify(running=False, ready=False, message=str(error))
            return None
        self._notify(running=True, ready=program.readiness is None, message="")
        return _wait(process)

    def _goes_on(self, code: int) -> bool:
        """Note the end; whether there is to be another start."""
        again = self._program.restart == "Always" or (self._program.restart == "OnFailure" and code != 0)
        exit_code = code if code >= 0 else 128 - code
        self._notify(running=False, ready=False, exit_code=exit_code, ended=not again, counted=again)
        return again

    def _enter(self) -> None:
        """Leave the others' mount namespace for good, and put the pod's own files where the container expects them."""
        netns.unshare(netns.CLONE_NEWNS | netns.CLONE_NEWUTS)
        socket.sethostname((self._program.node if self._program.host_network else self._program.key.name)[:63])
        run = Path(os.path.realpath("/var/run"))
        if run != Path("/run"):
            # Where it is no link, the folder of the host's own system is covered: what is below it is not ours to write.
            netns.mount("/run", str(run), flags=netns.MS_BIND)
        if self._program.account:
            _bind(self._account_folder, Path(SERVICE_ACCOUNT))
        for item in self._program.host_paths:
            _bind(_on_node(self._program.node, item), Path(item.mount))


def _on_node(node: str, item: HostPath) -> Path:
    """The file or folder that stands for `item.path` of the node: every node of the lab has its own."""
    path = _NODES / node / item.path.lstrip("/")
    if item.is_file:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    else:
        path.mkdir(parents=True, exist_ok=True)
    return path


def _bind(source: Path, target: Path) -> None:
    """Mount `source` at `target`, which is made. Only below /run, which is the lab's own: elsewhere the host's files are seen."""
    real = Path(os.path.realpath(target))
    if not real.is_relative_to("/run"):
        return
    if source.is_dir():
        real.mkdir(parents=True, exist_ok=True)
    else:
        real.parent.mkdir(parents=True, exist_ok=True)
        real.touch()
    netns.mount(str(source), str(real), flags=netns.MS_BIND)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code. Waited for without Popen's lock, so that others may ask whether it runs."""
    with contextlib.suppress(ChildProcessError):  # somebody else has read its end already
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process.wait()


__all__ = ["ProgramThread"]
