"""The commands that ask files, or a cluster: signatures and help only. The work is in the modules they import when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from npctl.cli import completion, options
from npctl.output import Format

_Ends = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="PLACE", help="A place to come from: pod/X, NS/X, svc/X, node/X, an address. Repeatable."),
]
_Goals = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="PLACE", help="A place to go to: pod/X, NS/X, svc/X, node/X, an address. Repeatable."),
]

_POD = "pod/NAME, a unique beginning of a name, or deployment/NAME."
_END = "pod/NAME, NS/NAME, deployment/NAME, svc/NAME, node/NAME or an address."
_RULES = "Also the pod's chains and sets: as its node's kernel has them, with packet counters; with -f, as the kernel gets them."


def register(app: typer.Typer) -> None:
    """Add the commands to `app`, in the order of its help."""
    for command in (explain, trace, matrix, lint, diff):
        app.command()(command)
    app.command("compile")(compile_)


def explain(
    target: Annotated[str, typer.Argument(metavar="POD", help=_POD, autocompletion=completion.pod)],
    files: options.FilesOrCluster = None,
    namespace: options.ClusterNamespace = None,
    to: _Goals = None,
    source: _Ends = None,
    port: options.OnPort = None,
    rules: Annotated[bool, typer.Option("--rules", help=_RULES)] = False,
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    output: options.Output = Format.TABLE,
) -> None:
    """What may reach a pod and what it may reach, and by which policy and rule; on a cluster also whether that is in force.

    With --to or --from: the verdict on one connection, and what decided it on both sides (exit code 1: refused).
    """
    from npctl.commands.explain import run
    from npctl.inputs.origin import Origin

    run(target, Origin(tuple(files or ()), kubeconfig, context, namespace), to or [], source or [], port, rules, output)


def trace(
    source: Annotated[str, typer.Argument(metavar="SRC", help=_END, autocompletion=completion.pod)],
    target: Annotated[str, typer.Argument(metavar="DST", help=_END, autocompletion=completion.pod)],
    simulate: Annotated[bool, typer.Option("--simulate", help="Walk packets through the rendered rules: needed.")] = False,
    port: options.OnPort = None,
    files: options.FilesOrCluster = None,
    namespace: options.ClusterNamespace = None,
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    output: options.Output = Format.TABLE,
) -> None:
    """A connection's way through the rules of each node that it passes, rule by rule, and its reply's (exit code 1: refused).

    --simulate: the rules are those that the nodes' agents would write; nothing is sent, and no kernel is asked.
    """
    from npctl.commands.trace import run
    from npctl.inputs.origin import Origin

    run(source, target, Origin(tuple(files or ()), kubeconfig, context, namespace), port, simulate, output)


def matrix(
    files: options.FilesOrCluster = None,
    namespace: options.ClusterNamespace = None,
    all_namespaces: options.AllNamespaces = False,
    selector: options.LabelSelector = None,
    port: options.OnPort = None,
    source: _Ends = None,
    to: _Goals = None,
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Who reaches whom: every pod towards every pod, on the ports that are listened to (or --port).

    -n and -l choose pods; --from and --to add places outside. A pod that declares no port is tried with ICMP.
    """
    from npctl.commands.matrix import run
    from npctl.inputs.origin import Origin

    origin = Origin(tuple(files or ()), kubeconfig, context, namespace, all_namespaces)
    run(origin, selector, port, source or [], to or [], output)


def lint(
    files: options.FilesOrCluster = None,
    namespace: options.ClusterNamespace = None,
    all_namespaces: options.AllNamespaces = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 also for warnings.")] = False,
    codes: Annotated[bool, typer.Option("--codes", help="List the checks and leave.")] = False,
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Policies that do not do what their author may think. Exit code 1 when there are errors."""
    from npctl.commands.lint import run
    from npctl.inputs.origin import Origin

    run(Origin(tuple(files or ()), kubeconfig, context, namespace, all_namespaces), strict, codes, output)


def diff(
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--filename", "-f", metavar="PATH", help="The change: policies, and labels of Namespaces and Pods. Repeatable."
        ),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="The change is to delete the policies of -f.")] = False,
    base: Annotated[
        list[str] | None,
        typer.Option(
            "--base", metavar="PATH", help="Files that say what there is now, in place of the live cluster. Repeatable."
        ),
    ] = None,
    namespace: options.ClusterNamespace = None,
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Which connections a change would open or shut, before it is applied. Exit code 0: none, 1: some.

    All pods, ports and protocols are covered, and the world outside by one address for each part of it that a rule tells apart.
    """
    from npctl.commands.diff import run
    from npctl.inputs.origin import Origin

    run(files or [], Origin(tuple(base or ()), kubeconfig, context, namespace), delete, output)


def compile_(
    node: Annotated[str, typer.Option("--node", metavar="NODE", help="The node whose rules are wanted.")],
    files: options.FilesOrCluster = None,
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    output: Annotated[Format, typer.Option("--output", "-o", help="table (plain text), json or yaml.")] = Format.TABLE,
) -> None:
    """A node's whole iptables-restore and ipset-restore text, as the agent writes it."""
    from npctl.commands.compile import run
    from npctl.inputs.origin import Origin

    run(node, Origin(tuple(files or ()), kubeconfig, context), output)
