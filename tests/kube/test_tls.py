"""Which servers are trusted, and who the client is to them: real TLS on loopback, with a proxy and without."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from netpol_kube.client import ApiClient
from netpol_kube.credentials import from_kubeconfig
from netpol_kube.errors import ApiUnreachable
from netpol_lab.control.certificates import Keys, make_identity, make_keys

NAME = "apiserver.example"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """A server that is called by a name which no resolver knows."""
    return make_keys(tmp_path_factory.mktemp("keys") / "keys", [NAME], [])


class Server:
    """Says over TLS who the client is. As `proxy` it is asked for a way to somewhere (CONNECT) and counts that."""

    def __init__(self, keys: Keys, client: Path | None = None) -> None:
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(keys.authority))
        self._tls.load_cert_chain(keys.certificate, keys.key)
        if client is not None:
            self._tls.load_verify_locations(client)
        self._tls.verify_mode = ssl.CERT_OPTIONAL
        self.tunnels: list[str] = []

    @asynccontextmanager
    async def started(self) -> AsyncIterator[tuple[int, int]]:
        """The ports of the server and of the proxy."""
        app = web.Application()
        app.router.add_get("/who", self._who)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        port = runner.addresses[0][1]
        proxy = await asyncio.start_server(lambda r, w: self._tunnel(r, w, port), "127.0.0.1", 0)
        try:
            yield port, proxy.sockets[0].getsockname()[1]
        finally:
            proxy.close()
            await runner.cleanup()

    async def _who(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        subject = (request.transport.get_extra_info("peercert") or {}).get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        return web.json_response({"certificate": names, "header": request.headers.get("Authorization", "")})

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.tunnels.append(head.decode().splitlines()[0])
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer), return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    finally:
        target.close()


def ask(keys: Keys, folder: Path, cluster: dict[str, Any], user: dict[str, Any], server: Server | None = None) -> dict[str, Any]:
    """What the server says to a client with this kubeconfig; PORT and PROXY in it are the ports."""

    async def go() -> dict[str, Any]:
        async with (server or Server(keys)).started() as (port, proxy):
            data = {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:PORT", **cluster}}],
                "users": [{"name": "u", "user": user}],
            }
            path = folder / "config"
            path.write_text(yaml.safe_dump(data).replace("PORT", str(port)).replace("PROXY", str(proxy)))
            async with ApiClient(from_kubeconfig(path)) as client:
                return await client.get("/who")

    return asyncio.run(go())


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_the_authority_and_the_name_of_the_kubeconfig_are_what_is_checked(keys: Keys, tmp_path: Path) -> None:
    cluster = {"certificate-authority-data": encoded(keys.authority), "tls-server-name": NAME}
    assert ask(keys, tmp_path, cluster, {"token": "t"}) == {"certificate": [], "header": "Bearer t"}


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        ({"tls-server-name": NAME}, "its certificate is not trusted: self-signed certificate in certificate chain"),
        ({"certificate-authority": "AUTHORITY"}, "its certificate is not trusted: IP address mismatch"),
        ({"certificate-authority": "AUTHORITY", "tls-server-name": "other"}, "its certificate is not trusted: Hostname mismatch"),
        ({"server": "https://127.0.0.1:1"}, "connection refused"),
        ({"server": "https://no-such-name.invalid"}, "its name "),
        ({"proxy-url": "http://127.0.0.1:1"}, "connection refused"),
    ],
)
def test_who_cannot_be_trusted_or_reached_is_told_in_words(
    keys: Keys, tmp_path: Path, cluster: dict[str, Any], reason: str
) -> None:
    cluster = {k: str(keys.authority) if v == "AUTHORITY" else v for k, v in cluster.items()}
    with pytest.raises(ApiUnreachable) as error:
        ask(keys, tmp_path, cluster, {})
    assert error.value.reason.startswith(reason) and "\n" not in str(error.value)


def test_insecure_means_any_server(keys: Keys, tmp_path: Path) -> None:
    assert ask(keys, tmp_path, {"insecure-skip-tls-verify": True}, {})["header"] == ""


@pytest.mark.parametrize("as_data", [False, True])
def test_a_client_certificate_proves_who_one_is(keys: Keys, tmp_path: Path, as_data: bool) -> None:
    certificate, key = make_identity(keys.authority.parent, "somebody", "/CN=somebody")
    user = {
        "client-certificate-data" if as_data else "client-certificate": encoded(certificate) if as_data else str(certificate),
        "client-key-data" if as_data else "client-key": encoded(key) if as_data else str(key),
    }
    cluster = {"certificate-authority": str(keys.authority), "tls-server-name": NAME}
    assert ask(keys, tmp_path, cluster, user, Server(keys, certificate))["certificate"] == ["somebody"]


def test_a_proxy_of_the_kubeconfig_is_asked_for_the_way(keys: Keys, tmp_path: Path) -> None:
    server = Server(keys)
    cluster = {
        "server": "https://no-such-name.invalid:6443",
        "proxy-url": "http://127.0.0.1:PROXY",
        "certificate-authority": str(keys.authority),
        "tls-server-name": NAME,
    }
    assert ask(keys, tmp_path, cluster, {"username": "u", "password": "p"}, server)["header"] == "Basic dTpw"
    assert server.tunnels == ["CONNECT no-such-name.invalid:6443 HTTP/1.1"]


class Refusing(Server):
    """Its proxy opens no way: it says so, or says nothing."""

    def __init__(self, keys: Keys, answer: bytes) -> None:
        super().__init__(keys)
        self._proxys_answer = answer

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._proxys_answer)
        await reader.read()
        writer.close()


def test_a_proxys_password_is_in_no_error(keys: Keys, tmp_path: Path) -> None:
    refusing = Refusing(keys, b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(ApiUnreachable) as error:
        ask(keys, tmp_path, {"proxy-url": "http://user:secret@127.0.0.1:PROXY"}, {}, refusing)
    assert error.value.reason == "the proxy answered 407 Proxy Authentication Required"
    assert "secret" not in str(error.value)


def test_a_proxy_that_says_nothing_is_not_waited_for(keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netpol_kube.client.WAY_SECONDS", 0.2)
    with pytest.raises(ApiUnreachable, match="no answer in time"):
        ask(keys, tmp_path, {"proxy-url": "http://127.0.0.1:PROXY"}, {}, Refusing(keys, b""))
