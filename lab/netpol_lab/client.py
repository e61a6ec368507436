"""The one way to a lab for the CLI, the tests and the bench: starts the supervisor and asks it.

In: Kubernetes objects as plain dictionaries, already parsed and validated by the caller. Out: plain JSON values.
Every method raises LabError with a text for people: LabForbidden where the machine forbids namespaces, LabMissing where
no lab runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from netpol_lab import folders, machine, protocol
from netpol_lab.control.forward import loopback_listener
from netpol_lab.errors import BY_NAME, LabError, LabMissing, LabTimeout

Object = Mapping[str, Any]
Progress = Callable[[str], None]
SUPERVISOR_SECONDS = 15.0
"""In which the supervisor must have started, or ended."""


class LabClient:
    """One lab, by name. Making the object does nothing yet."""

    def __init__(self, name: str = "default") -> None:
        self.name = name
        self.folder: Path = folders.lab_folder(name)

    def is_up(self) -> bool:
        """Whether the lab runs."""
        return folders.is_alive(self.folder)

    def up(
        self,
        objects: Iterable[Object] = (),
        *,
        network: str = "host-gw",
        backend: str = "nft",
        family: str = "ipv4",
        agents: bool = True,
        established: str = "cut",
        accept: str = "return",
        guard: str = "off",
        api: bool = False,
        limit: float = 60.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Start the lab with these objects; returns its status when pods answer and every agent is in force.

        `api`: with a real API server, which the host reaches by LAB/kubeconfig, through one loopback port. `limit` is in seconds
        and for each wait. On any error nothing is left behind.
        """
        if self.is_up():
            raise LabError(f"lab {self.name!r} is up already; `npctl lab down --name {self.name}` ends it")
        machine.require_programs(backend, family, api)
        folders.clean(self.folder)
        self.folder.mkdir(parents=True, mode=0o700)
        (self.folder / "logs").mkdir()
        process = self._start()
        try:
            self._wait_for_socket(process)
            options = {
                "network": network,
                "backend": backend,
                "family": family,
                "established": established,
                "accept": accept,
                "guard": guard,
            }
            request = {"op": "up", "objects": list(objects), "agents": agents, "api": api, "limit": limit, **options}
            with contextlib.ExitStack() as stack:
                # The one thing that the lab has in the host's network; the supervisor's copy of it stays open.
                door = [stack.enter_context(loopback_listener()).fileno()] if api else []
                result: dict[str, Any] = self._ask(request, progress, door)
            return result
        except BaseException:
            # Also for Ctrl-C: half a lab is no use to anybody.
            process.kill()
            process.wait()
            folders.clean(self.folder)
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        command = [*machine.UNSHARE, sys.executable, "-m", "netpol_lab.supervisor", "--dir", str(self.folder)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONUNBUFFERED": "1"}
        with open(self.folder / "logs" / "supervisor.log", "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env, cwd="/"
            )
        (self.folder / "pid").write_text(str(process.pid))
        return process

    def _wait_for_socket(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + SUPERVISOR_SECONDS
        while not self.is_up():
            if process.poll() is not None:
                words = (self.folder / "logs" / "supervisor.log").read_text(errors="replace").strip()
                raise machine.explain_failure(words)
            if time.monotonic() > deadline:
                raise LabTimeout(f"the lab's supervisor did not start within {SUPERVISOR_SECONDS:.0f} s; see {self.folder}/logs")
            time.sleep(0.01)

    def _ask(self, request: Mapping[str, Any], progress: Progress | None = None, descriptors: Sequence[int] = ()) -> Any:
        try:
            connection = protocol.connect(self.folder)
        except OSError:
            raise LabMissing(f"no lab {self.name!r} is running; `npctl lab up` starts one") from None
        with connection:
            try:
                protocol.send(connection, dict(request), descriptors)
                for reply in protocol.replies(connection):
                    if "progress" in reply:
                        if progress:
                            progress(reply["progress"])
                    elif reply["ok"]:
                        return reply["result"]
                    else:
                        raise BY_NAME.get(reply.get("kind", ""), LabError)(reply["error"])
            except (ConnectionError, json.JSONDecodeError):
                pass  # said below, as for an end without an answer
        raise LabError(f"lab {self.name!r} ended while it was asked; its logs were in {self.folder}/logs")

    def apply(
        self, objects: Iterable[Object], *, wait: bool = True, limit: float = 30.0, progress: Progress | None = None
    ) -> list[dict[str, str]]:
        """Create or replace objects; returns [{kind, namespace, name, action: created|configured|unchanged}].

        With `wait`: returns when every node has them in force. Objects that are wrong together
        (an address used twice) change nothing.
        """
        done: list[dict[str, str]] = self._ask({"op": "apply", "objects": list(objects), "wait": wait, "limit": limit}, progress)
        return done

    def delete(self, objects: Iterable[Object], *, wait: bool = True, limit: float = 30.0) -> list[dict[str, str]]:
        """Delete objects by kind and metadata; returns [{kind, namespace, name, action: deleted|missing}]."""
        done: list[dict[str, str]] = self._ask({"op": "delete", "objects": list(objects), "wait": wait, "limit": limit})
        return done

    def label(
        self,
        kind: str,
        name: str,
        labels: Mapping[str, str | None],
        *,
        namespace: str = "",
        wait: bool = True,
        limit: float = 30.0,
    ) -> dict[str, Any]:
        """Set labels (None removes one) of a Pod, Namespace or Node; returns the object.

        A pod may be named as `connect` takes it.
        """
        request = {
            "op": "label",
            "kind": kind,
            "namespace": namespace,
            "name": name,
            "labels": dict(labels),
            "wait": wait,
            "limit": limit,
        }
        done: dict[str, Any] = self._ask(request)
        return done

    def get(self, kind: str | None = None, namespace: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
        """Objects as the lab's store has them, expanded pods with node and addresses included; None does not restrict."""
        found: list[dict[str, Any]] = self._ask({"op": "get", "kind": kind, "namespace": namespace, "name": name})
        return found

    def connect(
        self,
        source: str,
        destination: str,
        port: str | None = None,
        *,
        limit: float = 1.0,
        family: int | None = None,
        path: str = "/",
    ) -> list[dict[str, Any]]:
        """Send real packets; one result for each port (None: all on which DST listens) and family that both have.

        A result is {source, destination, port, family, source_address, destination_address, verdict, answer, rtt_ms, answered,
        peer, detail}; verdict allowed|refused|error, answer data|reset|none; answered: who it was, peer: the source it saw.
        """
        request = {
            "op": "connect",
            "source": source,
            "destination": destination,
            "port": port,
            "limit": limit,
            "family": family,
            "path": path,
        }
        seen: list[dict[str, Any]] = self._ask(request)
        return seen

    def connect_many(self, connections: Iterable[Mapping[str, Any]], *, limit: float = 1.0) -> list[list[dict[str, Any]]]:
        """Many `connect`s at once: each {"source", "destination", "port"?, "family"?, "path"?}; results in the same order."""
        seen: list[list[dict[str, Any]]] = self._ask(
            {"op": "connect-many", "connections": [dict(c) for c in connections], "limit": limit}
        )
        return seen

    def matrix(self, *, namespaces: Sequence[str] = (), hosts: bool = True, limit: float = 1.0) -> list[dict[str, Any]]:
        """Every pod (and host) to every pod's listening ports, at once; results as of `connect`."""
        seen: list[dict[str, Any]] = self._ask({"op": "matrix", "namespaces": list(namespaces), "hosts": hosts, "limit": limit})
        return seen

    def lookup(self, source: str, name: str, *, limit: float = 1.0) -> dict[str, Any]:
        """Ask the lab's DNS server from SRC: {source, name, server, answered: bool, addresses: [...]}."""
        seen: dict[str, Any] = self._ask({"op": "lookup", "source": source, "name": name, "limit": limit})
        return seen

    def exec(self, target: str, command: Sequence[str], *, files: tuple[int, int, int] = (0, 1, 2)) -> int:
        """Run a program in a pod's (node's, host's) network with its resolv.conf and host name; returns its exit code.

        `files` are the descriptors that become its standard input, output and error.
        """
        return int(self._ask({"op": "exec", "target": target, "command": list(command)}, descriptors=files)["exit"])

    def wait(self, *, limit: float = 30.0) -> dict[str, Any]:
        """Wait until all that was applied is in force on every node; raises LabError that names the node that lags, and why."""
        done: dict[str, Any] = self._ask({"op": "wait", "limit": limit})
        return done

    def restart(self, program: str, *, crash: bool = False) -> dict[str, Any]:
        """End a program (`crash`: by SIGKILL) and start it anew; returns {program, pid}. Does not wait."""
        done: dict[str, Any] = self._ask({"op": "restart", "program": program, "crash": crash})
        return done

    def control(self, program: str, action: str, *, limit: float = 30.0) -> dict[str, Any]:
        """Make a program, by its name in `status`, do something; returns {program, pid}, pid None when it does not run.

        stop: SIGTERM, and it stays ended; kill: SIGKILL, and who watches over it (the kubelet, for a pod's) starts it again;
        hold: SIGKILL, and it stays ended; start, restart; pause, resume: SIGSTOP, SIGCONT. A started API server is waited for.
        """
        done: dict[str, Any] = self._ask({"op": "control", "program": program, "action": action, "limit": limit})
        return done

    def compact(self) -> int:
        """Make etcd forget all but the current revision, which is returned: what is older is 410 Gone.

        The API server remembers the last changes itself: stop it before and start it after, and old watches are gone too.
        """
        return int(self._ask({"op": "compact"})["revision"])

    @property
    def kubeconfig(self) -> Path:
        """Of a lab with an API server: the file for kubectl and npctl on this machine."""
        return self.folder / "kubeconfig"

    def status(self) -> dict[str, Any]:
        """{name, folder, network, backend, family, agents, api, programs, in_force, lagging, revision, problems, not_listening,
        nodes, hosts, pods, services}; `programs`: pids inside the lab, by name; `lagging`: who is not in force yet, and why;
        `api`: {server, inside, kubeconfig, ready} of the API server, or None.
        """
        done: dict[str, Any] = self._ask({"op": "status"})
        return done

    def down(self) -> bool:
        """End the lab and remove its folder. False: none was running (a dead one's folder is removed)."""
        running = self.is_up()
        if running:
            self._ask({"op": "down"})
            deadline = time.monotonic() + SUPERVISOR_SECONDS
            while self.is_up() or folders.is_starting(self.folder):
                if time.monotonic() > deadline:
                    raise LabTimeout(f"lab {self.name!r} does not end; its process is {(self.folder / 'pid').read_text()}")
                time.sleep(0.01)
        folders.clean(self.folder)
        return running


def labs() -> tuple[str, ...]:
    """The names of the labs that run."""
    return folders.labs()


def can_run() -> LabError | None:
    """Why labs cannot run here (LabForbidden, or missing programs); None when they can. Takes some 50 ms."""
    return machine.check()


__all__ = ["LabClient", "can_run", "labs"]
