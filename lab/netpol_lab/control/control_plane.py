"""The lab's control plane: etcd and a real kube-apiserver, as programs on a machine of their own beside the nodes.

    host "api", such as 172.31.7.100      etcd 127.0.0.1:2379 <── kube-apiserver :6443 <── agents, kubelets, the forwarder

In: the machine (built already), its addresses, a folder. Out: a server that says it is ready, and the credentials for it.
What controllers would do is done by `controllers` (namespaces, garbage) and `kubelets` (workloads, pods).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from netpol_compiler.model.addresses import Address, Network
from netpol_kube.credentials import Credentials
from netpol_lab.control import kubernetes_bin
from netpol_lab.control.certificates import make_keys
from netpol_lab.errors import LabError, LabTimeout
from netpol_lab.network import dns, wiring
from netpol_lab.network.netns import Namespaces
from netpol_lab.processes import Processes
from netpol_lab.topology.model import Families, LabHost
from netpol_manifests.world import ExpandOptions

PORT = 6443
ETCD, APISERVER = "etcd", "apiserver"
LOCAL = "127.0.0.1"
ISSUER = "https://kubernetes.default.svc"
_ETCD_PORT, _ETCD_PEER_PORT = 2379, 2380
_POLL_SECONDS = 0.02
_GRACE_SECONDS = 2.0
"""Seconds until a stopped API server is killed: by itself it waits a minute for every watch to end."""


def service_networks(families: Families) -> tuple[Network, ...]:
    """Where Services get their addresses from, one block for each family; the same as in a lab without an API server."""
    return tuple(c for f in families.each for c in ExpandOptions().service_cidrs if c.version == f)


@dataclass(frozen=True, slots=True)
class User:
    """Whoever shows `token` is taken for this user of these groups."""

    token: str
    name: str
    groups: tuple[str, ...] = ()


class ControlPlane:
    """One etcd and one API server. `start` once; stopping and starting again is `Processes.control`.

    `users` are known besides the administrator; `more` are options of the API server besides ours.
    """

    def __init__(
        self,
        spaces: Namespaces,
        processes: Processes,
        folder: Path,
        host: LabHost,
        families: Families,
        users: Sequence[User] = (),
        more: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self._spaces = spaces
        self._processes = processes
        self._folder = folder
        self._host = host
        self._services = service_networks(families)
        self._token = secrets.token_urlsafe(32)
        self._users = (User(self._token, "admin", ("system:masters",)), *users)
        self._more = more
        self._authority = ""

    @property
    def netns(self) -> str:
        return self._host.netns

    @property
    def server(self) -> str:
        """The server's URL for everybody inside the lab."""
        return f"https://{wiring.in_url(self._host.addresses[0])}:{PORT}"

    def credentials(self, server: str = "") -> Credentials:
        """An administrator's, at `server` (default: as everybody inside the lab calls it)."""
        return Credentials(server or self.server, ca=self._authority, token=self._token)

    def start(self, tell: Callable[[str], None], limit: float) -> None:
        """Start both; returns when /readyz says ok. Raises LabError, LabTimeout with the end of the log."""
        binaries = kubernetes_bin.find()
        names = ["localhost", "kubernetes"]
        names += ["kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{dns.DOMAIN}"]
        first = [_first(block) for block in self._services]
        keys = make_keys(self._folder / "pki", names, [LOCAL, "::1", *(a.text for a in self._host.addresses), *first])
        self._authority = keys.authority.read_text()
        tokens = self._folder / "pki" / "tokens"
        tokens.touch(mode=0o600)
        tokens.write_text("".join(f'{u.token},{u.name},{u.name},"{",".join(u.groups)}"\n' for u in self._users))
        tell("starting etcd and the API server")
        # Nothing of the caller's environment: a proxy in it would be asked for pods.
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self._folder)}
        self._processes.start(ETCD, [str(binaries.etcd), *options_of(self._etcd_options())], self.netns, env)
        options = {
            **self._api_options(),
            "tls-cert-file": keys.certificate,
            "tls-private-key-file": keys.key,
            "token-auth-file": tokens,
            "service-account-key-file": keys.account_public,
            "service-account-signing-key-file": keys.account_key,
            **self._more,
        }
        command = [str(binaries.kube_apiserver), *options_of(options)]
        self._processes.start(APISERVER, command, self.netns, env, grace=_GRACE_SECONDS)
        tell("waiting for the API server")
        self.wait_ready(limit)

    def _etcd_options(self) -> Mapping[str, object]:
        client, peer = f"http://{LOCAL}:{_ETCD_PORT}", f"http://{LOCAL}:{_ETCD_PEER_PORT}"
        return {
            "name": "lab",
            "data-dir": self._folder / "etcd",
            "unsafe-no-fsync": True,  # it lives no longer than the machine is up
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"lab={peer}",
            "log-level": "warn",
        }

    def _api_options(self) -> Mapping[str, object]:
        address = self._host.addresses[0]
        return {
            "etcd-servers": f"http://{LOCAL}:{_ETCD_PORT}",
            "advertise-address": address,
            # With an IPv6 socket IPv4 is served too.
            "bind-address": "0.0.0.0" if all(a.version == 4 for a in self._host.addresses) else "::",
            "secure-port": PORT,
            "authorization-mode": "Node,RBAC",
            "service-account-issuer": ISSUER,
            "service-cluster-ip-range": ",".join(c.text for c in self._services),
            "allow-privileged": True,
            "profiling": False,
        }

    def wait_ready(self, limit: float) -> None:
        """Return when both are ready. Raises LabError when one has ended, LabTimeout after `limit` seconds."""
        deadline = time.monotonic() + limit
        # A server that has not noticed yet that its etcd was away calls itself ready.
        while (answer := self.ask("/readyz")) != "ok" or not self._etcd_serves():
            for name in (ETCD, APISERVER):
                if self._processes.pid(name) is None:
                    raise LabError(f"{name} has ended{self._processes.tail(name)}")
            if time.monotonic() > deadline:
                what = f" ({answer.splitlines()[-1]})" if answer else ""
                raise LabTimeout(f"the API server is not ready within {limit:g} s{what}{self._processes.tail(APISERVER)}")
            time.sleep(_POLL_SECONDS)

    def is_ready(self) -> bool:
        """Whether the API server serves right now."""
        return self.ask("/readyz") == "ok"

    def version(self) -> str:
        """The API server's own, such as v1.36.3. Raises LabError when it does not say."""
        try:
            return str(json.loads(self.ask("/version"))["gitVersion"])
        except (ValueError, KeyError) as error:
            raise LabError("the API server does not say its version") from error

    def ask(self, path: str) -> str:
        """What the API server says to the administrator who gets `path`; empty when it does not answer."""
        context = ssl.create_default_context(cadata=self._authority)
        connection = http.client.HTTPSConnection(LOCAL, PORT, timeout=2, context=context)
        with contextlib.closing(connection):
            try:
                with self._spaces.inside(self.netns):
                    connection.connect()
                connection.request("GET", path, headers={"Authorization": f"Bearer {self._token}"})
                return connection.getresponse().read().decode(errors="replace")
            except (OSError, http.client.HTTPException):
                return ""

    def compact(self) -> int:
        """Make etcd forget every revision but the current one, which is returned. Raises LabError.

        A watch or a list's next page from before gets 410 Gone as soon as the API server does not remember itself; stopped before
        and started after it does not.
        """
        revision = self._etcd_revision()
        with contextlib.suppress(AlreadyCompacted):
            self._etcd("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def _etcd_serves(self) -> bool:
        try:
            self._etcd_revision()
        except LabError:
            return False
        return True

    def _etcd_revision(self) -> int:
        return int(self._etcd("/v3/kv/range", {"key": "AA=="})["header"]["revision"])

    def _etcd(self, path: str, body: Mapping[str, Any]) -> Any:
        connection = http.client.HTTPConnection(LOCAL, _ETCD_PORT, timeout=60)
        with contextlib.closing(connection):
            try:
                with self._spaces.inside(self.netns):
                    connection.connect()
                connection.request("POST", path, json.dumps(body))
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise LabError(f"etcd does not answer: {error}{self._processes.tail(ETCD)}") from error
        if b"has been compacted" in content:
            raise AlreadyCompacted
        if answer.status != 200:
            raise LabError(f"etcd refused {path}: {content.decode(errors='replace')}")
        return json.loads(content)

    def kubeconfig(self, server: str) -> str:
        """A kubeconfig (JSON is YAML) of an administrator who calls the API server `server`."""
        return kubeconfig_text(self.credentials(server))


class AlreadyCompacted(Exception):
    """There is nothing older than that revision."""


def kubeconfig_text(credentials: Credentials) -> str:
    """A kubeconfig of one cluster, user and context, all named npctl-lab."""
    name = "npctl-lab"
    authority = base64.b64encode(credentials.ca.encode()).decode()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": credentials.server, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": credentials.token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    return yaml.safe_dump(content, sort_keys=False)


def _first(block: Network) -> str:
    """The address of the Service `kubernetes`."""
    return Address(block.version, block.value + 1).text


def options_of(options: Mapping[str, object]) -> list[str]:
    """Options as Kubernetes' programs take them."""
    return [f"--{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in options.items()]
