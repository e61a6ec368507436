"""The program `npctl`: its commands and their options, and nothing that decides.

    main ----> commands_files   explain, trace, matrix, lint, diff, compile (files or a cluster in, answers out)
         ----> commands_cluster status, wait                        (a cluster that npctl runs in)
         ----> commands_lab     lab up, apply, connect, run, ...    (a running lab)
         ----> commands_run     operator, agent                     (the programs that the lab and clusters start)

Those modules hold signatures only. What a command needs is imported when it runs, so that `npctl --help` and
`npctl explain` start fast; nothing here may import the compiler, netaddr or yaml.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated

import typer

from npctl.cli import cluster, daemons, files, lab
from npctl.errors import CommandError
from npctl.output import fail, finish, hint

_HELP = """NetworkPolicies, from YAML to packets: what they mean, who may talk to whom, and why a packet passes or not.

Commands that take -f answer from files; without it they ask the cluster that kubectl would ask.

Exit codes: 0 yes, 1 the answer is no (refused, differs, lint errors, lags), 2 bad input or usage, 3 this machine lacks
something, or no cluster can be reached, 4 timeout."""

_GC_ALLOCATIONS = 50_000
"""Objects between two searches for garbage: importing makes many and no garbage."""

app = typer.Typer(
    name="npctl",
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes longer to import than all of npctl
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
files.register(app)
cluster.register(app)
lab.register(app)
daemons.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"npctl {version('npctl')}")
        except PackageNotFoundError:
            typer.echo("npctl (from source, not installed)")
        raise typer.Exit


@app.callback()
def _everywhere(
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours, also on a terminal (as NO_COLOR=1). Goes anywhere.")
    ] = False,
    _version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    if no_color:
        os.environ["NO_COLOR"] = "1"


def main(arguments: list[str] | None = None) -> None:
    """Run the program with `arguments` (default: those of the process). Always raises SystemExit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_program = arguments is None
    if is_program and words[:1] != ["agent"]:  # an agent lives long, and small
        gc.set_threshold(_GC_ALLOCATIONS)
    try:
        app(_colour_first(words), prog_name="npctl")
    except CommandError as error:
        for line in error.lines:
            fail(line)
        if error.remedy:
            hint(error.remedy)
        sys.exit(int(error.code))
    finally:
        finish()
        if is_program:
            gc.freeze()  # the interpreter's end would search all modules for garbage, 90 ms of a command


def _colour_first(words: list[str]) -> list[str]:
    """--no-color is accepted anywhere before `--`, as kubectl's global flags are."""
    end = words.index("--") if "--" in words else len(words)
    if "--no-color" not in words[:end]:
        return words
    return ["--no-color", *(w for w in words[:end] if w != "--no-color"), *words[end:]]
