"""Is what `explain` says of pods in force on their nodes? From what operator and agents have published to lines and data.

In: a reading of a cluster, and pods. Out: one `Enforcement` for each. `netpol_api.in_force` decides what counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from netpol_api.in_force import Control, Lag, PolicyState, policy_state
from netpol_api.node_report import NodeReport
from netpol_api.times import age_seconds
from netpol_compiler.model.kinds import DIRECTIONS
from netpol_compiler.model.objects import Pod
from npctl.inputs.live import Live
from npctl.output import Colour, paint


@dataclass(frozen=True, slots=True)
class Enforcement:
    """`unknown`: why nothing can be said (then nothing else counts). `left`: policies that are deleted and still in force."""

    pod: Pod
    unknown: str
    states: tuple[PolicyState, ...]
    left: tuple[Lag, ...]
    report: NodeReport | None

    @property
    def in_force(self) -> bool:
        return not self.unknown and not self.left and all(s.in_force for s in self.states)

    @property
    def lags(self) -> list[str]:
        return [f"{s.policy}: {lag.words}" for s in self.states for lag in s.lags] + [lag.reason for lag in self.left]

    @property
    def data(self) -> dict[str, Any]:
        return {
            "pod": str(self.pod.key),
            "node": self.pod.node or None,
            "inForce": self.in_force,
            "unknown": self.unknown or None,
            "policies": [s.data for s in self.states],
            "leftBehind": [lag.reason for lag in self.left],
            "reported": (self.report.time or None) if self.report else None,
        }

    @property
    def lines(self) -> Iterator[str]:
        node = self.pod.node
        if self.unknown:
            yield f"{paint('In force', Colour.BOLD)} for {self.pod.key}: unknown; {self.unknown}."
        elif self.in_force:
            number = len(self.states)
            count = f"{number} {'policy' if number == 1 else 'policies'}"
            what = f"all of it ({count}{_reported(self.report)})" if number else "no policy selects it, and none is left there"
            yield f"{paint('In force', Colour.GREEN)} for {self.pod.key} on node {node}: {what}."
        else:
            yield f"{paint('NOT in force', Colour.RED)} for {self.pod.key} on node {node}{_reported(self.report)}:"
            yield from (f"  {line}" for line in self.lags)


def enforcements(live: Live, pods: Iterable[Pod]) -> list[Enforcement]:
    """For each pod whether all policies that select it are in force on its node; of the pods after the first, those with any."""
    if live.control is None:
        return [Enforcement(pod, live.unknown, (), (), None) for pod in list(pods)[:1]]
    first, *others = (_enforcement(live, live.control, pod) for pod in dict.fromkeys(pods))
    return [first, *(e for e in others if e.states or e.left)]


def _enforcement(live: Live, control: Control, pod: Pod) -> Enforcement:
    if not pod.node:
        return Enforcement(pod, "the pod has no node yet", (), (), None)
    keys = sorted({p.key for d in DIRECTIONS for p in live.state.judge.policies_for(pod, d)})
    states = tuple(policy_state(k, live.written[k], (pod.node,), control) for k in keys)
    report = control.reports.get(pod.node)
    mine = [k for k in (report.policies if report else {}) if k.partition("/")[0] == pod.key.namespace]
    known = {str(k) for k in live.written}
    left = tuple(Lag(pod.node, f"{k} is deleted, and still in force on the node") for k in sorted(mine) if k not in known)
    return Enforcement(pod, "", states, left, report)


def age_words(seconds: float) -> str:
    """As kubectl writes ages: `5s`, `12m`, `3h`, `9d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{int(seconds / size)}{unit}"
    return f"{max(0, int(seconds))}s"


def _reported(report: NodeReport | None) -> str:
    seconds = age_seconds(report.time) if report else None
    return "" if seconds is None else f", reported {age_words(seconds)} ago"
