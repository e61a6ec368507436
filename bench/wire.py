"""wire.c in Python, for machines without a C compiler: the same modes, the same output, a lower ceiling."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator

MESSAGE, CHUNK, BACKLOG, LIMIT_SECONDS = 64, 1 << 17, 1024, 5
FIRST_PORT, LAST_PORT, ANSWER_LIMIT = 1024, 65000, 200_000_000
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


def echo(port: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as own:
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        own.bind(("", port))
        print("ready", flush=True)
        while True:
            data, sender = own.recvfrom(CHUNK)
            own.sendto(data, sender)


def sockets(host: str, port: int) -> Iterator[socket.socket]:
    """Connected ones, each at the next free port."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
    number = FIRST_PORT
    while True:
        made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        while True:
            own, number = number, number + 1 if number < LAST_PORT else FIRST_PORT
            try:
                made.bind(("", own))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        made.connect((host, port))
        yield made


def probe(host: str, port: int, period_us: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made, poller, message = sockets(host, port), select.epoll(), bytes(MESSAGE)
    sent: list[int] = []  # when
    answered: set[int] = set()
    waiting: dict[int, tuple[int, socket.socket]] = {}  # by file: which one it is
    period, following, end = period_us * 1000, time.monotonic_ns(), 0
    poller.register(0, select.EPOLLIN)
    while (now := time.monotonic_ns()) < end or not end:
        if following <= now and not end:
            one = next(made)
            poller.register(one, select.EPOLLIN)
            waiting[one.fileno()] = len(sent), one
            sent.append(time.monotonic_ns())
            with contextlib.suppress(OSError):  # refused by the other end itself: not answered
                one.send(message)
            following = max(following + period, now)
        while waiting and sent[(oldest := next(iter(waiting.values())))[0]] + ANSWER_LIMIT < now:
            waiting.pop(oldest[1].fileno())
            oldest[1].close()
        for number, _ in poller.poll(max(0, (end or following) - now) / 1e9):
            if number == 0:
                if not os.read(0, MESSAGE):
                    poller.unregister(0)
                    end = now + ANSWER_LIMIT
                continue
            index, one = waiting.pop(number)
            with contextlib.suppress(OSError):  # likewise
                answered.update({index} if one.recv(MESSAGE) else ())
            one.close()
    print("\n".join(f"{at} {int(index in answered)}" for index, at in enumerate(sent)))


def main(arguments: list[str]) -> int:
    match arguments:
        case ["serve" | "sink" as mode, port]:
            serve(int(port), mode == "serve")
        case ["echo", port]:
            echo(int(port))
        case ["probe", host, port, period]:
            probe(host, int(port), int(period))
        case ["connect", host, port, seconds]:
            print(f"{connections(host, int(port), float(seconds)):.1f}")
        case ["stream", host, port, seconds]:
            print(f"{stream(host, int(port), float(seconds)):.1f}")
        case _:
            print(
                "usage: wire.py serve|sink|echo PORT, connect|stream HOST PORT SECONDS, probe HOST PORT PERIOD_US",
                file=sys.stderr,
            )
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
