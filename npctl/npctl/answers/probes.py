"""One connection or several between two places: from places and a port to `Connection`s and their verdicts.

A Service becomes its endpoints, because rules apply after DNAT (SEMANTICS 11); a place with two address families is
tried in each. The verdicts are the compiler's; this module only asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Protocol
from netpol_compiler.model.objects import Connection
from netpol_compiler.policy.verdict import Reason, SideVerdict, Verdict
from npctl.answers.describe import port_words, rule_words
from npctl.endpoints.endpoints import Place, PortChoice
from npctl.errors import usage
from npctl.inputs.state import State


@dataclass(frozen=True, slots=True)
class Try:
    """One connection and its verdict. `via` says how a Service led to this destination; empty without one."""

    source: Place
    target: Place
    connection: Connection
    verdict: Verdict
    via: str = ""

    @property
    def port(self) -> str:
        return port_words(self.connection.protocol, self.connection.port)

    @property
    def data(self) -> dict[str, Any]:
        c = self.connection
        return {
            "from": {"place": self.source.label, "address": c.source.text},
            "to": {"place": self.target.label, "address": c.destination.text},
            "protocol": "ICMP" if c.protocol is None else c.protocol.value,
            "port": c.port,
            "via": self.via or None,
            "allowed": self.verdict.allowed,
            "decided": side_data(self.verdict.deciding),
            "egress": side_data(self.verdict.egress),
            "ingress": side_data(self.verdict.ingress),
        }


def side_data(side: SideVerdict) -> dict[str, Any]:
    """One side of a verdict as stable data. `chain` is the pod's chain where the kernel decides, if it has one."""
    rule = None if side.rule_index is None else rule_words(side.direction, side.rule_index)
    return {
        "direction": side.direction.value,
        "pod": str(side.pod) if side.pod else None,
        "allowed": side.allowed,
        "reason": side.reason.value,
        "policy": str(side.policy) if side.policy else None,
        "rule": rule,
        "isolating": [str(k) for k in side.isolating],
        "chain": side_chain(side),
        "words": side.words,
    }


def side_chain(side: SideVerdict) -> str | None:
    """The chain in which the kernel decides this side; None where no rule of ours is met."""
    if side.pod is None or side.reason not in (Reason.RULE, Reason.DEFAULT_DENY):
        return None
    from netpol_compiler.node.pod_chains import pod_chain_name

    return pod_chain_name(side.pod, side.direction)


def try_places(state: State, source: Place, target: Place, choice: PortChoice | None) -> list[Try]:
    """Every connection that "from `source` to `target` on `choice`" means. `choice` None: each port that is listened to."""
    found: list[Try] = []
    for place, protocol, port, via in _goals(state, target, choice):
        pairs = [(a, b) for a in source.addresses for b in place.addresses if a.version == b.version]
        seen: set[int] = set()
        for a, b in pairs:
            if a.version not in seen:  # one address of a family speaks for the others
                seen.add(a.version)
                found.append(_try(state, source, place, a, b, protocol, port, via))
    if not found:
        raise usage(
            f"nothing to try from {source.label} to {target.label}: {_why_nothing(source, target)}",
            "name places that have an address, and a port with --port 8080/tcp",
        )
    return found


def _why_nothing(source: Place, target: Place) -> str:
    for place in (source, target):
        if not place.addresses and place.service is None:
            return f"{place.label} has no address"
    return "they share no address family, or the Service has no endpoints"


def _try(
    state: State, source: Place, target: Place, a: Address, b: Address, protocol: Protocol | None, port: int | None, via: str
) -> Try:
    connection = Connection(a, b, protocol, port, source.node, target.node)
    return Try(source, target, connection, state.judge.judge(connection), via)


_Goal = tuple[Place, Protocol | None, int | None, str]


def _goals(state: State, target: Place, choice: PortChoice | None) -> Iterator[_Goal]:
    if target.service is not None:
        yield from _service_goals(state, target, choice)
    elif choice is None:
        yield from _listened(target)
    elif choice.name:
        numbers = target.pod.named_port(choice.name, choice.protocol) if target.pod and choice.protocol else ()
        if not numbers:
            raise usage(f"--port {choice.name}: {target.label} has no port of this name", "write a number")
        for number in numbers:
            yield target, choice.protocol, number, ""
    else:
        yield target, choice.protocol, choice.number, ""


def _listened(target: Place) -> Iterator[_Goal]:
    ports = sorted({(p.protocol.value, p.port) for p in target.pod.ports}) if target.pod else []
    if not ports:
        raise usage(f"which port of {target.label}?", "add --port 8080/tcp (or 53/udp, or icmp)")
    for protocol, number in ports:
        yield target, Protocol(protocol), number, ""


def _service_goals(state: State, target: Place, choice: PortChoice | None) -> Iterator[_Goal]:
    assert target.service is not None
    ports = state.service_ports(target.service)
    chosen = [p for p in ports if choice is None or _fits(choice, p.protocol, p.port, p.name)]
    if not chosen:
        have = ", ".join(port_words(p.protocol, p.port) for p in ports) or "no port"
        raise usage(f"{target.label} has no such port", f"it has {have}")
    for port in chosen:
        via = f"{target.label} port {port_words(port.protocol, port.port)}"
        for pod, number in port.endpoints:
            yield Place(str(pod.key), pod.addresses, pod, pod.node if pod.host_network else ""), port.protocol, number, via


def _fits(choice: PortChoice, protocol: Protocol, number: int, name: str) -> bool:
    return choice.protocol is protocol and (choice.name == name if choice.name else choice.number == number)
