"""npctl's own pods as real processes: started in the pod's network with the pod's service account, probed, and started again.

    Program ──▶ token, private mounts ──▶ Processes ──▶ python -m npctl ...   LAB/logs/NAMESPACE.POD.log
                     ▲ refreshed               │ ended: again after 0.1 s, 0.2 s ... 5 s, unless held
                                               └─ readiness probe from the node ──▶ Run (for the pod's status)

One thread for each program: it has a mount namespace of its own, which the processes that it starts inherit. Everything else
lives in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from netpol_kube.backoff import Backoff
from netpol_kube.client import ApiClient, KubeError
from netpol_lab.errors import LabError
from netpol_lab.kubelet.pod_container import SERVICE_ACCOUNT, HostPath, Probe, Program
from netpol_lab.kubelet.pod_status import Run
from netpol_lab.network import netns
from netpol_lab.network.builder import lock_of
from netpol_lab.network.netns import Namespaces
from netpol_lab.processes import Processes

log = logging.getLogger("npctl.lab")

RESTART_SECONDS, LONGEST_RESTART_SECONDS = 0.1, 5.0
"""Until a program that has ended is started again: the first wait and the longest. One that has run for a while begins anew."""
LONG_RUN = 10.0
TOKEN_SECONDS = 3607
"""As kubelets ask for it. A token is asked for anew when four fifths of its time are over."""
_RETRY = 0.5
_FIRST_PROBE = 0.05
_HELD_POLL = 1.0
_PODS, _NODES = Path("/run/pods"), Path("/run/nodes")
_INHERITED = ("PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LANG", "LC_ALL", "TZ", "TMPDIR", "XTABLES_LIBDIR")
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}


class PodPrograms:
    """All programs of pods. `changed` is called in the loop when a Run has changed."""

    def __init__(self, client: ApiClient, spaces: Namespaces, processes: Processes, changed: Callable[[], None]) -> None:
        self._client = client
        self._spaces = spaces
        self._processes = processes
        self._changed = changed
        self._pods: dict[str, _Pod] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    def run_of(self, uid: str) -> Run | None:
        """How the pod's program does; None where it has none."""
        pod = self._pods.get(uid)
        return pod.run if pod else None

    @property
    def alive(self) -> frozenset[str]:
        """uids of the pods whose program runs, or has not ended yet."""
        return frozenset(self._pods)

    def start(self, program: Program) -> None:
        """Run it from now on. Two pods of one name follow each other: the second waits until the first one has ended."""
        if program.uid not in self._pods and not any(p.program.key == program.key for p in self._pods.values()):
            self._pods[program.uid] = _Pod(program, self._client, self._spaces, self._processes, self._changed)

    def end(self, uid: str, grace: float) -> None:
        """End it (SIGTERM, after `grace` seconds SIGKILL); it is `alive` until then."""
        if uid not in self._ending:
            self._ending[uid] = asyncio.ensure_future(self._end(uid, grace))

    async def _end(self, uid: str, grace: float) -> None:
        try:
            await self._pods[uid].end(grace)
        except Exception:  # what is left of a program must not keep its pod from going
            log.exception("ending the program of pod %s", self._pods[uid].program.key)
        finally:
            del self._pods[uid], self._ending[uid]
            self._changed()


class _Pod:
    """One pod's program."""

    def __init__(
        self, program: Program, client: ApiClient, spaces: Namespaces, processes: Processes, changed: Callable[[], None]
    ) -> None:
        self.program = program
        self.run = Run(running=False, ready=False)
        self._client = client
        self._spaces = spaces
        self._processes = processes
        self._changed = changed
        self._folder = _PODS / program.uid
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"pod {program.key}", daemon=True)
        self._tasks = [asyncio.ensure_future(self._begin())]

    # In the event loop

    async def _begin(self) -> None:
        expires = await self._credentials()
        self._thread.start()
        if self.program.readiness:
            self._tasks.append(asyncio.ensure_future(self._probe(self.program.readiness)))
        while self.program.account:
            await asyncio.sleep(max(0.8 * (expires - time.time()), 1.0))
            expires = await self._credentials()

    async def _credentials(self) -> float:
        """Write token, authority and namespace; returns when the token ends (seconds since 1970). Tries until it works."""
        self._folder.mkdir(parents=True, exist_ok=True)
        while self.program.account:
            try:
                token = await self._token()
            except KubeError as error:
                self._tell(words=f"no token for service account {self.program.account}: {error}")
                await asyncio.sleep(_RETRY)
                continue
            if not self.run.running:
                self._tell(words="")
            files = {"token": token, "ca.crt": self._client.credentials.ca, "namespace": self.program.key.namespace}
            for name, text in files.items():
                _write(self._folder / name, text)
            return time.time() + TOKEN_SECONDS
        return 0.0

    async def _token(self) -> str:
        program = self.program
        pod = {"apiVersion": "v1", "kind": "Pod", "name": program.key.name, "uid": program.uid}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS, "boundObjectRef": pod},
        }
        path = f"/api/v1/namespaces/{program.key.namespace}/serviceaccounts/{program.account}/token"
        answer = await self._client.create(path, body)
        return str(answer["status"]["token"])

    async def _probe(self, probe: Probe) -> None:
        """Ask until cancelled: soon after the start, then ever more seldom, as often as the pod says."""
        failures, pause = 0, _FIRST_PROBE
        while True:
            answered = self.run.running and await self._is_ready(probe)
            failures = 0 if answered else failures + 1
            if answered != self.run.ready and (answered or failures >= probe.failures or not self.run.running):
                self._tell(ready=answered)
            pause = probe.period if answered else min(2 * pause, probe.period) if self.run.running else _FIRST_PROBE
            await asyncio.sleep(pause)

    async def _is_ready(self, probe: Probe) -> bool:
        """One question from the pod's node, as the kubelet asks it."""
        if f"node-{self.program.node}" not in self._spaces:
            return False  # the node is going
        made = self._socket(probe)
        try:
            async with asyncio.timeout(probe.timeout):
                await self._loop.sock_connect(made, (probe.address.text, probe.port))
                host = f"[{probe.address}]" if probe.address.version == 6 else probe.address
                request = f"GET {probe.path} HTTP/1.1\r\nHost: {host}:{probe.port}\r\nConnection: close\r\n\r\n"
                await self._loop.sock_sendall(made, request.encode())
                words = (await self._loop.sock_recv(made, 64)).split()
                return len(words) > 1 and words[1].isdigit() and 200 <= int(words[1]) < 400
        except (OSError, TimeoutError):
            return False
        finally:
            made.close()

    def _socket(self, probe: Probe) -> socket.socket:
        with self._spaces.inside(f"node-{self.program.node}"):
            made = socket.socket(_AF[probe.address.version], socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    async def end(self, grace: float) -> None:
        """End the process, then forget everything of it."""
        for task in self._tasks:
            task.cancel()
        self._stop.set()
        while True:
            # Again, where the thread has started another one in between.
            await asyncio.to_thread(self._processes.end, self.program.name, grace)
            if self._thread.ident is None or not self._thread.is_alive():
                break
            await asyncio.to_thread(self._thread.join, 0.1)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _tell(self, **changes: object) -> None:
        """Note how the program does; in the event loop only."""
        run = replace(self.run, **changes)  # type: ignore[arg-type]  # fields of Run, given here only
        if run != self.run:
            if run.words and run.words != self.run.words:
                log.warning("pod %s: %s", self.program.key, run.words)
            self.run = run
            self._changed()

    # In the thread

    def _live(self) -> None:
        try:
            self._enter()
        except OSError as error:
            self._tell_loop(words=f"its file system cannot be made: {error}")
            return
        backoff = Backoff(RESTART_SECONDS, LONGEST_RESTART_SECONDS)
        while not self._stop.is_set():
            if self._processes.held(self.program.name):
                self._processes.wait_released(self.program.name, _HELD_POLL)
                continue
            started = time.monotonic()
            code = self._once()
            if code is not None and not self._goes_on(code):
                return
            if time.monotonic() - started > LONG_RUN:
                backoff.reset()
            self._stop.wait(backoff.next_seconds())

    def _once(self) -> int | None:
        """Run it to its end; returns the exit code, None where it could not be started."""
        program = self.program
        inherited = {k: os.environ[k] for k in _INHERITED if k in os.environ}
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
            self._tell_loop(running=False, ready=False, words=str(error))
            return None
        self._tell_loop(running=True, ready=program.readiness is None, words="")
        return _wait(process)

    def _goes_on(self, code: int) -> bool:
        """Note the end; whether there is to be another start."""
        again = self.program.restart == "Always" or (self.program.restart == "OnFailure" and code != 0)
        exit_code = code if code >= 0 else 128 - code
        self._tell_loop(running=False, ready=False, exit_code=exit_code, ended=not again, counted=again)
        return again

    def _tell_loop(self, counted: bool = False, **changes: object) -> None:
        def tell() -> None:
            if not self._stop.is_set():
                self._tell(**changes, **({"restarts": self.run.restarts + 1} if counted else {}))

        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everything
            self._loop.call_soon_threadsafe(tell)

    def _enter(self) -> None:
        """Leave the others' mount namespace for good, and put the pod's own files where the container expects them."""
        netns.unshare(netns.CLONE_NEWNS | netns.CLONE_NEWUTS)
        socket.sethostname((self.program.node if self.program.host_network else self.program.key.name)[:63])
        run = Path(os.path.realpath("/var/run"))
        if run != Path("/run"):
            # Where it is no link, the folder of the host's own system is covered: what is below it is not ours to write.
            netns.mount("/run", str(run), flags=netns.MS_BIND)
        if self.program.account:
            _bind(self._folder, Path(SERVICE_ACCOUNT))
        for item in self.program.host_paths:
            _bind(_on_node(self.program.node, item), Path(item.mount))


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


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole: its reader sees the old or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code. Waited for without Popen's lock, so that others may ask whether it runs."""
    with contextlib.suppress(ChildProcessError):  # somebody else has read its end already
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process.wait()


__all__ = ["PodPrograms"]
