"""What the shell offers behind Tab: contexts of the kubeconfig; namespaces, pods and policies of the cluster.

In: the options so far. Out: words. A cluster that cannot be asked offers nothing and says nothing: Tab is no place for errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from npctl.cluster.api import Access


def context(ctx: typer.Context, incomplete: str) -> list[str]:
    """Contexts of the kubeconfig."""

    def ask() -> list[str]:
        from npctl.cluster.api import contexts

        return contexts(_access(ctx))

    return _beginning(incomplete, ask)


def namespace(ctx: typer.Context, incomplete: str) -> list[str]:
    """Namespaces of the cluster."""
    return _beginning(incomplete, lambda: _names(ctx, "/api/v1/namespaces"))


def pod(ctx: typer.Context, incomplete: str) -> list[str]:
    """`pod/NAME` of the namespace; a plain beginning of a name is completed as one."""
    prefix = "pod/" if incomplete.startswith("pod/") or not incomplete else ""
    return _beginning(incomplete, lambda: [prefix + n for n in _names(ctx, "/api/v1/namespaces/{}/pods")])


def policy(ctx: typer.Context, incomplete: str) -> list[str]:
    """`networkpolicy/NAME` of the namespace, under the kind as it was written."""
    kind = incomplete.partition("/")[0] if "/" in incomplete else "networkpolicy"
    path = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
    return _beginning(incomplete, lambda: [f"{kind}/{n}" for n in _names(ctx, path)])


def _access(ctx: typer.Context) -> Access:
    from npctl.cluster.api import Access

    return Access(ctx.params.get("kubeconfig"), ctx.params.get("context"))


def _names(ctx: typer.Context, path: str) -> list[str]:
    from npctl.cluster.api import connect

    if ctx.params.get("files"):
        return []  # answers come from files then
    api = connect(_access(ctx))
    items = api.listed(path.format(ctx.params.get("namespace") or api.namespace))
    return [i["metadata"]["name"] for i in items]


def _beginning(incomplete: str, ask: Callable[[], list[str]]) -> list[str]:
    try:
        return [word for word in ask() if word.startswith(incomplete)]
    except Exception:
        return []
