"""`npctl lab run PATH`: the cases of a folder on real packets (or simulated), as a table that compares."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from netpol_lab.client import LabClient, can_run
from netpol_lab.scenarios.cases import Row, run_cases
from netpol_lab.scenarios.drivers import LabDriver, SimulateDriver
from npctl.errors import CommandError, ExitCode
from npctl.lab.commands import check_choices
from npctl.lab.common import Progress, lab_errors, progress_line
from npctl.output import Cell, Colour, Format, emit, paint, say, table

SIMULATED = "simulated"


def run(path: str, output: Format, *, simulate: bool, keep: bool, name: str | None, **options: str) -> None:
    """Run and print; exits with 1 when anything differs. `options`: network, backend, family."""
    check_choices(**options)
    began = time.monotonic()
    with lab_errors(), progress_line() as progress:
        if simulate:
            rows = _simulate(Path(path), options["network"], options["family"], progress)
        else:
            rows = _send(Path(path), name or f"run-{os.getpid()}", keep, progress, **options)
    seconds = time.monotonic() - began
    differing = [r for r in rows if not r.as_expected]
    if output.is_data:
        summary = {"connections": len(rows), "differing": len(differing), "simulated": simulate, "seconds": round(seconds, 1)}
        emit({"rows": [r.as_json for r in rows], "summary": summary}, output)
    else:
        _show(rows, simulate, seconds)
    if differing:
        raise SystemExit(int(ExitCode.NEGATIVE))


def _simulate(path: Path, network: str, family: str, progress: Progress) -> tuple[Row, ...]:
    driver = SimulateDriver(network, family)
    try:
        return run_cases(path, driver, progress)
    finally:
        driver.close()


def _send(path: Path, name: str, keep: bool, progress: Progress, **options: Any) -> tuple[Row, ...]:
    refused = can_run()
    if refused is not None:
        raise refused
    client = LabClient(name)
    if client.is_up():
        raise CommandError(ExitCode.BAD_INPUT, f"lab {name!r} is up already", "leave --name out, or end it with `npctl lab down`")
    try:
        return run_cases(path, LabDriver(client, progress=progress, **options), progress)
    finally:
        if not keep:
            client.down()


def _show(rows: tuple[Row, ...], simulate: bool, seconds: float) -> None:
    """One line for each connection; simulated ones say so in every line."""
    header = ["CASE", "FROM", "TO", "PORT", "EXPECTED", "SEEN", "", "DECIDED BY"]
    cells: list[list[Cell]] = [_row(r) for r in rows]
    if simulate:
        header, cells = [SIMULATED.upper(), *header], [[SIMULATED, *c] for c in cells]
    top, *lines = table(header, cells)
    say(top)
    step = ("", "")
    for row, line in zip(rows, lines, strict=True):
        if step != (row.case, row.step):
            step = (row.case, row.step)
            say(paint(f"{SIMULATED}   " * simulate + f"{row.case}: {row.step}", Colour.BOLD))
        say(line)
    differing = sum(not r.as_expected for r in rows)
    say()
    how = f"{SIMULATED}: walked through the rendered rules, no packets" if simulate else "real packets"
    verdict = paint(f"{differing} differ", Colour.RED) if differing else paint("all as expected", Colour.GREEN)
    say(f"{len(rows)} connections ({how}) in {seconds:.0f} s: {verdict}")


def _row(row: Row) -> list[Cell]:
    check, seen = row.check, row.seen
    # A reset comes from the pod itself: the packet passed, and nothing listens on that port.
    detail = {"error": seen.answer, "allowed": "nothing listens" if seen.answer == "reset" else ""}.get(seen.verdict, "")
    shown = f"{seen.verdict} ({detail})" if detail else seen.verdict
    mark: Cell = ("ok", Colour.GREEN) if row.as_expected else ("DIFFERS", Colour.RED)
    return [row.case, check.source.name, check.target.name, check.port_text, check.expect, shown, mark, seen.decided]
