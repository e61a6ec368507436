"""`npctl agent ...` and `npctl agent cleanup`: arguments in, the agent's functions out. Nothing is decided here."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from npctl.commands.operator import host_and_port
from npctl.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from netpol_compiler.model.addresses import Network

_FOLDERS = ("objects", "ir", "reports")


def run(arguments: Sequence[str]) -> int:
    """Run the agent with the command line's `arguments` (without `agent`). Returns the exit code; a mistake in `arguments`
    ends the program with 2."""
    from netpol_agent.errors import AgentError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    options = _parse(arguments)
    try:
        return _cleanup() if options.node is None else _agent(options)
    except AgentError as error:
        for line in filter(None, (str(error), error.remedy)):
            print(line, file=sys.stderr)
        return ExitCode.MISSING


def _agent(options: argparse.Namespace) -> int:
    from netpol_agent.dataplane.backend import BackendKind
    from netpol_agent.guard.cni_results import DEFAULT_FOLDER
    from netpol_agent.guard.node_guard import GuardOptions
    from netpol_agent.guard.state import Mode
    from netpol_agent.loop import AgentOptions
    from netpol_agent.main import ApiInputs, FolderInputs, ListenAddress, run_agent
    from netpol_compiler.node import AcceptAction

    kind = BackendKind(options.backend) if options.backend else None
    guard = GuardOptions(Mode(options.guard), options.cni_results or DEFAULT_FOLDER, tuple(options.pod_cidr))
    agent = AgentOptions(options.node, kind, options.established == "cut", AcceptAction(options.accept), options.mark, guard)
    folders = options.objects is not None
    inputs = FolderInputs(options.objects, options.ir, options.reports) if folders else ApiInputs(options.kubeconfig, options.pod)
    run_agent(agent, inputs, ListenAddress(*options.http) if options.http else None)
    return ExitCode.OK


def _cleanup() -> int:
    from netpol_agent.dataplane.cleanup import run_cleanup
    from netpol_agent.errors import KernelError
    from netpol_agent.guard.guard import remove_guard

    guard_stays = ""
    try:
        remove_guard()
    except (OSError, KernelError) as error:
        guard_stays = f"the guard was not removed: {error}"
        print(guard_stays, file=sys.stderr)
    removed = run_cleanup()
    print(removed.words, file=sys.stderr if removed.failures else sys.stdout)
    return ExitCode.NEGATIVE if removed.failures or guard_stays else ExitCode.OK


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser(bool(arguments) and arguments[0] == "cleanup")
    options = parser.parse_args(arguments)
    if options.node is None:
        return options
    given = [name for name in _FOLDERS if getattr(options, name) is not None]
    missing = [name for name in _FOLDERS if name not in given]
    if given and missing:
        parser.error(f"--{given[0]} without --{missing[0]}: an agent on folders needs --objects, --ir and --reports")
    for name in ("kubeconfig", "pod"):
        if given and getattr(options, name) is not None:
            parser.error(f"--{name} is for a cluster and --{given[0]} for folders: leave out one of them")
    if options.pod is not None and options.http is None:
        parser.error("--pod without --http: nobody could ask the agent anything; add --http :9436")
    return options


def _parser(cleanup: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="npctl agent",
        description="Enforce policies on one node until SIGTERM, which leaves enforcement in place. "
        "On a cluster unless folders are named; in a pod it finds the API server by itself.",
        epilog="npctl agent cleanup removes everything of npctl's from this node's kernel and touches nothing else.",
    )
    if cleanup:
        parser.add_argument("command", choices=["cleanup"], help="remove everything of npctl's from this node")
        parser.set_defaults(node=None)
        return parser
    parser.add_argument("--node", metavar="NAME", required=True, help="this node's name, as in its pods' spec.nodeName")
    cluster = parser.add_argument_group("on a cluster")
    cluster.add_argument(
        "--kubeconfig", metavar="FILE", type=Path, help="how to reach the cluster; in a pod: its service account"
    )
    cluster.add_argument("--pod", metavar="NS/NAME", type=_pod, help="the agent's own pod, through which npctl asks it")
    folders = parser.add_argument_group("on folders, in place of a cluster")
    folders.add_argument("--objects", metavar="DIR", type=Path, help="folder of Kubernetes objects")
    folders.add_argument("--ir", metavar="DIR", type=Path, help="folder of compiled policies")
    folders.add_argument("--reports", metavar="DIR", type=Path, help="folder for this node's report")
    parser.add_argument(
        "--http", metavar="[HOST]:PORT", type=_address, help="serve /healthz, /readyz, /metrics and the rules of pods here"
    )
    parser.add_argument("--backend", choices=["nft", "legacy"], help="iptables to use; what this node uses by default")
    parser.add_argument(
        "--established", choices=["cut", "keep"], default="cut", help="what a tighter policy does to the connections it refuses"
    )
    parser.add_argument("--accept", choices=["return", "accept"], default="return", help="what happens to allowed packets")
    parser.add_argument("--mark", metavar="BIT", type=_mark, default=0x40000, help="the one mark bit to use (0x40000)")
    guard = parser.add_argument_group("the guard: who a pod is on the wire")
    guard.add_argument(
        "--guard",
        choices=["off", "report", "enforce"],
        default="off",
        help="drop what carries an address that is not the pod's own, or count it only (off)",
    )
    guard.add_argument(
        "--pod-cidr",
        metavar="CIDR",
        type=_network,
        action="append",
        default=[],
        help="a block of this node's pods: of it, only addresses of pods whose rules are in force pass; may be repeated",
    )
    guard.add_argument("--cni-results", metavar="DIR", type=Path, help="where CNI keeps its results (/var/lib/cni/results)")
    return parser


def _network(text: str) -> Network:
    from netpol_compiler.model.addresses import parse_network

    try:
        return parse_network(text)[0]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _mark(text: str) -> int:
    number = int(text, 0)
    if not 0 < number < 1 << 32 or number & (number - 1):
        raise argparse.ArgumentTypeError(f"{text} is not a single bit of 32")
    return number


def _pod(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise argparse.ArgumentTypeError(f"{text} is not NAMESPACE/NAME")
    return namespace, name


def _address(text: str) -> tuple[str, int]:
    try:
        return host_and_port(text)
    except CommandError as error:
        raise argparse.ArgumentTypeError(f"{text} is not [HOST]:PORT; write :9436, 127.0.0.1:9436 or [::1]:9436") from error
