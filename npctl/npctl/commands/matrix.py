"""`npctl matrix`: every source towards every destination, as a compact table or as data.

Ports are those that the destination listens to, unless one is given; a pod that declares none is tried with ICMP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.objects import Connection, Pod
from netpol_compiler.policy.verdict import Verdict
from npctl.answers.describe import port_words
from npctl.answers.probes import side_data
from npctl.endpoints.endpoints import Place, PortChoice, find_place, parse_port, pod_place
from npctl.errors import usage
from npctl.inputs.origin import Origin, open_origin
from npctl.inputs.selector_text import parse_selector
from npctl.inputs.state import State
from npctl.output import Colour, Format, emit, paint, say, table

_SYMBOLS = {"all": (".", Colour.GREEN), "none": ("X", Colour.RED), "some": ("~", Colour.YELLOW), "self": ("-", Colour.DIM)}
_LEGEND = "Rows are sources, columns destinations.   . all allowed   X all refused   ~ some ports   - itself"


@dataclass(frozen=True, slots=True)
class Cell:
    """One source towards one destination: each port with its verdict."""

    source: Place
    target: Place
    tries: tuple[tuple[Connection, Verdict], ...]

    @property
    def kind(self) -> str:
        if self.source == self.target or not self.tries:
            return "self"
        answers = {v.allowed for _, v in self.tries}
        return "some" if len(answers) > 1 else "all" if True in answers else "none"

    @property
    def detail(self) -> str:
        """The ports that pass: `8080/tcp,53/udp`, or X."""
        passing = dict.fromkeys(port_words(c.protocol, c.port) for c, v in self.tries if v.allowed)
        return ",".join(passing) or ("X" if self.tries else "-")


def run(
    origin: Origin,
    selector: str | None,
    port: str | None,
    source: list[str],
    to: list[str],
    output: Format,
) -> None:
    """Print the matrix of the chosen pods, and of places outside."""
    choice = parse_port(port) if port else None
    state, namespace, chosen, _ = open_origin(origin)
    pods = _chosen(state, chosen, selector)
    rows = [pod_place(p) for p in pods] + [find_place(state, text, namespace) for text in source]
    columns = [pod_place(p) for p in pods] + [find_place(state, text, namespace) for text in to]
    services = [p.label for p in (*rows, *columns) if p.service is not None]
    if services:
        raise usage(f"{services[0]} is no place of a matrix", "a Service stands for its pods: choose those with -n and -l")
    if not rows or not columns:
        raise usage("no pod is chosen", "check -n and -l, or leave them out")
    cells = [[_cell(state, a, b, choice) for b in columns] for a in rows]
    if output.is_data:
        emit({"connections": [d for row in cells for cell in row for d in _data(cell)]}, output)
        return
    _show(rows, columns, cells, output is Format.WIDE)


def _chosen(state: State, namespace: str | None, selector: str | None) -> list[Pod]:
    wanted = parse_selector(selector) if selector else None
    return [
        p
        for k, p in sorted(state.cluster.pods.items())
        if p.addresses and (namespace is None or k.namespace == namespace) and (wanted is None or wanted.matches(p.labels))
    ]


def _cell(state: State, source: Place, target: Place, choice: PortChoice | None) -> Cell:
    tries = []
    for protocol, number in _ports(target, choice) if source != target else ():
        for a in source.addresses:
            b = next((b for b in target.addresses if b.version == a.version), None)
            if b is not None:
                connection = Connection(a, b, protocol, number, source.node, target.node)
                tries.append((connection, state.judge.judge(connection)))
    return Cell(source, target, tuple(tries))


def _ports(target: Place, choice: PortChoice | None) -> list[tuple[Any, int | None]]:
    if choice is not None and choice.name:
        if target.pod is None or choice.protocol is None:
            return []
        return [(choice.protocol, n) for n in target.pod.named_port(choice.name, choice.protocol)]
    if choice is not None:
        return [(choice.protocol, choice.number)]
    ports = sorted({(p.port, p.protocol) for p in target.pod.ports}) if target.pod else []
    return [(protocol, number) for number, protocol in ports] or [(None, None)]


def _data(cell: Cell) -> list[dict[str, Any]]:
    return [
        {
            "from": cell.source.label,
            "to": cell.target.label,
            "source": c.source.text,
            "destination": c.destination.text,
            "protocol": "ICMP" if c.protocol is None else c.protocol.value,
            "port": c.port,
            "allowed": v.allowed,
            "decided": side_data(v.deciding),
        }
        for c, v in cell.tries
    ]


def _show(rows: list[Place], columns: list[Place], cells: list[list[Cell]], wide: bool) -> None:
    """Columns have numbers for heads: names would make the table wider than any screen."""
    number = {place.label: str(i) for i, place in enumerate(dict.fromkeys([*columns, *rows]), start=1)}
    body = [
        [number[row.label], row.label, *((c.detail if wide and c.kind != "self" else paint_symbol(c.kind)) for c in line)]
        for row, line in zip(rows, cells, strict=True)
    ]
    for line in table(["#", "FROM \\ TO", *(number[c.label] for c in columns)], body):
        say(line)
    extra = [c for c in columns if c not in rows]
    for place in extra:
        say(f"{number[place.label]} = {place.label}")
    say()
    say(paint(_LEGEND, Colour.DIM))


def paint_symbol(kind: str) -> tuple[str, Colour | None]:
    """A cell's symbol with its colour."""
    return _SYMBOLS[kind]
