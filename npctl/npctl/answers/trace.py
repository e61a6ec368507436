"""A connection's packets on their way: at each node that they pass, the rules that matched, by a walk through restore text.

    Try (places, connection) --ways--> nodes --restored.node_text, read_back--> Tables, Sets --simulate.send--> Stop, Trace

In: the state and one `Try`. Out: a `Trace`: the first packet's stops, and the reply's where the first packet arrived. The
verdict is the walk's alone; what the compiled policies say stands beside it, so that the two can be compared. Nothing is
sent, and what the kernels of a cluster hold is not asked: this is what their agents would write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.ruleset.values import ALLOW_CHAIN
from netpol_compiler.simulate import Conntrack, Packet, Step, comment_of, first_packet, send
from netpol_compiler.witnesses.restored import NodeText, ReadBack, node_text, read_back
from npctl.answers.kernel_view import node_ruleset
from npctl.answers.probes import Try
from npctl.errors import usage
from npctl.inputs.state import State


@dataclass(frozen=True, slots=True)
class Match:
    """One rule that matched. `text` is its line of the restore text, `line` the number there (0: a chain's policy)."""

    step: Step
    text: str
    words: str

    @property
    def data(self) -> dict[str, Any]:
        step = self.step
        return {
            "chain": step.chain,
            "number": step.number,
            "line": step.line,
            "rule": self.text,
            "words": self.words or None,
            "effect": step.effect,
        }


@dataclass(frozen=True, slots=True)
class Stop:
    """One packet at one node. `sides`: whose egress and whose ingress the rules judge there.

    `filtered` False: it begins or ends in the node itself, where npctl has no rules.
    """

    node: str
    packet: Packet
    accepted: bool
    why: str
    sides: tuple[tuple[Direction, Key], ...] = ()
    filtered: bool = True
    path: tuple[Match, ...] = ()

    @property
    def data(self) -> dict[str, Any]:
        packet = self.packet
        return {
            "node": self.node,
            "source": packet.source.text,
            "destination": packet.destination.text,
            "protocol": packet.protocol,
            "sport": packet.sport if packet.has_ports else None,
            "dport": packet.dport if packet.has_ports else None,
            "state": packet.state,
            "judges": [{"direction": d.value, "pod": str(k)} for d, k in self.sides],
            "filtered": self.filtered,
            "accepted": self.accepted,
            "why": self.why,
            "path": [m.data for m in self.path],
        }


@dataclass(frozen=True, slots=True)
class Trace:
    """One connection. `first` ends at the node that refuses; `reply` is empty where the first packet did not arrive."""

    attempt: Try
    first: tuple[Stop, ...]
    reply: tuple[Stop, ...]

    @property
    def allowed(self) -> bool:
        return all(stop.accepted for stop in (*self.first, *self.reply))

    @property
    def agrees(self) -> bool:
        """Whether the compiled policies give the same verdict. If not, npctl has a fault."""
        return self.allowed == self.attempt.verdict.allowed

    @property
    def data(self) -> dict[str, Any]:
        said = self.attempt.data
        policies = {key: said[key] for key in ("allowed", "decided", "egress", "ingress")}
        return {
            **{key: said[key] for key in ("from", "to", "protocol", "port", "via")},
            "allowed": self.allowed,
            "first": [s.data for s in self.first],
            "reply": [s.data for s in self.reply],
            "policies": policies,
            "agrees": self.agrees,
        }


@dataclass(frozen=True, slots=True)
class _Leg:
    """A node on the way, and whose side of the connection its rules judge there."""

    node: str
    sides: tuple[tuple[Direction, Key], ...]
    filtered: bool


@dataclass(frozen=True, slots=True)
class _Node:
    """One node's rules as text, and as they are read back."""

    text: NodeText
    rules: ReadBack


class Tracer:
    """Traces connections through the nodes of one state; a node's text is made and parsed once."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._nodes: dict[str, _Node] = {}

    def trace(self, attempt: Try) -> Trace:
        """Walk one connection; each node's connection tracking is empty when it begins. Raises CommandError."""
        way = self._way(attempt)
        tracking = {leg.node: Conntrack() for leg in way}
        packet = first_packet(attempt.connection)
        first = self._send(way, packet, tracking)
        arrived = all(stop.accepted for stop in first)
        return Trace(attempt, first, self._send(way[::-1], packet.reply(), tracking) if arrived else ())

    def _send(self, way: tuple[_Leg, ...], packet: Packet, tracking: dict[str, Conntrack]) -> tuple[Stop, ...]:
        stops: list[Stop] = []
        for leg in way:
            stops.append(self._stop(leg, packet, tracking[leg.node]) if leg.filtered else _unfiltered(leg, packet))
            if not stops[-1].accepted:
                break
        return tuple(stops)

    def _stop(self, leg: _Leg, packet: Packet, tracking: Conntrack) -> Stop:
        known = self._node(leg.node)
        packet = tracking.classify(packet)
        walked = send(known.rules.tables[packet.family], known.rules.sets, packet, tracking)
        path = tuple(_match(step, known.text, packet) for step in walked.path)
        sides = leg.sides if packet.state == "NEW" else ()  # a known connection's packets are not judged again
        return Stop(leg.node, packet, walked.accepted, _why(path, packet, walked.accepted), sides, path=path)

    def _node(self, name: str) -> _Node:
        if name not in self._nodes:
            text = node_text(node_ruleset(self._state, name))
            self._nodes[name] = _Node(text, read_back(text))
        return self._nodes[name]

    def _way(self, attempt: Try) -> tuple[_Leg, ...]:
        """The nodes that the first packet passes: the source's, then the destination's, once where that is the same."""
        c = attempt.connection
        source = None if c.source_node else self._state.holders.get(c.source)
        target = None if c.destination_node else self._state.holders.get(c.destination)
        if source is not None and source == target and not attempt.via:
            return ()  # it never leaves the pod
        start, end = c.source_node or _node_of(source), c.destination_node or _node_of(target)
        legs = []
        for node in dict.fromkeys(n for n in (start, end) if n):
            sides = [(d, p.key) for d, p in ((Direction.EGRESS, source), (Direction.INGRESS, target)) if p and p.node == node]
            filtered = node not in (c.source_node, c.destination_node)
            legs.append(_Leg(node, tuple(sides) if filtered else (), filtered))
        return tuple(legs)


def _node_of(pod: Pod | None) -> str:
    """The node that forwards for `pod`; empty where it is no pod of a node."""
    if pod is None:
        return ""
    if not pod.node:
        raise usage(f"pod {pod.key} is on no node yet: no rules see its packets")
    return pod.node


def _unfiltered(leg: _Leg, packet: Packet) -> Stop:
    why = "the node's own traffic: it is not forwarded there, and only what is forwarded is filtered"
    return Stop(leg.node, packet, True, why, filtered=False)


def _match(step: Step, text: NodeText, packet: Packet) -> Match:
    return Match(step, text.line(packet.family, step.line) or f"policy {step.effect}", comment_of(step.text))


def _why(path: tuple[Match, ...], packet: Packet, accepted: bool) -> str:
    """What decided, in the words that the rules themselves carry."""
    if not accepted:
        return path[-1].words or path[-1].text
    if packet.state != "NEW":
        return "it belongs to a connection that passed before"
    allowing = [m.words or m.text for m in path if m.step.effect == f"goto {ALLOW_CHAIN}"]
    return "allowed by " + " and ".join(dict.fromkeys(allowing)) if allowing else "no pod of this node is isolated for it"
