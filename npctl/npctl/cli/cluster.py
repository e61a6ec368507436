"""The commands that need a cluster: signatures and help only. The work is in the modules they import when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from npctl.cli import completion, options
from npctl.output import Format

_Policies = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="networkpolicy/NAME...",
        help="Policies to wait for (also netpol/NAME).",
        show_default=False,
        autocompletion=completion.policy,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`, in the order of its help."""
    for command in (status, wait):
        app.command()(command)


def status(
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Whether all policies are in force on all nodes of a cluster; who lags, and why. Exit code 1 when something does."""
    from npctl.cluster.api import Access
    from npctl.commands.status import run

    run(Access(kubeconfig, context), output)


def wait(
    names: _Policies = None,
    files: Annotated[
        list[str] | None, typer.Option("--filename", "-f", metavar="PATH", help="The policies of these files. Repeatable.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All policies of the namespace (of all namespaces with -A).")] = False,
    namespace: options.ClusterNamespace = None,
    all_namespaces: options.AllNamespaces = False,
    what: Annotated[
        str,
        typer.Option("--for", metavar="inforce|delete", help="inforce: on all nodes that need it; delete: gone everywhere."),
    ] = "inforce",
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="How long: 30s, 500ms, 1m30s; 0 asks once.")
    ] = "30s",
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Return when policies are in force on every node that runs a pod they select. Exit code 4 when the time is over."""
    from npctl.commands.wait import run
    from npctl.inputs.origin import Origin

    run(names or [], Origin(tuple(files or ()), kubeconfig, context, namespace, all_namespaces), every, what, timeout, output)
