"""Where the API server is and how a program proves who it is: a service account's files, or a kubeconfig.

In: the kubeconfig's paths and a context, or the files of the pod. Out: `Credentials`. Daemons run no plugins: what a kubeconfig
leaves to one is refused with a remedy, unless the caller asks for `plugins`.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from netpol_kube import kubeconfig
from netpol_kube.errors import CredentialsError
from netpol_kube.kubeconfig import Entry, Kubeconfig, read_text

__all__ = ["Credentials", "CredentialsError", "find", "from_kubeconfig", "in_cluster", "through_environment_proxy"]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Credentials:
    """`ca` and `certificate` are PEM text; `token_file` wins over `token` and is read anew, because tokens are rotated.

    `header` gives the whole Authorization header, asked before each request, and wins over tokens and `basic` (user:password).
    `server_name` is the name that the server's certificate must hold, if not the address. `where` says in words what this is.
    """

    server: str
    ca: str = ""
    token: str = ""
    token_file: Path | None = None
    certificate: str = ""
    key: str = ""
    insecure: bool = False
    basic: str = ""
    server_name: str = ""
    proxy: str = ""
    header: Callable[[], str] | None = None
    namespace: str = "default"
    where: str = ""

    def bearer(self) -> str:
        """The token to show now; empty when there is none. Raises CredentialsError for an unreadable file."""
        return self.token if self.token_file is None else read_text(self.token_file).strip()

    def authorization(self) -> str:
        """The Authorization header to send now; empty when there is none. Raises CredentialsError."""
        if self.header is not None:
            return self.header()
        if token := self.bearer():
            return f"Bearer {token}"
        return f"Basic {base64.b64encode(self.basic.encode()).decode()}" if self.basic else ""

    def tls(self) -> ssl.SSLContext | None:
        """The TLS settings; None for plain http. Raises CredentialsError for certificates that are none."""
        if not self.server.startswith("https:"):
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate:
                _load_pair(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError, OSError) as error:
            raise CredentialsError(f"certificates for {self.server}: {error}") from error
        return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """The ssl module reads a client certificate from a file only; this one has no name on any disk."""
    descriptor = os.memfd_create("client-certificate")
    try:
        os.write(descriptor, f"{certificate}\n{key}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def find(path: Path | None = None) -> Credentials:
    """Those of a kubeconfig when given, else the pod's own. Raises CredentialsError."""
    return from_kubeconfig(path) if path is not None else in_cluster()


def in_cluster(folder: Path | None = None) -> Credentials:
    """The service account that the kubelet mounted into this pod. Raises CredentialsError outside a pod."""
    folder = folder or SERVICE_ACCOUNT
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token, namespace = folder / "token", folder / "namespace"
    if not host or not token.exists():
        raise CredentialsError(
            "not in a pod: no KUBERNETES_SERVICE_HOST or no service account token", "outside a cluster, name a --kubeconfig FILE"
        )
    return Credentials(
        f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca=read_text(folder / "ca.crt"),
        token_file=token,
        namespace=(read_text(namespace).strip() if namespace.exists() else "") or "default",
        where="this pod's cluster",
    )


def from_kubeconfig(paths: Path | Sequence[Path], context: str | None = None, *, plugins: bool = False) -> Credentials:
    """The credentials of one context (default: the current one). Raises CredentialsError naming file and entry."""
    config = kubeconfig.read([paths] if isinstance(paths, Path) else paths)
    chosen = config.context(context)
    cluster = config.named(config.clusters, chosen, "cluster")
    own = _of_cluster(cluster, chosen)
    if not chosen.text("user"):
        return own
    user = config.named(config.users, chosen, "user")
    own = _with_user(own, user)
    plugin = _plugin(user)
    if not plugin:
        return own
    if not plugins:
        raise CredentialsError(
            f"{user.where} needs {plugin!r}, which the daemons do not run",
            "give them a service account's token (kubectl create token)",
        )
    return _with_plugin(own, config, chosen, user)


def _of_cluster(cluster: Entry, context: Entry) -> Credentials:
    server = cluster.text("server").rstrip("/")
    if not server:
        raise CredentialsError(f"{cluster.where} has no server")
    ca, insecure = cluster.pem("certificate-authority"), cluster.fields.get("insecure-skip-tls-verify") is True
    if "://" not in server:
        server = f"{'https' if ca or insecure else 'http'}://{server}"
    proxy = cluster.text("proxy-url")
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        raise CredentialsError(f"{cluster.where}: its proxy-url is neither http nor https")
    return Credentials(
        server,
        ca=ca,
        insecure=insecure,
        server_name=cluster.text("tls-server-name"),
        proxy=proxy,
        namespace=context.text("namespace") or "default",
        where=f"context {context.name}",
    )


def _with_user(own: Credentials, user: Entry) -> Credentials:
    certificate, key = user.pem("client-certificate"), user.pem("client-key")
    if bool(certificate) != bool(key):
        raise CredentialsError(f"{user.where}: client-certificate and client-key belong together")
    name = user.text("username")
    return replace(
        own,
        token=user.text("token"),
        token_file=user.path("tokenFile"),
        certificate=certificate,
        key=key,
        basic=f"{name}:{user.text('password')}" if name else "",
    )


def _plugin(user: Entry) -> str:
    """Which plugin must be run. As kubectl: a token that is there needs no exec plugin."""
    if user.fields.get("auth-provider"):
        return "auth-provider"
    return "exec" if user.fields.get("exec") and not (user.fields.get("token") or user.fields.get("tokenFile")) else ""


def _with_plugin(own: Credentials, config: Kubeconfig, context: Entry, user: Entry) -> Credentials:
    from netpol_kube import plugins

    try:
        handed = plugins.ask(config.paths, context.name)
    except CredentialsError as error:
        raise CredentialsError(f"{user.where}: {error}", "kubectl get --raw /version shows whether it works there") from error
    return replace(own, header=handed.header, certificate=handed.certificate, key=handed.key)


def through_environment_proxy(own: Credentials) -> Credentials:
    """As kubectl: a proxy of the environment (HTTPS_PROXY, NO_PROXY) is used where the kubeconfig names none."""
    from urllib.request import getproxies

    proxies, address = getproxies(), urlsplit(own.server)
    proxy = proxies.get(address.scheme) or proxies.get("all") or ""
    if own.proxy or not proxy or _is_direct(address.hostname or "", address.netloc, proxies.get("no", "")):
        return own
    return replace(own, proxy=proxy)


def _is_direct(host: str, netloc: str, no_proxy: str) -> bool:
    """This machine, and what NO_PROXY names: *, a domain with all below it, an address, a network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_covers(entry.strip().lower().lstrip("."), host, netloc, address) for entry in no_proxy.split(","))


def _covers(entry: str, host: str, netloc: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            pass
    return entry == "*" or (bool(entry) and (entry in (host, netloc) or host.endswith(f".{entry}")))
