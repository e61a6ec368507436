"""The options that several commands share, in kubectl's spelling, as annotated types for typer."""

from __future__ import annotations

from typing import Annotated

import typer

from npctl.cli import completion
from npctl.output import Format

Files = Annotated[
    list[str] | None,
    typer.Option(
        "--filename",
        "-f",
        metavar="PATH",
        help="YAML or JSON: a file, a folder (with its subfolders), or - for stdin. Repeatable.",
    ),
]
FilesOrCluster = Annotated[
    list[str] | None,
    typer.Option(
        "--filename",
        "-f",
        metavar="PATH",
        help="YAML or JSON: a file, a folder (with its subfolders), or - for stdin. Repeatable. Without it, the live cluster.",
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", metavar="NS", help="Namespace.")]
OptionalNamespace = Annotated[str | None, typer.Option("--namespace", "-n", metavar="NS", help="Only this namespace.")]
ClusterNamespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NS",
        help="Namespace; of a cluster, the context's by default.",
        autocompletion=completion.namespace,
    ),
]
Kubeconfig = Annotated[
    str | None,
    typer.Option("--kubeconfig", metavar="FILE", help="How to reach the cluster; KUBECONFIG or ~/.kube/config by default."),
]
Context = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Another context than the current one.", autocompletion=completion.context),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
LabelSelector = Annotated[
    str | None, typer.Option("--selector", "-l", metavar="SELECTOR", help="Label selector: a=b, a!=b, a in (x,y), a, !a.")
]
Output = Annotated[Format, typer.Option("--output", "-o", help="table, wide, json or yaml.", show_default=True)]
OnPort = Annotated[
    str | None, typer.Option("--port", metavar="PORT[/PROTO]", help="8080, 8080/tcp, 53/udp, a port's name, or icmp.")
]
LabName = Annotated[str, typer.Option("--name", metavar="LAB", help="Which lab, when there are several.")]
