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
    objects: Annotated[Path, typer.Option("--objects", metavar="DIR", help="Folder of Kubernetes objects to read.")],
    ir: Annotated[Path, typer.Option("--ir", metavar="DIR", help="Folder that the compiled policies are published in.")],
) -> None:
    """Compile a folder of objects to the policy IR, and keep it up to date until SIGTERM."""
    import logging
    import signal

    from netpol_operator.files import run_on_folder

    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run_on_folder(objects, ir, lambda: stopping)


def agent(context: typer.Context) -> None:
    """Enforce policies on one node: `npctl agent --node NAME ...`, or `npctl agent cleanup`. See npctl agent --help."""
    from npctl.agent_command import run

    raise typer.Exit(run(context.args))
