"""Every program that the lab runs, by name: started in its namespace, logged, stopped, killed, held back and paused.

In: commands. Out: processes, whose output goes to LAB/logs/NAME.log (a name's slashes become dots). The names are "etcd" and
"apiserver", "operator" and "agent-NODE" in a lab without an API server, and "NAMESPACE/POD" for a pod's program in one with it.

A program is restarted by whoever started it, and by nobody else: who does that asks `held` before, and `wait_released`.
Safe to call from any thread; `start` must not be called twice for a name that runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netpol_lab.errors import LabError
from netpol_lab.network.netns import Namespaces

GRACE_SECONDS = 30.0
ACTIONS = ("stop", "kill", "hold", "start", "restart", "pause", "resume")
"""stop: SIGTERM, and held back; kill: SIGKILL, as a crash; hold: SIGKILL, and held back until start; pause and resume:
SIGSTOP and SIGCONT."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a program is started as.

    `supervised`: somebody else starts it again when it has ended (a pod's program). `grace`: seconds from SIGTERM to SIGKILL.
    """

    arguments: tuple[str, ...]
    netns: str
    env: Mapping[str, str]
    supervised: bool
    grace: float


class Processes:
    """The running programs of one lab."""

    def __init__(self, spaces: Namespaces, logs: Path) -> None:
        self._spaces = spaces
        self._logs = logs
        self._commands: dict[str, Command] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._held: set[str] = set()
        self._changed = threading.Condition()

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        netns: str,
        env: Mapping[str, str] | None = None,
        *,
        supervised: bool = False,
        grace: float = GRACE_SECONDS,
    ) -> subprocess.Popen[bytes]:
        """Start a program with `env` as its whole environment (None: ours). Raises LabError where it cannot be started."""
        command = Command(tuple(arguments), netns, dict(os.environ) if env is None else dict(env), supervised, grace)
        with self._changed:
            self._commands[name] = command
            return self._launch(name, command)

    def _launch(self, name: str, command: Command) -> subprocess.Popen[bytes]:
        try:
            with open(self.log(name), "ab") as log, self._spaces.inside(command.netns):
                process = subprocess.Popen(
                    command.arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(command.env),
                    cwd="/",
                )
        except OSError as error:
            raise LabError(f"{name}: {command.arguments[0]} cannot be started: {error.strerror}") from error
        self._running[name] = process
        return process

    def end(self, name: str, grace: float | None = None) -> None:
        """End a program (SIGTERM, after its grace SIGKILL) and forget it; one that is not there is no error."""
        with self._changed:
            process = self._running.pop(name, None)
            command = self._commands.pop(name, None)
            self._held.discard(name)
            self._changed.notify_all()
        if process and command:
            _terminate(process, command.grace if grace is None else grace)

    def control(self, name: str, action: str) -> int | None:
        """Do one of ACTIONS; returns the process id afterwards, None when it does not run. Raises LabError."""
        if name not in self._commands:
            raise LabError(f"no program {name!r} in the lab; there are {', '.join(sorted(self._commands)) or 'none'}")
        if action not in ACTIONS:
            raise LabError(f"{action!r} is not what a program can be made to do; there are {', '.join(ACTIONS)}")
        if action in ("stop", "hold", "kill", "restart"):
            self._halt(name, kill=action in ("hold", "kill"), hold=action != "kill")
        if action in ("start", "restart"):
            self._release(name)
        if action in ("pause", "resume"):
            self._signal(name, signal.SIGSTOP if action == "pause" else signal.SIGCONT)
        return self.pid(name)

    def _halt(self, name: str, kill: bool, hold: bool) -> None:
        with self._changed:
            if hold:  # before the end, so that nobody starts it again in between
                self._held.add(name)
            process = self._running.get(name)
        if process and kill:
            process.kill()
            process.wait()
        elif process:
            _terminate(process, self._commands[name].grace)

    def _release(self, name: str) -> None:
        with self._changed:
            self._held.discard(name)
            self._changed.notify_all()
            command = self._commands[name]
            if not command.supervised and self.pid(name) is None:
                self._launch(name, command)

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._running.get(name)
        if process is None or process.poll() is not None:
            raise LabError(f"{name} does not run")
        process.send_signal(number)

    def held(self, name: str) -> bool:
        """Whether somebody wants the program to stay ended."""
        return name in self._held

    def wait_released(self, name: str, limit: float) -> bool:
        """Wait until `name` is not held back any more; False when it still is after `limit` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: name not in self._held, limit)

    def names(self) -> tuple[str, ...]:
        """All programs, in the order of their start, also those that have ended or are held back."""
        return tuple(self._commands)

    def pid(self, name: str) -> int | None:
        """The process id inside the lab; None when it does not run."""
        process = self._running.get(name)
        return process.pid if process and process.poll() is None else None

    def log(self, name: str) -> Path:
        """Where the program writes to."""
        return self._logs / f"{name.replace('/', '.')}.log"

    def tail(self, name: str, lines: int = 8) -> str:
        """The end of the program's log, as it is put behind an error."""
        try:
            text = self.log(name).read_text(errors="replace").strip()
        except OSError:
            text = ""
        return ":\n    " + "\n    ".join(text.splitlines()[-lines:]) if text else ", without a word in its log"


def _terminate(process: subprocess.Popen[bytes], limit: float) -> None:
    """SIGTERM, also for one that is paused; SIGKILL when that does not help."""
    process.terminate()
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


__all__ = ["ACTIONS", "Processes"]
