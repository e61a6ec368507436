"""What an agent answers on its port, all of it read-only: health for the kubelet, metrics, and the rules of one pod.

    GET /healthz           200 while the agent's loop goes round, else 503 and why
    GET /readyz            200 once the node's rules are in force
    GET /metrics           Prometheus
    GET /v1/pods/NS/NAME   what the kernel holds for a pod of this node (see `view`)

In: an Agent. Out: answers from the background's loop; what takes long runs in a thread of its own, one at a time. The port is the
node's, so whoever reaches the node can ask: a connection too many ends the oldest, never the newest, which may be the kubelet's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from netpol_agent.errors import AgentError, KernelError
from netpol_compiler.model.objects import Key

log = logging.getLogger("agent")

STUCK_SECONDS = 30.0
"""The loop looks at the kernel each second, and a program that it starts may take some; more than this is no progress."""
CONNECTION_LIMIT = 64
RULE_REQUEST_LIMIT = 8
"""Requests for a pod's rules that may wait for their turn."""

View = Callable[[Key], dict[str, Any] | None]


class AgentEndpoints:
    """The answers, without a server. `alive_at`: when the agent's loop last went round (time.monotonic); `ready`: why the
    node's rules are not in force, empty when they are; `view`: raises KernelError or TimeoutError."""

    def __init__(self, alive_at: Callable[[], float], ready: Callable[[], str], metrics: Callable[[], bytes], view: View) -> None:
        self._alive_at = alive_at
        """When the agent's loop last went round."""
        self._ready = ready
        """Why the node's rules are not in force; empty when they are."""
        self._metrics = metrics
        """The metrics in Prometheus' text format."""
        self._view = view
        """What the kernel holds for a pod."""
        self._turn = asyncio.Lock()
        """Held while one pod's rules are read."""
        self._waiting = 0
        """Requests for a pod's rules that are not answered yet."""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        known = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._figures}
        pod = _pod_of(request.path)
        if request.path not in known and pod is None:
            return _answer(404, "no such path: there are /healthz, /readyz, /metrics and /v1/pods/NAMESPACE/NAME")
        if request.method not in ("GET", "HEAD"):
            return _answer(405, "this only answers GET and HEAD", {"Allow": "GET, HEAD"})
        return known[request.path]() if pod is None else await self._rules(pod)

    def _healthz(self) -> web.Response:
        silent = time.monotonic() - self._alive_at()
        if silent > STUCK_SECONDS:
            return _answer(503, f"the agent's loop made no progress for {silent:.0f} s")
        return web.Response(text="ok\n")

    def _readyz(self) -> web.Response:
        reason = self._ready()
        return _answer(503, reason) if reason else web.Response(text="ok\n")

    def _figures(self) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _rules(self, pod: Key) -> web.Response:
        if self._waiting >= RULE_REQUEST_LIMIT:
            return _answer(503, "too many ask for rules at the same time; ask again", {"Retry-After": "1"})
        self._waiting += 1
        try:
            async with self._turn:
                answer = await asyncio.to_thread(self._view, pod)
        except KernelError as error:
            return _answer(503, str(error))
        except TimeoutError:
            return _answer(503, "the agent is busy writing to the kernel; ask again", {"Retry-After": "5"})
        finally:
            self._waiting -= 1
        return _answer(404, f"pod {pod} is not on this node") if answer is None else web.json_response(answer)


class AgentServer:
    """`AgentEndpoints` on a port."""

    def __init__(self, endpoints: AgentEndpoints) -> None:
        self._endpoints = endpoints
        """What answers."""
        self._server: web.Server | None = None
        """Speaks HTTP, from `start` on."""
        self._listener: asyncio.Server | None = None
        """Accepts connections, from `start` on."""

    async def start(self, host: str, port: int) -> int:
        """Listen; an empty host is every address. Returns the port. Raises AgentError."""
        self._server = _BoundedServer(self._endpoints, access_log=None, keepalive_timeout=15, tcp_keepalive=False)
        try:
            self._listener = await asyncio.get_running_loop().create_server(self._server, host or None, port)
        except OSError as error:
            raise AgentError(f"cannot listen on {host}:{port}: {error.strerror or error}", "choose another --http") from error
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            await self._server.shutdown(1.0)


class _BoundedServer(web.Server):
    """aiohttp's server, which ends its oldest connections when there are too many."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        connections = self.connections
        for oldest in connections[: max(0, len(connections) - CONNECTION_LIMIT)]:
            oldest.force_close()


def _pod_of(path: str) -> Key | None:
    parts = path.split("/")
    if len(parts) == 5 and parts[:3] == ["", "v1", "pods"] and parts[3] and parts[4]:
        return Key(parts[3], parts[4])
    return None


def _answer(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, text=json.dumps({"message": message}) + "\n", content_type="application/json", headers=headers
    )
