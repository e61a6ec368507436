"""npctl's own pods as real processes: which of them run, their service account's token, their readiness, and how they do.

    DesiredState ──▶ ProgramController ──start, end──▶ PodPrograms ──▶ RunningProgram, one for each pod
                                                                         ├─ token, refreshed ──▶ files of the service account
                                                                         ├─ ProgramThread: the process (`pod_process`)
                                                                         └─ readiness probe from the node
        pod's status ◀── status_of ◀───────────────────────────────────── ProgramStatus

Everything here lives in one event loop; only ProgramThread has a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from netpol_compiler.model.objects import Key
from netpol_kube.client import ApiClient, KubeError
from netpol_lab.errors import LabError
from netpol_lab.kubelet.desired_state import DesiredState
from netpol_lab.kubelet.informer_cache import InformerCache
from netpol_lab.kubelet.pod_container import HttpProbe, PodProgram, program_container, read_program
from netpol_lab.kubelet.pod_process import ProgramThread
from netpol_lab.kubelet.pod_status import ProgramStatus
from netpol_lab.network.netns import Namespaces
from netpol_lab.processes import Processes

log = logging.getLogger("npctl.lab")

TOKEN_SECONDS = 3607
"""As kubelets request it."""
TOKEN_REFRESH_PART = 0.8
"""Of a token's time, after which a new one is requested."""
TOKEN_RETRY_SECONDS = 0.5
FIRST_PROBE_SECONDS = 0.05
_PODS = Path("/run/pods")
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}


class ProgramController:
    """Starts and ends programs as the desired state says. `server`: the API server, which every program's environment names."""

    def __init__(self, programs: PodPrograms, cache: InformerCache, server: str) -> None:
        host, port = urlsplit(server).hostname or "", urlsplit(server).port or 443
        self._programs = programs
        self._cache = cache
        self._config_errors: dict[str, str] = {}
        self._environment = {
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": str(port),
            "KUBERNETES_PORT": f"tcp://{host}:{port}",
        }

    @property
    def alive(self) -> frozenset[str]:
        """uids of the pods whose program runs, or has not ended yet."""
        return self._programs.alive

    def end_deleted(self, desired: DesiredState) -> None:
        """End those whose pod or node is deleted. A deleted pod keeps its network until its program has ended."""
        running = {p.uid for p in desired.running.values()}
        known = {d["metadata"]["uid"]: d["metadata"] for d in self._cache.pods.values()}
        for uid in self._programs.alive:
            metadata = known.get(uid) or {}
            if uid not in running:
                self._programs.end(uid, 0.0)
            elif metadata.get("deletionTimestamp"):
                self._programs.end(uid, float(metadata.get("deletionGracePeriodSeconds") or 0))

    def start(self, desired: DesiredState) -> None:
        """Start those whose network is there now."""
        uids = {p.uid for p in desired.running.values()}
        self._config_errors = {uid: error for uid, error in self._config_errors.items() if uid in uids}
        for key, placed in desired.running.items():
            pod = self._cache.pods.get(key)
            if pod is None or pod["metadata"].get("deletionTimestamp") or program_container(pod) is None:
                continue
            try:
                netns = desired.topology.pods[key].netns
                self._programs.start(read_program(pod, netns, placed.addresses, placed.node.addresses, self._environment))
                self._config_errors.pop(placed.uid, None)
            except LabError as error:
                self._config_errors[placed.uid] = str(error)

    def status_of(self, key: Key, uid: str) -> ProgramStatus | None:
        """How a pod's program does; None where it has none."""
        if uid in self._config_errors:
            return ProgramStatus(running=False, ready=False, message=self._config_errors[uid])
        if program_container(self._cache.pods[key]) is None:
            return None
        return self._programs.status_of(uid) or ProgramStatus(running=False, ready=False)


class PodPrograms:
    """All programs of pods. `on_change` is called in the loop when a ProgramStatus has changed."""

    def __init__(self, client: ApiClient, spaces: Namespaces, processes: Processes, on_change: Callable[[], None]) -> None:
        self._client = client
        self._spaces = spaces
        self._processes = processes
        self._on_change = on_change
        self._running: dict[str, RunningProgram] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    def status_of(self, uid: str) -> ProgramStatus | None:
        """How the pod's program does; None where it has none."""
        running = self._running.get(uid)
        return running.status if running else None

    @property
    def alive(self) -> frozenset[str]:
        """uids of the pods whose program runs, or has not ended yet."""
        return frozenset(self._running)

    def start(self, program: PodProgram) -> None:
        """Run it from now on. Two pods of one name follow each other: the second waits until the first one has ended."""
        if program.uid not in self._running and not any(r.program.key == program.key for r in self._running.values()):
            self._running[program.uid] = RunningProgram(program, self._client, self._spaces, self._processes, self._on_change)

    def end(self, uid: str, grace_seconds: float) -> None:
        """End it (SIGTERM, after the grace period SIGKILL); it is `alive` until then."""
        if uid not in self._ending:
            self._ending[uid] = asyncio.ensure_future(self._end(uid, grace_seconds))

    async def _end(self, uid: str, grace_seconds: float) -> None:
        try:
            await self._running[uid].end(grace_seconds)
        except Exception:  # what is left of a program must not keep its pod from being deleted
            log.exception("ending the program of pod %s", self._running[uid].program.key)
        finally:
            del self._running[uid], self._ending[uid]
            self._on_change()


class RunningProgram:
    """One pod's program, from the request for its token to the end of its process. `status`: how it does."""

    def __init__(
        self, program: PodProgram, client: ApiClient, spaces: Namespaces, processes: Processes, on_change: Callable[[], None]
    ) -> None:
        self.program = program
        self.status = ProgramStatus(running=False, ready=False)
        self._client = client
        self._spaces = spaces
        self._on_change = on_change
        self._folder = _PODS / program.uid
        self._loop = asyncio.get_running_loop()
        self._thread = ProgramThread(program, processes, self._folder, self._notify)
        self._tasks = [asyncio.ensure_future(self._begin())]

    async def _begin(self) -> None:
        expires = await self._write_credentials()
        self._thread.start()
        if self.program.readiness:
            self._tasks.append(asyncio.ensure_future(self._probe(self.program.readiness)))
        while self.program.account:
            await asyncio.sleep(max(TOKEN_REFRESH_PART * (expires - time.time()), 1.0))
            expires = await self._write_credentials()

    async def end(self, grace_seconds: float) -> None:
        """End the process, then delete what it had."""
        for task in self._tasks:
            task.cancel()
        self._thread.stop()
        await asyncio.to_thread(self._thread.end, grace_seconds)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    # Its status

    def _notify(self, counted: bool = False, **changes: object) -> None:
        """Called by the thread. `counted`: it is started again."""

        def update() -> None:
            if not self._thread.stopping:
                self._update(**changes, **({"restarts": self.status.restarts + 1} if counted else {}))

        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everything
            self._loop.call_soon_threadsafe(update)

    def _update(self, **changes: object) -> None:
        status = replace(self.status, **changes)  # type: ignore[arg-type]  # fields of ProgramStatus, given here only
        if status != self.status:
            if status.message and status.message != self.status.message:
                log.warning("pod %s: %s", self.program.key, status.message)
            self.status = status
            self._on_change()

    # Its service account

    async def _write_credentials(self) -> float:
        """Write token, authority and namespace; returns when the token ends (seconds since 1970). Tries until it works."""
        self._folder.mkdir(parents=True, exist_ok=True)
        while self.program.account:
            try:
                token = await self._token()
            except KubeError as error:
                self._update(message=f"no token for service account {self.program.account}: {error}")
                await asyncio.sleep(TOKEN_RETRY_SECONDS)
                continue
            if not self.status.running:
                self._update(message="")
            files = {"token": token, "ca.crt": self._client.credentials.ca, "namespace": self.program.key.namespace}
            for name, text in files.items():
                _replace_file(self._folder / name, text)
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

    # Its readiness

    async def _probe(self, probe: HttpProbe) -> None:
        """Probe until cancelled: soon after the start, then ever more seldom, as often as the pod says."""
        failures, pause = 0, FIRST_PROBE_SECONDS
        while True:
            answered = self.status.running and await self._is_ready(probe)
            failures = 0 if answered else failures + 1
            if answered != self.status.ready and (answered or failures >= probe.failures or not self.status.running):
                self._update(ready=answered)
            pause = probe.period if answered else min(2 * pause, probe.period) if self.status.running else FIRST_PROBE_SECONDS
            await asyncio.sleep(pause)

    async def _is_ready(self, probe: HttpProbe) -> bool:
        """One request from the pod's node, as the kubelet sends it."""
        if f"node-{self.program.node}" not in self._spaces:
            return False  # the node is being deleted
        made = self._socket(probe)
        try:
            async with asyncio.timeout(probe.timeout):
                await self._loop.sock_connect(made, (probe.address.text, probe.port))
                host = f"[{probe.address}]" if probe.address.version == 6 else probe.address
                request = f"GET {probe.path} HTTP/1.1\r\nHost: {host}:{probe.port}\r\nConnection: close\r\n\r\n"
                await self._loop.sock_sendall(made, request.encode())
                answer = (await self._loop.sock_recv(made, 64)).split()
                return len(answer) > 1 and answer[1].isdigit() and 200 <= int(answer[1]) < 400
        except (OSError, TimeoutError):
            return False
        finally:
            made.close()

    def _socket(self, probe: HttpProbe) -> socket.socket:
        with self._spaces.inside(f"node-{self.program.node}"):
            made = socket.socket(_AF[probe.address.version], socket.SOCK_STREAM)
        made.setblocking(False)
        return made


def _replace_file(path: Path, text: str) -> None:
    """Replace a file as a whole: its reader sees the old or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


__all__ = ["PodPrograms", "ProgramController"]
