"""One API server, reached as kubectl would reach it: requests in, JSON out, every failure a CommandError in words.

    kubeconfig, context --netpol_kube--> credentials --> requests, each call in an event loop of its own --> JSON

In: what the command line says of the cluster, and paths. Out: JSON. Left out: watches (`following`), and what an object means.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from netpol_kube.errors import ApiError, ApiUnreachable, CredentialsError, Json, KubeError
from npctl.errors import CommandError, ExitCode, usage

if TYPE_CHECKING:
    from netpol_kube.client import ApiClient

T = TypeVar("T")
BUSY_TRIES = 3
"""How often a server that says it has too much to do (429), as one that starts does, is asked again."""


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster, as on the command line; None: what kubectl would take."""

    kubeconfig: str | None = None
    context: str | None = None


class Refused(CommandError):
    """The API server said no. `error` is its answer."""

    def __init__(self, error: ApiError, line: str, remedy: str) -> None:
        super().__init__(ExitCode.MISSING, line, remedy)
        self.error = error


class Api:
    """See the module's docstring. `where` names the cluster, `namespace` is that of its context."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self.where = client.credentials.where
        self.namespace = client.credentials.namespace

    def get(self, path: str) -> Json:
        """One object. Raises CommandError; Refused when the server says no."""
        return self.run(self.client.get(path), path, "get")

    def find(self, path: str) -> Json | None:
        """One object; None when there is none."""
        return self.run(self.client.find(path), path, "get")

    def listed(self, path: str, **params: str) -> list[Json]:
        """Every item of a list."""
        return self.run(self.client.listed(path, **params), path, "list")

    def lists(self, paths: Iterable[str]) -> dict[str, list[Json] | Refused]:
        """Lists, all at the same time; a refusal stands in the place of its list."""

        async def one(path: str) -> list[Json] | Refused:
            try:
                return await self.client.listed(path)
            except ApiError as error:
                return self.refusal(error, path, "list")

        async def together() -> dict[str, list[Json] | Refused]:
            names = list(paths)
            return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

        return self.run(together(), "", "list")

    def run(self, work: Coroutine[Any, Any, T], path: str, verb: str) -> T:
        """Whatever asks `client`, in an event loop of this thread. Raises CommandError, which names `path` and `verb`."""

        async def closed() -> T:
            try:
                return await work
            finally:
                await self.client.close()

        try:
            return asyncio.run(closed())
        except KubeError as error:
            raise self.problem(error, path, verb) from error

    def problem(self, error: KubeError, path: str, verb: str) -> CommandError:
        """What kept an answer from coming, in one line and with what to do."""
        server = self.client.credentials.server
        if isinstance(error, ApiError):
            return self.refusal(error, path, verb)
        if isinstance(error, ApiUnreachable):
            return CommandError(
                ExitCode.MISSING,
                f"cannot reach the API server of {self.where} ({server}): {error.reason}",
                "check that the cluster runs and the address is right: kubectl cluster-info; "
                "other clusters: --context, --kubeconfig",
            )
        return CommandError(ExitCode.MISSING, f"{server}: {error}", f"is {server} an API server?")

    def refusal(self, error: ApiError, path: str, verb: str) -> Refused:
        """The server's no."""
        if error.status == 401:
            line = f"{self.where}: the API server does not accept these credentials (401)"
            return Refused(error, line, "log in again, or choose another context: kubectl config get-contexts")
        if error.is_forbidden:
            line = f"not allowed: {error.message.partition('is forbidden: ')[2] or error.message}"
            return Refused(error, line, _right(error, verb, path))
        return Refused(error, f"{self.where}: {path}: {error.status} {error.message}".rstrip(), "")


def connect(access: Access) -> Api:
    """The cluster that `access` means. Raises CommandError for a kubeconfig or context that cannot be used."""
    from netpol_kube.client import ApiClient
    from netpol_kube.credentials import from_kubeconfig, through_environment_proxy

    paths = _kubeconfigs(access)
    try:
        credentials = from_kubeconfig(paths, access.context, plugins=True) if paths else _of_pod(access.context)
        credentials.authorization()  # a token file that cannot be read is a mistake in the kubeconfig, not an absent server
        return Api(ApiClient(through_environment_proxy(credentials), far=True, busy_tries=BUSY_TRIES))
    except CredentialsError as error:
        raise usage(str(error), error.remedy or "kubectl config view shows it; --context chooses another context") from error


def contexts(access: Access) -> list[str]:
    """The names of a kubeconfig's contexts, for completion."""
    from netpol_kube import kubeconfig

    paths = _kubeconfigs(access)
    return list(kubeconfig.read(paths).contexts) if paths else []


def _kubeconfigs(access: Access) -> list[Path]:
    """The files to read; none: there is no kubeconfig. Raises CommandError when one was named that is not there."""
    named = access.kubeconfig or os.environ.get("KUBECONFIG")
    paths = [Path(p).expanduser() for p in (named or "~/.kube/config").split(os.pathsep) if p]
    found = [p for p in paths if p.exists()]
    if named and not found:
        raise usage(f"{named}: no such kubeconfig", "check --kubeconfig, or the variable KUBECONFIG")
    return found


def _of_pod(context: str | None) -> Any:
    """The service account of the pod that npctl runs in."""
    from netpol_kube.credentials import in_cluster

    try:
        credentials = in_cluster()
    except CredentialsError:
        raise CommandError(
            ExitCode.MISSING,
            "no cluster: there is no kubeconfig (~/.kube/config, or KUBECONFIG), and this is no pod",
            "name files or folders with -f PATH, or a cluster with --kubeconfig FILE",
        ) from None
    if context:
        raise usage(f"there is no context {context!r}", "a pod's service account has no contexts: leave --context out")
    return credentials


def _right(error: ApiError, verb: str, path: str) -> str:
    """The missing right as a command that asks for it: `kubectl auth can-i list pods -A`."""
    details = error.answer.get("details")
    kind, group, name = (str(details.get(k) or "") if isinstance(details, dict) else "" for k in ("kind", "group", "name"))
    resource = (kind or path.rpartition("/")[2]) + (f".{group}" if group else "")
    resource += f"/{name}" if name and verb == "get" else ""
    scope = path.partition("/namespaces/")[2].partition("/")[0]
    where = f"-n {scope}" if scope else "-A"
    missing = f"the verb {verb} on {resource} is missing, which the chart gives with the role npctl-viewer"
    return f"{missing}; kubectl auth can-i {verb} {resource} {where} checks it"
