"""Where the API server is and how the daemons prove who they are: a service account's files, or a kubeconfig.

The daemons read kubeconfigs themselves, because the kubernetes library costs 40 MB and half a second to import. What only
people's kubeconfigs have (exec plugins, auth providers) is refused with a remedy; the command line uses the library.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class CredentialsError(Exception):
    """No usable credentials; `remedy` says what to do."""

    def __init__(self, what: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class Credentials:
    """`ca` and `certificate` are PEM text; `token_file` wins over `token` and is read anew, because tokens are rotated."""

    server: str
    ca: str = ""
    token: str = ""
    token_file: Path | None = None
    certificate: str = ""
    key: str = ""
    insecure: bool = False

    def bearer(self) -> str:
        """The token to show now; empty when there is none. Raises CredentialsError for an unreadable file."""
        if self.token_file is None:
            return self.token
        try:
            return self.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialsError(f"token file {self.token_file}: {error}") from error

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


def find(kubeconfig: Path | None = None) -> Credentials:
    """Those of `kubeconfig` when given, else the pod's own. Raises CredentialsError."""
    return from_kubeconfig(kubeconfig) if kubeconfig is not None else in_cluster()


def in_cluster(folder: Path = SERVICE_ACCOUNT) -> Credentials:
    """The service account that the kubelet mounted into this pod. Raises CredentialsError outside a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = folder / "token"
    if not host or not token.exists():
        raise CredentialsError(
            "not in a pod: no KUBERNETES_SERVICE_HOST or no service account token", "outside a cluster, name a --kubeconfig FILE"
        )
    address = f"[{host}]" if ":" in host else host
    return Credentials(f"https://{address}:{port}", ca=_read(folder / "ca.crt"), token_file=token)


def from_kubeconfig(path: Path, context: str | None = None) -> Credentials:
    """The credentials of one context (default: the current one). Raises CredentialsError naming file and entry."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CredentialsError(f"kubeconfig {path}: {error}") from error
    if not isinstance(data, dict):
        raise CredentialsError(f"kubeconfig {path}: not a kubeconfig")
    name = context or data.get("current-context") or ""
    chosen = _entry(path, data, "contexts", "context", name)
    cluster = _entry(path, data, "clusters", "cluster", chosen.get("cluster", ""))
    user = _entry(path, data, "users", "user", chosen.get("user", "")) if chosen.get("user") else {}
    for plugin in ("exec", "auth-provider"):
        if plugin in user:
            raise CredentialsError(
                f"kubeconfig {path}: user {chosen['user']!r} needs {plugin!r}, which the daemons do not run",
                "give them a service account's token (kubectl create token)",
            )
    if not isinstance(cluster.get("server"), str):
        raise CredentialsError(f"kubeconfig {path}: cluster {chosen.get('cluster')!r} has no server")
    token_file = user.get("tokenFile")
    return Credentials(
        server=cluster["server"].rstrip("/"),
        ca=_pem(path, cluster, "certificate-authority"),
        token=str(user.get("token") or ""),
        token_file=path.parent / token_file if token_file else None,
        certificate=_pem(path, user, "client-certificate"),
        key=_pem(path, user, "client-key"),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
    )


def _entry(path: Path, data: dict[str, Any], section: str, kind: str, name: str) -> dict[str, Any]:
    for entry in data.get(section) or ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(kind), dict):
            return dict(entry[kind])
    raise CredentialsError(f"kubeconfig {path}: no {kind} {name!r}", "kubectl config get-contexts lists what there is")


def _pem(path: Path, entry: dict[str, Any], field: str) -> str:
    """A certificate or key given as data or as a file, relative to the kubeconfig."""
    if data := entry.get(f"{field}-data"):
        try:
            return base64.b64decode(data, validate=True).decode("ascii")
        except (binascii.Error, ValueError, TypeError) as error:
            raise CredentialsError(f"kubeconfig {path}: {field}-data: {error}") from error
    return _read(path.parent / entry[field]) if entry.get(field) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{path}: {error}") from error
