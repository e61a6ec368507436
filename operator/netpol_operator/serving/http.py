"""/healthz, /readyz and /metrics of the operator, served from its own loop: a loop that hangs does not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web


class HttpServer:
    """`unhealthy` and `unready` say why not, in words; empty text is well."""

    def __init__(
        self, host: str, port: int, metrics: Callable[[], bytes], unhealthy: Callable[[], str], unready: Callable[[], str]
    ) -> None:
        self._host, self._port = host, port
        app = web.Application()

        async def show(_: web.Request) -> web.Response:
            return web.Response(body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

        app.add_routes([web.get("/healthz", _probe(unhealthy)), web.get("/readyz", _probe(unready)), web.get("/metrics", show)])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self) -> None:
        """Raises OSError when the address cannot be had."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        await self._runner.cleanup()


def _probe(why_not: Callable[[], str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        words = why_not()
        return web.Response(text=(words or "ok") + "\n", status=503 if words else 200)

    return answer
