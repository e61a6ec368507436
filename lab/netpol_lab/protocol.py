"""How a client and a lab's supervisor talk: one JSON object a line over LAB/control.sock.

A request is one line; open files travel with it: the client's own three for `exec`, a listening socket for `up`. Then come any
number of {"progress": TEXT} lines and one last {"ok": true, "result": ...} or {"ok": false, "error": TEXT, "kind": CLASS}.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOCKET_NAME = "control.sock"
MAX_REQUEST_BYTES = 64 * 1024 * 1024


@contextmanager
def _short(directory: Path) -> Iterator[str]:
    """The socket's path through a descriptor: a Unix socket's address holds 107 bytes, a state directory may be longer."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


def listen(directory: Path) -> socket.socket:
    """The supervisor's end, readable and writable by its owner only."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(directory) as path:
        made.bind(path)
        os.chmod(path, 0o600)
    made.listen(64)
    return made


def connect(directory: Path) -> socket.socket:
    """A client's end. Raises OSError where nobody listens."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(directory) as path:
            made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """One line, with open files beside it."""
    line = json.dumps(message).encode() + b"\n"
    if descriptors:
        sent = socket.send_fds(connection, [line], list(descriptors))
        line = line[sent:]
    if line:  # even nothing cannot be sent to somebody who has already answered and closed
        connection.sendall(line)


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The supervisor's side: the request, and the files that came with it. Raises ValueError for what is none."""
    data, descriptors, _, _ = socket.recv_fds(connection, 65536, 3)
    parts = [data]
    size = len(data)
    while data and not data.endswith(b"\n") and size < MAX_REQUEST_BYTES:
        data = connection.recv(1 << 20)
        parts.append(data)
        size += len(data)
    request = json.loads(b"".join(parts) or b"{}")
    if not isinstance(request, dict):
        raise ValueError("a request is a JSON object")
    return request, list(descriptors)


def replies(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """The client's side: every line that comes."""
    with connection.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line)
