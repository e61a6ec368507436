"""A wire between a program and the API server, which counts bytes and can be cut, as networks are.

with Tap(credentials) as tap: ApiClient(tap.credentials) ...; tap.received; tap.cut(); tap.mend()
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace
from types import TracebackType
from urllib.parse import urlsplit

from netpol_kube.credentials import Credentials

CHUNK = 1 << 16


class Tap:
    """A listener on loopback whose connections go on to the server that the credentials name; TLS passes through untouched."""

    def __init__(self, credentials: Credentials) -> None:
        there = urlsplit(credentials.server)
        self._target = (there.hostname or "", there.port or 443)
        self._listener = socket.create_server(("127.0.0.1", 0))
        # The server's certificate holds for 127.0.0.1 too.
        self.credentials = replace(credentials, server=f"https://127.0.0.1:{self._listener.getsockname()[1]}")
        self.received = 0
        self._whole = threading.Event()
        self._whole.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Tap:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(10)

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        self._whole.clear()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._whole.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if not self._whole.is_set():
                    raise ConnectionRefusedError
                far = socket.create_connection(self._target, timeout=10)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink, counts in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pump, args=(source, sink, counts), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self.received += len(data) if counts else 0
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        if counts:
            # Both directions are over soon after the server's: nothing else is asked on this connection.
            with self._lock:
                self._open -= {source, sink}
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                    end.close()
