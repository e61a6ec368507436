"""IR rules and verdicts in words: the one place where they become text and stable data.

In: compiled rules, address sets, pods. Out: `Grant`s (what one rule gives) that both the tables and -o json show.
Nothing is decided here: what a rule means is read from the IR as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import IPBlock, Key, NamedPort, Pod, PortRange
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy, CompiledRule, SetSpec


@dataclass(frozen=True, slots=True)
class PeerWords:
    """One peer: `kind` is any, pods, ipBlock or nobody. `pods` are those that match now (None: not a matter of pods)."""

    kind: str
    words: str
    pods: tuple[Key, ...] | None = None
    block: IPBlock | None = None

    @property
    def line(self) -> str:
        """With the number of pods: `pods app=x of namespace y (2 pods now)`."""
        if self.pods is None:
            return self.words
        count = len(self.pods)
        return f"{self.words} ({'no pod' if not count else '1 pod' if count == 1 else f'{count} pods'} now)"

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = {"kind": self.kind, "words": self.words}
        if self.pods is not None:
            data["pods"] = [str(k) for k in self.pods]
        if self.block is not None:
            data["cidr"] = self.block.cidr.text
            data["except"] = [e.text for e in self.block.exceptions]
        return data


@dataclass(frozen=True, slots=True)
class PortWords:
    """One port. `numbers`: what a name means (on the selected pod, or on the peers that have it now)."""

    words: str
    protocol: Protocol
    first: int | None = None
    last: int | None = None
    name: str = ""
    numbers: tuple[int, ...] = ()

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = {"protocol": self.protocol.value, "words": self.words}
        if self.name:
            return {**data, "name": self.name, "numbers": list(self.numbers)}
        return {**data, "port": self.first, "endPort": self.last}


@dataclass(frozen=True, slots=True)
class Grant:
    """What one rule gives to some peers on some ports; `ports` None: all ports and protocols."""

    policy: Key
    direction: Direction
    index: int
    peers: tuple[PeerWords, ...]
    ports: tuple[PortWords, ...] | None

    @property
    def rule(self) -> str:
        return rule_words(self.direction, self.index)

    @property
    def ports_line(self) -> str:
        if self.ports is None:
            return "all ports"
        return ", ".join(p.words for p in self.ports) if self.ports else "no port"

    @property
    def data(self) -> dict[str, Any]:
        return {
            "policy": str(self.policy),
            "rule": self.rule,
            "index": self.index,
            "peers": [p.data for p in self.peers],
            "ports": None if self.ports is None else [p.data for p in self.ports],
        }


NOBODY = PeerWords("nobody", "nobody (no peer of this rule was understood)")


def rule_words(direction: Direction, index: int) -> str:
    """The rule's place in its policy: `spec.ingress[0]`."""
    return f"spec.{direction.value}[{index}]"


def grants(
    policy: CompiledPolicy, direction: Direction, pod: Pod | None, sets: Mapping[str, AddressSet], holders: Mapping[Address, Pod]
) -> list[Grant]:
    """What every rule of `policy` in `direction` gives. `pod`: the selected one, whose ports give ingress names numbers."""
    found: list[Grant] = []
    for rule in policy.rules_of(direction):
        found += _rule_grants(policy.key, rule, pod, sets, holders)
    return found


def _rule_grants(
    policy: Key, rule: CompiledRule, pod: Pod | None, sets: Mapping[str, AddressSet], holders: Mapping[Address, Pod]
) -> list[Grant]:
    found: list[Grant] = []
    ports: tuple[PortWords, ...] | None = None
    if rule.ports is not None:
        ports = (*map(_range_words, rule.ports), *(_name_words(n, pod) for n in rule.named_ports))
    if ports is None or ports or not rule.endpoints:
        found.append(Grant(policy, rule.direction, rule.index, _peers(rule, sets, holders), ports))
    for name in rule.endpoints:
        address_set = sets[name]
        peer = pods_words(address_set, holders)
        found.append(Grant(policy, rule.direction, rule.index, (peer,), (_endpoint_words(address_set),)))
    return found


def _peers(rule: CompiledRule, sets: Mapping[str, AddressSet], holders: Mapping[Address, Pod]) -> tuple[PeerWords, ...]:
    if rule.peers is None:
        return (PeerWords("any", "everybody"),)
    peers = [pods_words(sets[n], holders) for n in rule.peers.sets] + [block_words(b) for b in rule.peers.blocks]
    return tuple(sorted(peers, key=lambda p: (p.kind, p.words))) or (NOBODY,)


def pods_words(address_set: AddressSet, holders: Mapping[Address, Pod]) -> PeerWords:
    """A peer by selectors, with the pods that it means now."""
    addresses = {m if isinstance(m, Address) else m.address for m in address_set.members}
    pods = tuple(sorted({holders[a].key for a in addresses if a in holders}))
    return PeerWords("pods", spec_words(address_set.spec), pods)


def spec_words(spec: SetSpec) -> str:
    """`pods app=x of namespace y`; the port of an endpoint set is said elsewhere."""
    return SetSpec(spec.namespace, spec.namespace_selector, spec.pod_selector).words


def block_words(block: IPBlock) -> PeerWords:
    """A peer by addresses: `10.0.0.0/8 except 10.1.0.0/16`."""
    words = block.cidr.text
    if block.exceptions:
        words += " except " + ", ".join(e.text for e in block.exceptions)
    return PeerWords("ipBlock", words, block=block)


def _range_words(port: PortRange) -> PortWords:
    name = port.protocol.value
    if port.is_whole_protocol:
        words = f"all {name}"
    else:
        words = f"{name} {port.first}" + ("" if port.first == port.last else f"-{port.last}")
    return PortWords(words, port.protocol, port.first, port.last)


def _name_words(port: NamedPort, pod: Pod | None) -> PortWords:
    numbers = pod.named_port(port.name, port.protocol) if pod else ()
    meaning = "/".join(map(str, numbers)) if numbers else "this pod has no such port" if pod else "by each pod"
    return PortWords(f"{port.protocol.value} {port.name} ({meaning})", port.protocol, name=port.name, numbers=numbers)


def _endpoint_words(address_set: AddressSet) -> PortWords:
    port = address_set.spec.named_port
    if port is None:
        raise ValueError(f"{address_set.name} is not a set of endpoints")
    numbers = tuple(sorted({m.port for m in address_set.members if not isinstance(m, Address)}))
    meaning = "/".join(map(str, numbers)) if numbers else "no pod has such a port"
    return PortWords(f"{port.protocol.value} {port.name} ({meaning})", port.protocol, name=port.name, numbers=numbers)


def port_words(protocol: Protocol | None, port: int | None) -> str:
    """A connection's port: `8080/tcp`, or `icmp`."""
    return "icmp" if protocol is None else f"{port}/{protocol.value.lower()}"


def key_list(keys: Iterable[Key]) -> str:
    return ", ".join(map(str, keys))
