"""`npctl operator` and `npctl agent`: the programs that the lab and a cluster run. Signatures only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(operator)
    app.command(context_settings=_PASS_ON)(agent)


def operator(
    objects: Annotated[
        Path | None, typer.Option("--objects", metavar="DIR", help="Folder of objects in place of a cluster.")
    ] = None,
    ir: Annotated[Path | None, typer.Option("--ir", metavar="DIR", help="Folder to publish in; goes with --objects.")] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option("--kubeconfig", metavar="FILE", help="How to reach the cluster; in a pod: its service account.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NS", help="Where the Lease is, by which one replica leads.")
    ] = "npctl-system",
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="This replica's name (default: host name and pid).")] = "",
    http: Annotated[str, typer.Option("--http", metavar="[HOST]:PORT", help="Serve /healthz, /readyz and /metrics here.")] = "",
) -> None:
    """Compile NetworkPolicies to the policy IR, and keep it up to date until SIGTERM: on a cluster, or on a folder."""
    from npctl.commands.operator import run

    run(objects, ir, kubeconfig, namespace, name, http)


def agent(context: typer.Context) -> None:
    """Enforce policies on one node: `npctl agent --node NAME ...`, or `npctl agent cleanup`. See npctl agent --help."""
    from npctl.commands.agent import run

    raise typer.Exit(run(context.args))
