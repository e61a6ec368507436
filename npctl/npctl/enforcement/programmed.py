"""What a node's kernel really holds for a pod: asked of that node's agent, through the API server's proxy to the agent's pod.

In: a reading of a cluster, and a pod. Out: `Programmed`: chains with packet counters, sets, and where the kernel differs from
what was compiled. When the agent cannot be asked, a CommandError names the node and the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from netpol_api.in_force import Agent
from netpol_compiler.model.objects import Pod
from netpol_kube.errors import ApiError, Json
from npctl.cluster.api import Refused
from npctl.errors import CommandError, ExitCode
from npctl.inputs.live import NOT_INSTALLED, Live, not_installed
from npctl.output import Colour, paint

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Programmed:
    """The agent's answer, its schema checked."""

    node: str
    answer: Json

    @property
    def differences(self) -> list[str]:
        return [str(d) for d in self.answer.get("differences") or ()]

    @property
    def data(self) -> dict[str, Any]:
        answer = self.answer
        return {
            "node": self.node,
            "backend": answer.get("backend"),
            "inSync": bool(answer.get("in_sync")),
            "isolated": list(answer.get("isolated") or ()),
            "chains": answer.get("chains") or {},
            "sets": answer.get("sets") or {},
            "differences": self.differences,
        }

    @property
    def lines(self) -> Iterator[str]:
        for family, chains in sorted((self.answer.get("chains") or {}).items()):
            yield f"\nChains in the kernel of node {self.node}, IPv{family} (packets, bytes, rule):"
            if not chains:
                yield "  none: this pod is not isolated"
            for name, rules in chains.items():
                yield f"  {paint(name, Colour.BOLD)}"
                yield from (f"    {r.get('packets', 0):>8} {r.get('bytes', 0):>10}  {r.get('rule', '')}" for r in rules)
        sets = self.answer.get("sets") or {}
        if sets:
            yield "\nSets in the kernel:"
        for name, ipset in sets.items():
            yield f"  {paint(name, Colour.BOLD)} ({ipset.get('type')}): {', '.join(ipset.get('members') or ()) or 'empty'}"
        if self.differences:
            yield f"\n{paint('THE KERNEL DIFFERS', Colour.RED)} from what was compiled for node {self.node}:"
            yield from (f"  {paint(d, Colour.RED)}" for d in self.differences)
        elif not self.answer.get("in_sync"):
            yield f"\n{paint('NOT IN SYNC', Colour.RED)}: the agent of node {self.node} has not written everything yet."
        else:
            yield f"\nThe kernel of node {self.node} holds what was compiled."


def programmed(live: Live, pod: Pod) -> Programmed:
    """Ask the agent of the pod's node. Raises CommandError, naming the node and why it cannot be asked."""
    if not pod.node:
        raise _cannot(pod, "the pod has no node yet", "wait until it is scheduled")
    agent = _agent(live, pod)
    path = f"/api/v1/namespaces/{agent.namespace}/pods/{agent.pod}:{agent.port}/proxy/v1/pods/{pod.key}"
    try:
        answer = live.api.get(path)
    except Refused as refused:
        raise _refused(refused, pod, agent) from refused
    if answer.get("schema") != SCHEMA:
        reason = f"its agent answers in schema {answer.get('schema')!r}, and this npctl reads {SCHEMA}"
        raise _cannot(pod, reason, "use an npctl of the agents' version: npctl status")
    return Programmed(pod.node, answer)


def _agent(live: Live, pod: Pod) -> Agent:
    if live.control is None:
        raise not_installed(live.api) if live.unknown == NOT_INSTALLED else _cannot(pod, live.unknown, "")
    report = live.control.reports.get(pod.node)
    if report is None:
        remedy = "npctl status lists the nodes; does the DaemonSet npctl-agent run there?"
        raise _cannot(pod, "no agent has reported from there", remedy)
    if report.agent is None:
        raise _cannot(pod, "its report names no agent's pod", "start the agent with --pod NAMESPACE/NAME, as the chart does")
    return report.agent


def _refused(refused: Refused, pod: Pod, agent: Agent) -> CommandError:
    """The proxy's failures, and the agent's own, told apart."""
    error: ApiError = refused.error
    who = f"its agent {agent.namespace}/{agent.pod}"
    if error.is_forbidden:
        remedy = "the verb get on pods/proxy is missing, which the chart gives with the role npctl-viewer-proxy"
        return _cannot(pod, refused.lines[0], remedy)
    if error.is_not_found and error.answer.get("kind") == "Status":
        return _cannot(pod, f"{who} is no longer there", "try again when its successor has reported: npctl status")
    if error.is_not_found:
        return _cannot(pod, f"{who} does not have this pod", "try again: it may have come or gone just now")
    return _cannot(
        pod, f"{who} does not answer ({error.status} {error.message})", f"kubectl -n {agent.namespace} logs {agent.pod}"
    )


def _cannot(pod: Pod, reason: str, remedy: str) -> CommandError:
    where = f"node {pod.node}" if pod.node else f"pod {pod.key}"
    return CommandError(ExitCode.MISSING, f"{where}: its rules cannot be read: {reason}", remedy)
