"""wire.c in Python, for machines without a C compiler: the same modes, the same output, a lower ceiling."""

from __future__ import annotations

import socket
import struct
import sys
import time

MESSAGE, CHUNK, BACKLOG, LIMIT_SECONDS = 64, 1 << 17, 1024, 5
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def serve(port: int, echo: bool) -> None:
    with socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    while data := connection.recv(MESSAGE if echo else CHUNK):
                        if echo:
                            connection.sendall(data)
                except ConnectionResetError:
                    pass  # that is how the client ends every connection


def connect(host: str, port: int) -> socket.socket:
    made = socket.create_connection((host, port), LIMIT_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    return made


def connections(host: str, port: int, seconds: float) -> float:
    count, start, message = 0, time.monotonic(), bytes(MESSAGE)
    while time.monotonic() - start < seconds:
        with connect(host, port) as made:
            made.sendall(message)
            made.recv(MESSAGE, socket.MSG_WAITALL)
        count += 1
    return count / (time.monotonic() - start)


def stream(host: str, port: int, seconds: float) -> float:
    sent, chunk = 0, bytes(CHUNK)
    with connect(host, port) as made:
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            sent += made.send(chunk)
        return sent / (time.monotonic() - start)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["serve" | "sink" as mode, port]:
            serve(int(port), mode == "serve")
        case ["connect", host, port, seconds]:
            print(f"{connections(host, int(port), float(seconds)):.1f}")
        case ["stream", host, port, seconds]:
            print(f"{stream(host, int(port), float(seconds)):.1f}")
        case _:
            print("usage: wire.py serve|sink PORT, wire.py connect|stream HOST PORT SECONDS", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
