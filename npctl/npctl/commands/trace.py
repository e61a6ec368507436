"""`npctl trace --simulate`: traces as text or data. Decides nothing."""

from __future__ import annotations

from npctl.answers.probes import try_places
from npctl.answers.trace import Stop, Trace, Tracer
from npctl.endpoints.endpoints import find_place, parse_port
from npctl.errors import ExitCode, usage
from npctl.inputs.origin import Origin, open_origin
from npctl.output import Colour, Format, emit, paint, say, table, warn


def run(source: str, target: str, origin: Origin, port: str | None, simulate: bool, output: Format) -> None:
    """Trace every connection that SOURCE to TARGET means. Exits with 1 when one is refused."""
    if not simulate:
        raise usage(
            "npctl trace only simulates: say so with --simulate",
            "it walks packets through the rendered rules and sends none; npctl lab connect sends real ones",
        )
    choice = parse_port(port) if port else None
    state, namespace, _, _ = open_origin(origin)
    tries = try_places(state, find_place(state, source, namespace), find_place(state, target, namespace), choice)
    tracer = Tracer(state)
    traces = [tracer.trace(attempt) for attempt in tries]
    for trace in traces:
        if not trace.agrees:
            warn(_disagreement(trace))
    if output.is_data:
        emit({"simulated": True, "traces": [t.data for t in traces]}, output)
    else:
        for index, trace in enumerate(traces):
            if index:
                say()
            _show(trace)
    if any(not t.allowed for t in traces):
        raise SystemExit(int(ExitCode.NEGATIVE))


def _disagreement(trace: Trace) -> str:
    one, two = ("passes", "refuse") if trace.allowed else ("is refused", "allow")
    attempt = trace.attempt
    who = f"{attempt.source.label} -> {attempt.target.label}, {attempt.port}"
    return f"{who}: it {one} in the rules, and the compiled policies {two} it. That is a fault of npctl, please report it"


def _show(trace: Trace) -> None:
    attempt = trace.attempt
    word = paint("allowed", Colour.GREEN) if trace.allowed else paint("refused", Colour.RED)
    ends = f"{attempt.source.label} -> {attempt.target.label}, {attempt.port}"
    say(f"{paint(word, Colour.BOLD)} (simulated, nothing was sent): {ends}")
    c = attempt.connection
    say(f"  {c.source} -> {c.destination}" + (f", through {attempt.via}" if attempt.via else ""))
    if not trace.first:
        say("  No node forwards it, so no rule sees it.")
    for head, stops in (("First packet", trace.first), ("Reply", trace.reply)):
        for stop in stops:
            say()
            _show_stop(head, stop)


def _show_stop(head: str, stop: Stop) -> None:
    word = paint("accepted", Colour.GREEN) if stop.accepted else paint("refused", Colour.RED)
    sides = "".join(f", {direction.value} of {pod}" for direction, pod in stop.sides)
    say(f"{paint(head, Colour.BOLD)} ({stop.packet.state}) on node {stop.node}{sides}: {word}: {stop.why}")
    rows = [[str(m.step.line or ""), m.step.effect, m.text] for m in stop.path]
    if rows:
        for line in table(["LINE", "DOES", "RULE"], rows):
            say(f"  {line}")
