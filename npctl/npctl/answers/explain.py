"""What holds for one pod, as a value: isolation, grants, notes. Rendered by `explain_command`; decided by the compiler.

In: the state and a pod. Out: `Explanation`. It reads policies, rules and set members from the IR and asks `Judge`
which policies isolate; no selector is evaluated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.kinds import DIRECTIONS, Direction
from netpol_compiler.model.objects import TERMINAL_PHASES, Key, Pod
from netpol_compiler.node.pod_chains import pod_chain_name
from netpol_compiler.policy.ir import CompiledPolicy
from npctl.answers import dns
from npctl.answers.describe import Grant, grants
from npctl.inputs.state import State


@dataclass(frozen=True, slots=True)
class Note:
    """A remark for people: `code` is stable, `message` is not."""

    code: str
    message: str

    @property
    def data(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class Side:
    """One direction of one pod. Not isolated: `policies` is empty and everything passes. `chain` is its chain then, or empty."""

    direction: Direction
    policies: tuple[Key, ...]
    grants: tuple[Grant, ...]
    chain: str

    @property
    def isolated(self) -> bool:
        return bool(self.policies)

    @property
    def data(self) -> dict[str, Any]:
        return {
            "isolated": self.isolated,
            "policies": [str(k) for k in self.policies],
            "rules": [g.data for g in self.grants],
            "chain": self.chain or None,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything about one pod."""

    pod: Pod
    sides: tuple[Side, ...]
    notes: tuple[Note, ...]

    @property
    def data(self) -> dict[str, Any]:
        pod = self.pod
        return {
            "pod": {
                "namespace": pod.key.namespace,
                "name": pod.key.name,
                "node": pod.node or None,
                "addresses": [a.text for a in pod.addresses],
                "labels": dict(pod.labels),
                "hostNetwork": pod.host_network,
                "phase": pod.phase,
            },
            **{side.direction.value: side.data for side in self.sides},
            "notes": [n.data for n in self.notes],
        }


def explain(state: State, pod: Pod) -> Explanation:
    """What holds for `pod` now."""
    sides, notes = [], [*_pod_notes(pod)]
    for direction in DIRECTIONS:
        policies = state.judge.policies_for(pod, direction)
        found = [g for p in policies for g in grants(p, direction, pod, state.ir.sets, state.holders)]
        chain = pod_chain_name(pod.key, direction) if policies else ""
        sides.append(Side(direction, tuple(p.key for p in policies), tuple(found), chain))
        notes += _side_notes(state, pod, direction, policies, found)
    return Explanation(pod, tuple(sides), tuple(notes))


def _pod_notes(pod: Pod) -> Iterator[Note]:
    if pod.host_network:
        yield Note("host-network", "it is on its node's network: no policy selects it, and to others it is the node's address")
    elif pod.phase in TERMINAL_PHASES:
        yield Note("over", f"this pod is over ({pod.phase}): no policy selects it, and its address is nobody's")
    elif not pod.addresses:
        yield Note("no-address", "this pod has no address yet: until it has one it is nobody's peer")


def _side_notes(
    state: State, pod: Pod, direction: Direction, policies: tuple[CompiledPolicy, ...], found: list[Grant]
) -> Iterator[Note]:
    for policy in policies:
        for rejected in policy.rejected:
            what = f"{policy.key} {rejected.field}: {rejected.reason}"
            yield Note("not-understood", f"{what}; this part allows nothing, and the policy isolates this pod all the same")
    if direction is Direction.EGRESS and policies:
        yield from _dns_notes(state, policies)
    if direction is Direction.INGRESS and any(p.kind == "ipBlock" for g in found for p in g.peers):
        services = [str(k) for k in state.node_port_services(pod)]
        if services:
            yield Note(
                "source-nat",
                f"connections from outside through the node ports of {', '.join(services)} arrive with a node's address, not the"
                " client's (unless externalTrafficPolicy is Local): the ipBlocks above are compared with that",
            )


def _dns_notes(state: State, policies: tuple[CompiledPolicy, ...]) -> Iterator[Note]:
    view = dns.look(policies, state.ir.sets, state.cluster)
    for policy, index, towards in view.rules:
        yield Note("dns-trap", dns.trap_words(policy, index, towards, view))
    if view.state is dns.DnsState.SHUT:
        yield Note("dns-shut", "no rule opens port 53/udp: name lookups fail")
