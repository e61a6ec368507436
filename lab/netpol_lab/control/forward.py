"""One door from the host to the API server: a listening loopback socket of the client's, whose connections go on inside the lab.

In: the socket, which the client made in the host's network and passed over the control socket, and how to reach the server.
Out: bytes in both directions, each direction ended on its own (half-close). Lives in an event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

CHUNK_BYTES = 1 << 18
Dial = Callable[[], "socket.socket"]


class Forwarder:
    """Accepts until `close`. `dial` gives a fresh non-blocking socket of the server's network; it is connected to `target`."""

    def __init__(self, listener: socket.socket, dial: Dial, target: tuple[str, int]) -> None:
        self._listener = listener
        self._dial = dial
        self._target = target
        self._server: asyncio.Server | None = None
        self.port = int(listener.getsockname()[1])

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener, limit=CHUNK_BYTES, backlog=1024)

    def close(self) -> None:
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inside = self._dial()
            try:
                await asyncio.get_running_loop().sock_connect(inside, self._target)
                far_reader, far_writer = await asyncio.open_connection(sock=inside, limit=CHUNK_BYTES)
            except OSError:
                inside.close()
                raise
        except OSError:
            # As a server that is down: the connection is closed, and the client says so in its own words.
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        except OSError:
            writer.transport.abort()
            far_writer.transport.abort()
        finally:
            for end in (writer, far_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All bytes until the end, which is passed on."""
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if not writer.is_closing():
        writer.write_eof()


def loopback_listener() -> socket.socket:
    """The client's part: a listening socket of the calling process's network, on a port that the kernel chooses."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.bind(("127.0.0.1", 0))
        made.listen(1024)
    except OSError:
        made.close()
        raise
    return made
