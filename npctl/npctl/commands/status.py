"""`npctl status`: reads what operator and agents have published, and prints a `Status`. Exits with 1 when something lags."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from netpol_api.in_force import Control
from npctl.cluster.api import Access, Api, Refused
from npctl.enforcement.enforcement import age_words
from npctl.enforcement.status import STALE_SECONDS, NodeStatus, Operator, Status, operator_of, status_of
from npctl.errors import CommandError, ExitCode
from npctl.inputs import live as live_module
from npctl.output import Cell, Colour, Format, emit, paint, say, table

_NAMESPACE = "npctl-system"
_LEASE = "npctl-operator"
_REPLICAS = "app.kubernetes.io/name=npctl,app.kubernetes.io/component=operator"
_HEAD = ["NODE", "IN-SYNC", "POLICIES", "RULES", "SETS", "LAG", "FAILURES", "BACKEND", "VERSION", "REPORTED"]


def run(access: Access, output: Format) -> None:
    """Print the status of a cluster."""
    live = live_module.read(access, quiet=True)
    if live.control is None:
        if live.unknown == live_module.NOT_INSTALLED:
            raise live_module.not_installed(live.api)
        raise CommandError(
            ExitCode.MISSING, live.unknown, "the verb list on nodereports and compiledpolicies is missing (npctl-viewer has it)"
        )
    now = datetime.now(UTC)
    status = status_of(live, live.control, _operator(live.api, live.control, now), now)
    if output.is_data:
        emit(status.data, output)
    else:
        for line in _lines(status):
            say(line)
    if not status.in_force:
        raise SystemExit(int(ExitCode.NEGATIVE))


def _operator(api: Api, control: Control, now: datetime) -> Operator:
    """The lease is in the release's namespace: that of the agents, as they report it."""
    homes = {r.agent.namespace for r in control.reports.values() if r.agent is not None}
    namespace = min(homes) if homes else _NAMESPACE
    try:
        lease = api.find(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{_LEASE}")
        pods = api.listed(f"/api/v1/namespaces/{namespace}/pods", labelSelector=_REPLICAS)
    except Refused as refused:
        if not refused.error.is_forbidden:
            raise
        return Operator(namespace, problem=refused.lines[0], unknown=True)
    return operator_of(namespace, lease, pods, now)


def _lines(status: Status) -> Iterator[str]:
    word = paint("Operator", Colour.RED if status.operator.problem else Colour.BOLD)
    yield f"{word} ({status.operator.namespace}): {status.operator.words}"
    good = status.total - len(status.policies)
    yield f"{paint('Policies', Colour.RED if status.policies else Colour.BOLD)}: {good} of {status.total} in force"
    yield ""
    yield from table(_HEAD, map(_row, status.nodes))
    if status.in_force:
        return
    yield ""
    for state in status.policies:
        yield from (f"{paint('lags', Colour.RED)}: {state.policy}: {lag.words}" for lag in state.lags)
    for node in status.nodes:
        yield from (f"{paint('node', Colour.RED)} {node.name}: {trouble}" for trouble in node.troubles)


def _row(node: NodeStatus) -> list[Cell]:
    report = node.report
    lag: Cell = (str(len(node.lagging)), Colour.RED if node.lagging else None)
    if report is None:
        return [node.name, ("-", Colour.RED), "-", "-", "-", lag, "-", "-", "-", ("never", Colour.RED)]
    stale = node.seconds is None or node.seconds > STALE_SECONDS
    return [
        node.name,
        ("yes", Colour.GREEN) if report.in_sync else ("NO", Colour.RED),
        str(len(report.policies)),
        str(node.rules),
        str(node.sets),
        lag,
        (str(report.failure_count), Colour.RED if report.failure_count else None),
        report.backend,
        report.version,
        ("unknown" if node.seconds is None else f"{age_words(node.seconds)} ago", Colour.RED if stale else None),
    ]
