"""The Kubernetes API as JSON over one pool of connections: requests, paged lists, watches. No models, no caches.

In: paths as the API server spells them (`/api/v1/pods`) and plain JSON values. Out: the same, or an ApiError (the server said
no), ApiUnreachable (nobody answered, or the connection broke) or ProtocolError (the answer is not what the API promises).
Nothing is tried again, but for `listed`, and a busy server if the caller wants that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from netpol_kube.aiohttp_import import aiohttp
from netpol_kube.backoff import Backoff
from netpol_kube.credentials import Credentials
from netpol_kube.errors import ApiError, ApiUnreachable, CredentialsError, Json, KubeError, ProtocolError, reason_of

__all__ = ["ApiClient", "ApiError", "ApiUnreachable", "Json", "KubeError", "Page", "ProtocolError", "checked_object"]

REQUEST_SECONDS = 60.0
"""For one answer, headers to end; from afar, between two parts of it."""
CONNECT_SECONDS, FAR_CONNECT_SECONDS = 5.0, 10.0
WAY_SECONDS = 60.0
"""Until a connection is there to be used, a proxy's answer included: aiohttp itself would wait for that for ever."""
SILENCE_SECONDS = 90.0
"""A watch that is silent for longer is opened again. Bookmarks come every minute, but none for a kind that never changed since
the API server started."""
WATCH_SECONDS = (240, 480)
"""The server ends a watch after a time between these, so that a cluster's watches do not all come again at once."""
LONGEST_RETRY_AFTER = 60.0
"""Seconds for which a server may ask to be left alone."""
LIST_TRIES = 3
"""How often a list whose pages have expired is begun again, before it is asked for in one piece."""
BUSY_SECONDS, LONGEST_BUSY_SECONDS = 0.2, 2.0
"""Before a busy server is asked again: the first wait and the longest."""
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
_TEXTS = ("name", "namespace", "uid", "resourceVersion")
PATCH_KINDS = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class Page(NamedTuple):
    """One page of a list; `resource_version` is the same in all pages of one list."""

    items: list[Json]
    resource_version: str


class ApiClient:
    """One API server. Use as `async with ApiClient(credentials) as client`, or call `close`; it can be used again after that.

    `far`: the server may be at the end of a slow line, as a person's is: answers are compressed and may take their time.
    `busy_tries`: how often a request is sent again that the server refuses because it has too much to do (429).
    """

    def __init__(
        self,
        credentials: Credentials,
        user_agent: str = "npctl",
        connections: int = 64,
        *,
        far: bool = False,
        busy_tries: int = 0,
    ) -> None:
        self.credentials = credentials
        self._tls = credentials.tls()
        self._agent = user_agent
        self._connections = connections
        self._far = far
        self._busy_tries = busy_tries
        self._open: aiohttp.ClientSession | None = None
        self.requests = 0

    async def __aenter__(self) -> ApiClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._open is not None:
            session, self._open = self._open, None
            await session.close()

    async def get(self, path: str, **params: str) -> Json:
        """One object, or whatever JSON the path gives."""
        return await self._json("GET", path, params)

    async def find(self, path: str, **params: str) -> Json | None:
        """One object; None when there is none."""
        try:
            return await self.get(path, **params)
        except ApiError as error:
            if not error.is_not_found:
                raise
            return None

    async def create(self, path: str, body: Json, **params: str) -> Json:
        return await self._json("POST", path, params, body)

    async def replace(self, path: str, body: Json, **params: str) -> Json:
        return await self._json("PUT", path, params, body)

    async def patch(self, path: str, body: Any, kind: str = "merge", **params: str) -> Json:
        """`kind`: merge, json, strategic, or apply (then `fieldManager` is a parameter)."""
        return await self._json("PATCH", path, params, body, {"Content-Type": PATCH_KINDS[kind]})

    async def delete(self, path: str, body: Json | None = None, **params: str) -> Json:
        return await self._json("DELETE", path, params, body)

    async def pages(self, path: str, *, limit: int = 500, metadata_only: bool = False, **params: str) -> AsyncIterator[Page]:
        """A list, page by page, all of one moment. Raises ApiError with `is_gone` when that moment is too long ago.

        The server makes the next page while the reader looks at this one.
        """
        headers = {"Accept": _METADATA.format("List")} if metadata_only else {}

        def asked(**more: str) -> asyncio.Task[Json]:
            return asyncio.create_task(self._json("GET", path, {**params, "limit": str(limit), **more}, headers=headers))

        request, token = asked(), None
        try:
            while True:
                items, metadata = _page(path, await request)
                last, token = token, metadata.get("continue")
                if token and (not isinstance(token, str) or token == last):
                    raise ProtocolError(f"{path}: a list that goes on where it was")
                if token:
                    request = asked(**{"continue": token})
                yield Page(items, _text(metadata.get("resourceVersion")))
                if not token:
                    return
        finally:
            # Whoever stops reading does not hear what becomes of the page that he has not waited for.
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

    async def listed(self, path: str, **params: Any) -> list[Json]:
        """A whole list. One whose pages expire on the way is begun again, and asked for in one piece if that goes on."""
        for limit in (500,) * LIST_TRIES + (0,):
            try:
                return [item async for page in self.pages(path, limit=limit, **params) for item in page.items]
            except ApiError as error:
                if not error.is_gone or not limit:
                    raise
        raise AssertionError("the last try returns or raises")

    async def watch(
        self, path: str, resource_version: str, metadata_only: bool = False, **params: str
    ) -> AsyncIterator[tuple[str, Json]]:
        """(type, object) for each event after `resource_version`, bookmarks too, until the server ends the watch or is silent.

        Raises ApiError (`is_gone`: list again), ApiUnreachable, ProtocolError.
        """
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": resource_version, **params}
        headers = {"Accept": _METADATA.format("")} if metadata_only else {}
        query.setdefault("timeoutSeconds", str(random.randint(*WATCH_SECONDS)))
        timeout = aiohttp.ClientTimeout(
            total=None, connect=WAY_SECONDS, sock_connect=self._connect_seconds, sock_read=SILENCE_SECONDS
        )
        try:
            async with await self._request("GET", path, query, None, headers, timeout) as response:
                if response.status != 200:
                    raise _error(response, await response.read())
                with contextlib.suppress(aiohttp.SocketTimeoutError):  # the next try tells whether there still is a server
                    async for line in _lines(response):
                        yield _event(path, line)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnreachable(f"watch {path}", reason_of(error)) from error

    @property
    def _connect_seconds(self) -> float:
        return FAR_CONNECT_SECONDS if self._far else CONNECT_SECONDS

    async def _json(
        self, method: str, path: str, params: Mapping[str, str], body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Json:
        backoff = Backoff(BUSY_SECONDS, LONGEST_BUSY_SECONDS, factor=4.0)
        for _ in range(self._busy_tries):
            try:
                return await self._answer(method, path, params, body, headers or {})
            except ApiError as error:
                if error.status != 429:
                    raise
                await asyncio.sleep(backoff.next_seconds(min(error.retry_after, LONGEST_BUSY_SECONDS)))
        return await self._answer(method, path, params, body, headers or {})

    async def _answer(self, method: str, path: str, params: Mapping[str, str], body: Any, headers: Mapping[str, str]) -> Json:
        limit = {"sock_read": REQUEST_SECONDS} if self._far else {"total": REQUEST_SECONDS}
        timeout = aiohttp.ClientTimeout(connect=WAY_SECONDS, sock_connect=self._connect_seconds, **limit)
        try:
            async with await self._request(method, path, params, body, headers, timeout) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnreachable(f"{method} {path}", reason_of(error)) from error
        if response.status >= 300:
            raise _error(response, content)
        try:
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"{method} {path}: not JSON: {error}") from error
        if not isinstance(data, dict):
            raise ProtocolError(f"{method} {path}: not a JSON object")
        return data

    async def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: Any,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        self.requests += 1
        try:
            authorization = self.credentials.authorization()
        except CredentialsError as error:
            raise ApiUnreachable(f"{method} {path}", str(error)) from error
        sent = {**headers, **({"Authorization": authorization} if authorization else {})}
        data = None
        if body is not None:
            data = json.dumps(body, separators=(",", ":")).encode()
            sent.setdefault("Content-Type", "application/json")
        return await self._session().request(
            method,
            self.credentials.server + path,
            params=params,
            data=data,
            headers=sent,
            timeout=timeout,
            ssl=self._tls or True,
            server_hostname=self.credentials.server_name or None,
            proxy=self.credentials.proxy or None,
            allow_redirects=False,
        )

    def _session(self) -> aiohttp.ClientSession:
        # Made inside the running loop, to which aiohttp ties it.
        if self._open is None:
            connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=60, force_close=False)
            # Uncompressed: packing and unpacking costs more processor time than the node network saves.
            encoding = "gzip" if self._far else "identity"
            headers = {"User-Agent": self._agent, "Accept": "application/json", "Accept-Encoding": encoding}
            self._open = aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False)
        return self._open


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length (aiohttp's own reader refuses long ones); an unfinished last line is dropped."""
    parts: list[bytes] = []
    async for chunk in response.content.iter_any():
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*parts, line))
            parts = []
        if rest:
            parts.append(rest)


def _page(path: str, data: Json) -> tuple[list[Json], Json]:
    """The items and the metadata of a list. Raises ProtocolError."""
    # An empty list of metadata is spelled null.
    metadata, items = data.get("metadata"), data.get("items") if data.get("items") is not None else []
    if not isinstance(metadata, dict) or "items" not in data or not isinstance(items, list):
        raise ProtocolError(f"{path}: not a list")
    for item in items:
        checked_object(path, item)
    return items, metadata


def _event(path: str, line: bytes) -> tuple[str, Json]:
    try:
        event = json.loads(line)
        kind, data = event["type"], event["object"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"watch {path}: not an event: {line[:80]!r}") from error
    if kind == "ERROR" and isinstance(data, dict):
        code, message = data.get("code"), _text(data.get("message"))
        raise ApiError(code if type(code) is int else 500, _text(data.get("reason")), message or "watch ended")
    return str(kind), checked_object(f"watch {path}", data, named=kind != "BOOKMARK")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def checked_object(where: str, data: object, named: bool = True) -> Json:
    """`data` itself, whose metadata are what the API promises; the rest is for whoever parses it. Raises ProtocolError."""
    metadata = data.get("metadata") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(metadata, dict):
        raise ProtocolError(f"{where}: {type(data).__name__} without metadata in place of an object")
    for name in _TEXTS:
        if not isinstance(metadata.get(name, ""), str | None):
            raise ProtocolError(f"{where}: an object whose metadata.{name} is no text")
    if named and not metadata.get("name"):
        raise ProtocolError(f"{where}: an object without metadata.name (uid {metadata.get('uid')!r:.80})")
    labels = metadata.get("labels")
    if labels is not None and not (isinstance(labels, dict) and all(isinstance(v, str) for v in labels.values())):
        raise ProtocolError(f"{where}: an object whose metadata.labels are no texts by name")
    return data


def _error(response: aiohttp.ClientResponse, content: bytes) -> ApiError:
    """What the server said, from its Status object or whatever stands in between (a proxy's page)."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    status = data if isinstance(data, dict) else {}
    message = str(_text(status.get("message")) or content[:200].decode(errors="replace").strip() or response.reason or "")
    try:
        # In this order NaN is 0.
        retry_after = min(LONGEST_RETRY_AFTER, max(0.0, float(response.headers.get("Retry-After") or 0)))
    except ValueError:
        retry_after = 0.0
    return ApiError(response.status, _text(status.get("reason")), message, retry_after, status)
