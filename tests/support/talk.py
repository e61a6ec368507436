"""A connection that stays open while policies change: both ends are programs in pods of a lab."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Sequence
from types import TracebackType

from netpol_lab.client import LabClient

_ports = itertools.count(18000)
_SERVER = """
import socket, sys, threading
listener = socket.create_server(("", {port}), family=socket.AF_INET6, dualstack_ipv6=True)
def echo(connection):
    while data := connection.recv(64):
        connection.sendall(data)
def accept():
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""
_CLIENT = """
import socket, sys
made = socket.create_connection(("{address}", {port}), 5)
print("ready", flush=True)
for line in sys.stdin:
    made.settimeout(float(line))
    try:
        made.sendall(b"x")
        answer = "answered" if made.recv(64) else "closed"
    except OSError as error:
        answer = type(error).__name__
    print(answer, flush=True)
"""


class _Program:
    """A Python program in a pod, spoken to by lines."""

    def __init__(self, lab: LabClient, where: str, source: str) -> None:
        command = [sys.executable, "-c", source]
        inward, self._input = os.pipe()
        output, outward = os.pipe()
        self._lines = os.fdopen(output)
        self._thread = threading.Thread(target=self._run, args=(lab, where, command, (inward, outward)))
        self._thread.start()

    @staticmethod
    def _run(lab: LabClient, where: str, command: Sequence[str], files: tuple[int, int]) -> None:
        try:
            lab.exec(where, command, files=(files[0], files[1], 2))
        finally:
            for descriptor in files:
                os.close(descriptor)

    def line(self) -> str:
        return self._lines.readline().strip()

    def say(self, text: str) -> None:
        os.write(self._input, f"{text}\n".encode())

    def end(self) -> None:
        os.close(self._input)
        self._thread.join()
        self._lines.close()


class Conversation:
    """One TCP connection from a pod to an echo server in another, opened on entry."""

    def __init__(self, lab: LabClient, source: str, target: str, version: int) -> None:
        self._lab, self._source, self._target, self._version = lab, source, target, version
        self._programs: list[_Program] = []
        self._port = next(_ports)  # two conversations may share a server's pod

    def __enter__(self) -> Conversation:
        namespace, _, name = self._target.partition("/")
        (found,) = self._lab.get("Pod", namespace, name)
        addresses = [ip["ip"] for ip in found["status"]["podIPs"] if (":" in ip["ip"]) == (self._version == 6)]
        server = _Program(self._lab, self._target, _SERVER.format(port=self._port))
        self._programs.append(server)
        assert server.line() == "ready"
        self._client = _Program(self._lab, self._source, _CLIENT.format(port=self._port, address=addresses[0]))
        self._programs.append(self._client)
        assert self._client.line() == "ready"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for program in reversed(self._programs):
            program.end()

    def answers(self, seconds: float = 5.0) -> bool:
        """Whether a message comes back within that time."""
        self._client.say(str(seconds))
        return self._client.line() == "answered"

    def is_cut_within(self, seconds: float) -> bool:
        """Whether, at the end of that time, messages do not come back any more."""
        ended = threading.Event()
        timer = threading.Timer(seconds, ended.set)
        timer.start()
        try:
            while not ended.is_set():
                if not self.answers(1.0):
                    return not self.answers(1.0)
                ended.wait(0.05)
            return not self.answers(1.0)
        finally:
            timer.cancel()
