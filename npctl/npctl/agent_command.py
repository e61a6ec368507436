"""`npctl agent ...` and `npctl agent cleanup`: arguments in, the agent's functions out. Nothing is decided here."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from npctl.errors import ExitCode


def run(arguments: Sequence[str]) -> int:
    """Run the agent with the command line's `arguments` (without `agent`). Returns the exit code."""
    from netpol_agent.errors import AgentError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    options = _parser(bool(arguments) and arguments[0] == "cleanup").parse_args(arguments)
    try:
        return _cleanup() if options.node is None else _agent(options)
    except AgentError as error:
        for line in filter(None, (str(error), error.remedy)):
            print(line, file=sys.stderr)
        return ExitCode.MISSING


def _agent(options: argparse.Namespace) -> int:
    from netpol_agent.agent import run_agent

    run_agent(
        options.node,
        options.objects,
        options.ir,
        options.reports,
        backend=options.backend,
        established=options.established,
        accept=options.accept,
        mark=options.mark,
    )
    return ExitCode.OK


def _cleanup() -> int:
    from netpol_agent.cleanup import run_cleanup

    removed = run_cleanup()
    print(removed.words, file=sys.stderr if removed.failures else sys.stdout)
    return ExitCode.NEGATIVE if removed.failures else ExitCode.OK


def _parser(cleanup: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="npctl agent",
        description="Enforce policies on one node until SIGTERM, which leaves enforcement in place.",
        epilog="npctl agent cleanup removes everything of npctl's from this node's kernel and touches nothing else.",
    )
    if cleanup:
        parser.add_argument("command", choices=["cleanup"], help="remove everything of npctl's from this node")
        parser.set_defaults(node=None)
        return parser
    parser.add_argument("--node", metavar="NAME", required=True, help="this node's name, as in its pods' spec.nodeName")
    parser.add_argument("--objects", metavar="DIR", type=Path, required=True, help="folder of Kubernetes objects")
    parser.add_argument("--ir", metavar="DIR", type=Path, required=True, help="folder of compiled policies")
    parser.add_argument("--reports", metavar="DIR", type=Path, required=True, help="folder for this node's report")
    parser.add_argument("--backend", choices=["nft", "legacy"], help="iptables to use; what this node uses by default")
    parser.add_argument(
        "--established", choices=["cut", "keep"], default="cut", help="what a tighter policy does to the connections it refuses"
    )
    parser.add_argument("--accept", choices=["return", "accept"], default="return", help="what happens to allowed packets")
    parser.add_argument("--mark", metavar="BIT", type=_mark, default=0x40000, help="the one mark bit to use (0x40000)")
    return parser


def _mark(text: str) -> int:
    number = int(text, 0)
    if not 0 < number < 1 << 32 or number & (number - 1):
        raise argparse.ArgumentTypeError(f"{text} is not a single bit of 32")
    return number
