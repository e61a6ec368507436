"""A server that answers as an API server should not: for what a real one cannot be made to do. Real HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiohttp import web

from netpol_kube.client import ApiClient, Json
from netpol_kube.credentials import Credentials
from netpol_kube.reflector import Reflector

LIMIT = 10.0
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def thing(name: str, version: int, **labels: str) -> Json:
    metadata = {"name": name, "namespace": "n", "uid": f"uid-{name}", "resourceVersion": str(version), "labels": labels}
    return {"metadata": metadata}


def page(version: int, *items: Json, more: str = "") -> Json:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}


def status(code: int, reason: str = "") -> Json:
    return {"kind": "Status", "code": code, "reason": reason, "message": f"{reason or code}, says the test"}


def answer(data: Any, code: int = 200, **headers: str) -> Answer:
    """Plain JSON."""

    async def give(_: web.Request) -> web.StreamResponse:
        return web.Response(body=json.dumps(data), status=code, headers=headers, content_type="application/json")

    return give


def raw(body: bytes, code: int = 200, retry_after: str = "") -> Answer:
    """Bytes as they are."""

    async def give(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=code, headers={"Retry-After": retry_after})

    return give


def half(data: Any) -> Answer:
    """The beginning of an answer, then the connection breaks."""

    async def give(request: web.Request) -> web.StreamResponse:
        content = json.dumps(data).encode()
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response

    return give


def stream(*lines: Any, then: str = "end") -> Answer:
    """A watch: events as (type, object), or bytes as they are. `then`: end, hang, or break."""

    async def give(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            text = line if isinstance(line, bytes) else json.dumps({"type": line[0], "object": line[1]}).encode() + b"\n"
            await response.write(text)
        if then == "hang":
            await request.app[ENDED].wait()
        if then == "break":
            assert request.transport is not None
            request.transport.abort()
        return response

    return give


ENDED = web.AppKey("ended", asyncio.Event)
"""Set when the server ends: a watch that hangs ends then, for the server waits for those that it has not answered."""


class OddApi:
    """Gives `lists` and `watches` in their order, the last one again and again. `asked` are the queries as they came."""

    def __init__(self, lists: list[Answer], watches: list[Answer]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        script = self.watches if "watch" in request.query else self.lists
        give = script.pop(0) if len(script) > 1 else script[0]
        return await give(request)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ApiClient]:
        async with self.served() as server, ApiClient(Credentials(server)) as client:
            yield client

    @contextmanager
    def elsewhere(self) -> Iterator[str]:
        """The server in a thread of its own, for clients that wait for their answers; its address."""
        loop, server = asyncio.new_event_loop(), self.served()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(LIMIT)
            asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(LIMIT)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(LIMIT)
            loop.close()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """The server; its address."""
        app = web.Application()
        app[ENDED] = asyncio.Event()
        app.router.add_route("*", "/{tail:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            app[ENDED].set()
            await runner.cleanup()


class Heard:
    """A sink that keeps what is there, and every word in its order."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}
        self.words: list[str] = []

    def put(self, data: Json) -> None:
        name, version = data["metadata"]["name"], data["metadata"]["resourceVersion"]
        self.there[name] = version
        self.words.append(f"+{name}@{version}")

    def gone(self, namespace: str, name: str) -> None:
        del self.there[name]
        self.words.append(f"-{name}")


def follow(api: OddApi, until: Callable[[Any, Reflector], bool], sink: Heard | None = None) -> tuple[Heard, Reflector]:
    """Run a reflector until the condition holds for its sink and for itself."""

    async def go() -> tuple[Heard, Reflector]:
        async with api.client() as client:
            heard = sink or Heard()
            reflector = Reflector(client, "/api/v1/things", heard, page=2)
            task = asyncio.create_task(reflector.run())
            try:
                async with asyncio.timeout(LIMIT):
                    while not until(heard, reflector) and not task.done():
                        await asyncio.sleep(0.002)
                if task.done():
                    task.result()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            return heard, reflector

    return asyncio.run(go())
