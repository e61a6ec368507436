"""`npctl lab ...`: signatures and help only. The work is in `lab_commands` and `lab_run`."""

from __future__ import annotations

from typing import Annotated

import typer

from npctl.cli import options
from npctl.output import Format

lab = typer.Typer(
    help="Nodes and pods as network namespaces on this machine, without root: real packets for your policies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Network = Annotated[
    str, typer.Option("--network", metavar="KIND", help="host-gw, vxlan or routed: how pods of two nodes reach each other.")
]
_Backend = Annotated[str, typer.Option("--backend", metavar="KIND", help="nft or legacy: which iptables the agents use.")]
_Family = Annotated[str, typer.Option("--family", metavar="FAMILY", help="ipv4, ipv6 or dual.")]
_Limit = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait until what is asked is in force.")]
_Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when every node has it in force.")]


def register(app: typer.Typer) -> None:
    """Add the group `lab` to `app`."""
    app.add_typer(lab, name="lab")


@lab.command()
def up(
    files: options.Files = None,
    network: _Network = "host-gw",
    backend: _Backend = "nft",
    family: _Family = "ipv4",
    established: Annotated[
        str, typer.Option("--established", help="cut or keep: connections that a new policy refuses.")
    ] = "cut",
    accept: Annotated[
        str, typer.Option("--accept", help="return or accept: what the agents do with allowed packets.")
    ] = "return",
    guard: Annotated[
        str, typer.Option("--guard", help="off, report or enforce: drop what carries an address that is not the pod's own.")
    ] = "off",
    api: Annotated[
        bool,
        typer.Option("--api", help="With a real API server (kube-apiserver and etcd), for kubectl and npctl on this machine."),
    ] = False,
    agents: Annotated[
        bool, typer.Option("--agents/--no-agents", help="Run npctl's operator and agents, so that policies are enforced.")
    ] = True,
    name: options.LabName = "default",
    limit: _Limit = 60.0,
    output: options.Output = Format.TABLE,
) -> None:
    """Start a lab in the background; returns when its pods answer and every agent has the policies in force."""
    from npctl.lab.commands import up as run

    run(
        name,
        files or [],
        output,
        network=network,
        backend=backend,
        family=family,
        established=established,
        accept=accept,
        guard=guard,
        api=api,
        agents=agents,
        limit=limit,
    )


@lab.command()
def apply(
    files: options.Files = None,
    wait: _Wait = True,
    name: options.LabName = "default",
    limit: _Limit = 30.0,
    output: options.Output = Format.TABLE,
) -> None:
    """Create or change objects. Files with a mistake change nothing."""
    from npctl.lab.commands import apply as run

    run(name, files or [], output, wait=wait, limit=limit)


@lab.command()
def delete(
    files: options.Files = None,
    wait: _Wait = True,
    name: options.LabName = "default",
    limit: _Limit = 30.0,
    output: options.Output = Format.TABLE,
) -> None:
    """Delete the objects that the files name."""
    from npctl.lab.commands import delete as run

    run(name, files or [], output, wait=wait, limit=limit)


@lab.command()
def label(
    target: Annotated[str, typer.Argument(metavar="KIND/NAME", help="pod/NAME, namespace/NAME or node/NAME.")],
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="KEY=VALUE sets a label, KEY- removes it.")],
    namespace: options.Namespace = "default",
    wait: _Wait = True,
    name: options.LabName = "default",
    limit: _Limit = 30.0,
    output: options.Output = Format.TABLE,
) -> None:
    """Set or remove labels of a pod, namespace or node."""
    from npctl.lab.commands import label as run

    run(name, target, labels, namespace, output, wait=wait, limit=limit)


@lab.command()
def get(
    kind: Annotated[
        str, typer.Argument(metavar="KIND[/NAME]", help="pods, nodes, services, namespaces, networkpolicies, all.")
    ] = "all",
    object_name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this one.")] = None,
    namespace: options.OptionalNamespace = None,
    all_namespaces: options.AllNamespaces = False,
    name: options.LabName = "default",
    output: options.Output = Format.TABLE,
) -> None:
    """Objects as the lab has them, with the addresses and nodes that it gave. Without -n: of all namespaces."""
    from npctl.lab.commands import get as run

    run(name, kind, object_name, None if all_namespaces else namespace, output)


@lab.command()
def connect(
    source: Annotated[str, typer.Argument(metavar="SRC", help="NAMESPACE/POD, node/NAME, host/ADDRESS.")],
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="The same, svc/NAMESPACE/NAME, an address, or a name in DNS.")
    ],
    port: options.OnPort = None,
    limit: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Silence for so long is a refusal.")] = 1.0,
    path: Annotated[str, typer.Option("--path", help="What to ask a web server for.")] = "/",
    name: options.LabName = "default",
    output: options.Output = Format.TABLE,
) -> None:
    """Send real packets. Exit code 1 when any connection is refused."""
    from npctl.lab.commands import connect as run

    run(name, source, destination, port, output, limit=limit, path=path)


@lab.command()
def matrix(
    namespace: Annotated[
        list[str] | None, typer.Option("--namespace", "-n", metavar="NS", help="Only these namespaces. Repeatable.")
    ] = None,
    limit: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Silence for so long is a refusal.")] = 1.0,
    name: options.LabName = "default",
    output: options.Output = Format.TABLE,
) -> None:
    """Real packets from every pod and host to every port that pods listen on, all at once."""
    from npctl.lab.commands import matrix as run

    run(name, namespace or [], output, limit=limit)


@lab.command("exec", context_settings={"ignore_unknown_options": True})
def exec_(
    target: Annotated[str, typer.Argument(metavar="POD", help="NAMESPACE/POD, node/NAME or host/ADDRESS.")],
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The program and its arguments.")],
    name: options.LabName = "default",
) -> None:
    """Run a program of this machine in a pod's network. Exits with the program's exit code."""
    from npctl.lab.commands import execute as run

    run(name, target, command)


@lab.command()
def down(
    name: options.LabName = "default",
    every: Annotated[bool, typer.Option("--all", help="All labs that run.")] = False,
    output: options.Output = Format.TABLE,
) -> None:
    """End a lab. Nothing of it is left on this machine."""
    from npctl.lab.commands import down as run

    run(name, every, output)


@lab.command("list")
def list_(output: options.Output = Format.TABLE) -> None:
    """The labs that run."""
    from npctl.lab.commands import list_labs as run

    run(output)


@lab.command()
def status(name: options.LabName = "default", output: options.Output = Format.TABLE) -> None:
    """A lab's nodes, and whether the policies are in force on each. Exit code 1 when one lags."""
    from npctl.lab.commands import status as run

    run(name, output)


@lab.command("run")
def run_(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A folder with an expected.scenario, such as examples/.")],
    network: _Network = "host-gw",
    backend: _Backend = "nft",
    family: _Family = "ipv4",
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="No packets: walk them through the rendered rules. For machines that forbid namespaces."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab up at the end.")] = False,
    name: Annotated[str | None, typer.Option("--name", metavar="LAB", help="The lab's name. Default: one of its own.")] = None,
    output: options.Output = Format.TABLE,
) -> None:
    """Run a folder's cases: apply each, send its connections, and compare. Exit code 1 when anything differs."""
    from npctl.lab.run import run

    run(path, output, network=network, backend=backend, family=family, simulate=simulate, keep=keep, name=name)
