"""One API server, reached as kubectl would reach it: requests in, JSON out, every failure in words.

    kubeconfig, context --kubernetes library--> server, certificates, credentials (exec plugins and their kin too)
    path, parameters ----its connection pool--> decoded JSON; no models, which would cost more than the request

The kubernetes library takes about 0.4 s to import: only what asks a cluster may import this module's `connect`.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from npctl.errors import CommandError, ExitCode, usage

Json = dict[str, Any]

PAGE = 500
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0
_SERVICE_ACCOUNT_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_PAUSES = (0.2, 1.0, 2.0)
"""Seconds before asking again a server that says it has too much to do (429), as one that starts does."""
_RESTARTS = 3  # of a paged list whose continuation has expired


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster, as on the command line; None: what kubectl would take."""

    kubeconfig: str | None = None
    context: str | None = None


class ApiError(CommandError):
    """The API server said no. `status` is HTTP's, `answer` the body (a Status object, or what stood behind a proxy)."""

    def __init__(self, status: int, answer: Any, line: str, remedy: str) -> None:
        super().__init__(ExitCode.MISSING, line, remedy)
        self.status = status
        self.answer = answer

    @property
    def is_not_found(self) -> bool:
        return self.status == 404

    @property
    def is_forbidden(self) -> bool:
        return self.status == 403

    @property
    def is_busy(self) -> bool:
        """The server cannot answer now."""
        return self.status == 429 or self.status >= 500

    @property
    def is_gone(self) -> bool:
        """The resourceVersion or the continuation is too old."""
        return self.status == 410


class Unreachable(CommandError):
    """No answer at all, or the connection broke."""


class Listing(NamedTuple):
    """All pages of one list, and where a watch takes over."""

    items: list[Json]
    resource_version: str


class Api:
    """See the module's docstring. Threads may share one."""

    def __init__(self, client: Any, where: str, namespace: str) -> None:
        self._client = client
        self._pool = client.rest_client.pool_manager
        self._host = client.configuration.host.rstrip("/")
        self.where = where
        self.namespace = namespace

    def get(self, path: str, **params: object) -> Json:
        """One object. Raises ApiError or Unreachable."""
        return self._request(path, params, "get")

    def listed(self, path: str, **params: object) -> Listing:
        """Every item of a list, page by page. A continuation that expired on the way begins the list again."""
        for _ in range(_RESTARTS):
            try:
                return self._listed(path, params)
            except ApiError as error:
                if not error.is_gone:
                    raise
        return self._listed(path, {**params, "limit": 0})

    def _listed(self, path: str, params: Json) -> Listing:
        items: list[Json] = []
        more: Json = {"limit": PAGE}
        while True:
            page = self._request(path, {**more, **params}, "list")
            items += page.get("items") or ()
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return Listing(items, str(metadata.get("resourceVersion") or ""))
            more["continue"] = metadata["continue"]

    def watch(
        self, path: str, resource_version: str, seconds: float, opened: Callable[[Any], None], **params: object
    ) -> Iterator[Json]:
        """Watch events as they come, bookmarks too, until the server ends the watch after `seconds`.

        `opened` gets the open response, which another thread may shut down. Raises ApiError or Unreachable.
        """
        wanted = {"watch": 1, "allowWatchBookmarks": "true", "resourceVersion": resource_version, **params}
        response = self._open(path, {**wanted, "timeoutSeconds": max(1, int(seconds))}, "watch", read=seconds + 5)
        opened(response)
        rest = b""
        with _Told(self):
            for part in response.stream(65536):
                *lines, rest = (rest + part).split(b"\n")
                yield from (json.loads(line) for line in lines if line.strip())

    def _request(self, path: str, params: Json, verb: str) -> Json:
        for pause in _PAUSES:
            try:
                return self._asked(path, params, verb)
            except ApiError as error:
                if error.status != 429:
                    raise
                time.sleep(pause)
        return self._asked(path, params, verb)

    def _asked(self, path: str, params: Json, verb: str) -> Json:
        response = self._open(path, params, verb, read=_READ_SECONDS)
        with _Told(self):
            content = response.read(decode_content=True)
            response.release_conn()
        data = _decoded(content)
        if not isinstance(data, dict):
            what = f"{self._host}{path}: the answer is no JSON object"
            raise Unreachable(ExitCode.MISSING, what, f"is {self._host} an API server?")
        return data

    def _open(self, path: str, params: Json, verb: str, read: float) -> Any:
        import urllib3

        headers = {"accept": "application/json", **({} if verb == "watch" else {"accept-encoding": "gzip"})}
        with _Told(self):
            # Asking for the settings refreshes what expires: tokens of files, of exec plugins.
            headers.update({a["key"]: a["value"] for a in self._client.configuration.auth_settings().values() if a["value"]})
            response = self._pool.request(
                "GET",
                f"{self._host}{path}" + (f"?{urlencode(params)}" if params else ""),
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=read),
                retries=False,
                preload_content=False,
            )
            if response.status >= 300:
                content = response.read(decode_content=True)
                response.release_conn()
                raise self._refusal(response.status, _decoded(content), verb, path)
        return response

    def _refusal(self, status: int, answer: Any, verb: str, path: str) -> ApiError:
        message = str(answer.get("message") or "") if isinstance(answer, dict) else str(answer).strip()
        if status == 401:
            line = f"{self.where}: the API server does not accept these credentials (401)"
            return ApiError(status, answer, line, "log in again, or choose another context: kubectl config get-contexts")
        if status == 403:
            line = f"not allowed: {message.partition('is forbidden: ')[2] or message}"
            return ApiError(status, answer, line, _right(answer, verb, path))
        return ApiError(status, answer, f"{self.where}: {path}: {status} {message}".rstrip(), "")

    def unreachable(self, error: Exception) -> Unreachable:
        """What kept an answer from coming, in one line."""
        return Unreachable(
            ExitCode.MISSING,
            f"cannot reach the API server of {self.where} ({self._host}): {_cause(error)}",
            "check that the cluster runs and the address is right: kubectl cluster-info; other clusters: --context, --kubeconfig",
        )


class _Told:
    """Turns what urllib3 and the credentials' plugins raise into words."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import urllib3
        from kubernetes.config import ConfigException

        if isinstance(error, urllib3.exceptions.HTTPError | OSError | ConfigException):
            raise self._api.unreachable(error) from error


def connect(access: Access) -> Api:
    """The cluster that `access` means. Raises CommandError for a kubeconfig or context that cannot be used."""
    import logging
    from urllib.request import getproxies

    from kubernetes import client

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings repeat what the error says
    configuration = client.Configuration()
    text = access.kubeconfig or os.environ.get("KUBECONFIG") or os.path.join("~", ".kube", "config")
    paths = [os.path.expanduser(p) for p in text.split(os.pathsep) if p]
    if any(map(os.path.exists, paths)):
        where, namespace = _from_kubeconfig(os.pathsep.join(paths), access.context, configuration)
    elif access.kubeconfig or os.environ.get("KUBECONFIG"):
        raise usage(f"{text}: no such kubeconfig", "check --kubeconfig, or the variable KUBECONFIG")
    else:
        where, namespace = _from_pod(configuration, access.context)
    if configuration.proxy in getproxies().values() and _is_here(configuration.host):
        configuration.proxy = None  # as kubectl: the environment's proxy is not for this machine
    return Api(client.ApiClient(configuration), where, namespace)


def _is_here(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def contexts(access: Access) -> list[str]:
    """The names of a kubeconfig's contexts, for completion."""
    from kubernetes.config import list_kube_config_contexts

    path = access.kubeconfig or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    return [c["name"] for c in list_kube_config_contexts(path)[0]]


def _from_kubeconfig(path: str, context: str | None, configuration: Any) -> tuple[str, str]:
    import yaml
    from kubernetes.config import ConfigException, list_kube_config_contexts, load_kube_config

    try:
        known, current = list_kube_config_contexts(path)
        chosen = next((c for c in known if c["name"] == context), None) if context else current
        if chosen is None:
            have = ", ".join(c["name"] for c in known) or "none"
            raise usage(f"{path}: there is no context {context!r}", f"the contexts are {have}")
        load_kube_config(path, context, configuration, persist_config=False)
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError) as error:
        # The library names an entry by its whole content, tokens and all.
        first = re.sub(r"\{.*\}", "...", (str(error).strip().splitlines() or [type(error).__name__])[0])
        raise usage(f"kubeconfig {path}: {first}", "kubectl config view shows it; --context chooses another context") from error
    return f"context {chosen['name']}", str(chosen["context"].get("namespace") or "default")


def _from_pod(configuration: Any, context: str | None) -> tuple[str, str]:
    """The service account of the pod that npctl runs in."""
    from kubernetes.config import ConfigException, load_incluster_config

    try:
        load_incluster_config(configuration)
    except ConfigException:
        raise CommandError(
            ExitCode.MISSING,
            "no cluster: there is no kubeconfig (~/.kube/config, or KUBECONFIG), and this is no pod",
            "name files or folders with -f PATH, or a cluster with --kubeconfig FILE",
        ) from None
    if context:
        raise usage(f"there is no context {context!r}", "a pod's service account has no contexts: leave --context out")
    try:
        with open(_SERVICE_ACCOUNT_NAMESPACE, encoding="ascii") as file:
            namespace = file.read().strip()
    except OSError:
        namespace = "default"
    return "this pod's cluster", namespace or "default"


def _decoded(content: bytes) -> Any:
    """JSON where it is JSON, else text."""
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def _right(answer: Any, verb: str, path: str) -> str:
    """The missing right as a command that asks for it: `kubectl auth can-i list pods -A`."""
    details = (answer.get("details") or {}) if isinstance(answer, dict) else {}
    kind, group, name = (str(details.get(k) or "") for k in ("kind", "group", "name"))
    resource = (kind or path.rpartition("/")[2]) + (f".{group}" if group else "")
    resource += f"/{name}" if name and verb == "get" else ""
    scope = path.partition("/namespaces/")[2].partition("/")[0]
    where = f"-n {scope}" if scope else "-A"
    missing = f"the verb {verb} on {resource} is missing, which the chart gives with the role npctl-viewer"
    return f"{missing}; kubectl auth can-i {verb} {resource} {where} checks it"


def _cause(error: BaseException) -> str:
    """The innermost reason: `connection refused`, not what every layer wrapped around it."""
    text = str(error)
    lowered = text.lower()
    if "certificate verify failed" in lowered:
        return "its certificate is not trusted: " + text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
    known = {
        "connection refused": "connection refused",
        "timed out": "no answer in time",
        "name or service not known": "its name is not known",
        "temporary failure in name resolution": "its name cannot be resolved",
        "nodename nor servname": "its name is not known",
        "no route to host": "no route to host",
        "network is unreachable": "network is unreachable",
        "connection reset": "the connection was reset",
        "wrong version number": "it does not speak TLS there",
    }
    first = text.splitlines()[0] if text else type(error).__name__
    return next((words for sign, words in known.items() if sign in lowered), first)
