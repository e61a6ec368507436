"""Pods and outside addresses that no policy of two states tells apart, in groups: one member speaks for all in every verdict.

In: two states with the same pods. Out: `Likeness`: groups of pods and of outside parts. Two pods are alike when, in both states,
the same policies isolate them, the same rules admit them as a peer, and the ports that rules name mean the same numbers on them.
Nothing is judged here: what a group's member may do is asked of the compiler's `Judge`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from netpol_compiler.model.addresses import Address, Network, network_of
from netpol_compiler.model.kinds import DIRECTIONS, Direction, Family
from netpol_compiler.model.objects import Connection, IPBlock, Key, Pod, PortRange
from netpol_compiler.policy.ir import CompiledPolicy, CompiledRule, Peers
from npctl.endpoints import external_blocks
from npctl.endpoints.external_blocks import Part
from npctl.endpoints.port_spans import Try
from npctl.inputs.state import State

RuleId = tuple[int, str, Direction, int]
"""The state (0 now, 1 then), the policy, and the rule's place in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Pods that are alike, or outside parts that are alike; one of the two is empty. `addresses`: the first member's."""

    pods: tuple[Pod, ...] = ()
    parts: tuple[Part, ...] = ()
    addresses: tuple[Address, ...] = ()


class Likeness:
    """See the module's docstring."""

    def __init__(self, now: State, then: State) -> None:
        self.states = (now, then)
        self._blocks: dict[Network, list[tuple[RuleId, IPBlock]]] = defaultdict(list)
        self._members: dict[Address, set[Hashable]] = defaultdict(set)
        for number, state in enumerate(self.states):
            for policy in state.ir.policies.values():
                for rule in policy.rules:
                    self._learn((number, str(policy.key), rule.direction, rule.index), rule, state)
        self._lengths = {v: sorted({n.prefix for n in self._blocks if n.version == v}) for v in (4, 6)}
        self._names = {
            (n.name, n.protocol) for s in self.states for p in s.ir.policies.values() for r in p.rules for n in r.named_ports
        }

    def _learn(self, name: RuleId, rule: CompiledRule, state: State) -> None:
        peers = rule.peers or Peers()  # a rule that admits everybody tells nobody from the others
        for block in peers.blocks:
            self._blocks[block.cidr].append((name, block))
        for set_name in peers.sets:
            for member in state.ir.sets[set_name].members:
                self._members[member].add(name)  # type: ignore[index]  # an ADDRESS set
        for set_name in rule.endpoints:
            for member in state.ir.sets[set_name].members:
                address, protocol, port = member  # type: ignore[misc]  # an ENDPOINT set
                self._members[address].add((name, protocol, port))

    def admitting(self, address: Address) -> frozenset[Hashable]:
        """The rules that admit `address` as a peer (those that admit everybody are left out)."""
        found: set[Hashable] = set(self._members.get(address, ()))
        for length in self._lengths[address.version]:
            network = network_of(address, length)
            found |= {name for name, block in self._blocks.get(network, ()) if block.contains(address)}
        return frozenset(found)

    def isolating(self, pod: Pod, direction: Direction) -> tuple[tuple[CompiledPolicy, ...], tuple[CompiledPolicy, ...]]:
        """The policies that isolate the pod now, and then."""
        return tuple(s.judge.policies_for(s.cluster.pods[pod.key], direction) for s in self.states)  # type: ignore[return-value]

    @cached_property
    def groups(self) -> list[Group]:
        """Every pod that holds an address, grouped; by the first pod's name."""
        found: dict[Hashable, list[Pod]] = defaultdict(list)
        for pod in sorted(self._pods(), key=lambda p: p.key):
            found[self._signature(pod)].append(pod)
        return [Group(tuple(pods), (), pods[0].addresses) for pods in found.values()]

    def _pods(self) -> Iterator[Pod]:
        """With the addresses that they really hold: of two live pods that claim one, the later has it."""
        held: dict[Key, list[Address]] = defaultdict(list)
        for address, pod in self.states[0].holders.items():
            held[pod.key].append(address)
        for key, addresses in held.items():
            yield replace(self.states[0].cluster.pods[key], addresses=tuple(sorted(addresses)))

    def _signature(self, pod: Pod) -> Hashable:
        policies = tuple(tuple(tuple(p.key for p in side) for side in self.isolating(pod, d)) for d in DIRECTIONS)
        admitted = tuple((a.version, self.admitting(a)) for a in pod.addresses)
        ports = frozenset((p.name, p.protocol, p.port) for p in pod.ports if (p.name, p.protocol) in self._names)
        return policies, admitted, ports

    @cached_property
    def outside(self) -> list[Group]:
        """The addresses outside, grouped by the rules that admit them."""
        now = self.states[0]
        networks = set(self._blocks) | {e for uses in self._blocks.values() for _, b in uses for e in b.exceptions}
        homes = [c for n in now.cluster.nodes.values() for c in n.pod_cidrs]
        families = {Family(a.version) for a in now.holders}
        found: dict[Hashable, list[Part]] = defaultdict(list)
        for part in external_blocks.parts(networks, homes, now.holders, families):
            found[part.address.version, self.admitting(part.address)].append(part)
        return [Group((), tuple(parts), (parts[0].address,)) for parts in found.values()]

    def has_blocks(self, policies: Iterable[CompiledPolicy]) -> bool:
        """Whether the address family can matter to these policies."""
        return any(r.peers and r.peers.blocks for p in policies for r in p.rules)


def content(state: State, policies: Iterable[CompiledPolicy], direction: Direction) -> Any:
    """What these policies allow in one direction, whoever wrote it: equal content gives equal verdicts."""
    rules = [r for p in policies for r in p.rules_of(direction)]
    names = sorted({name for rule in rules for name in rule.set_names})
    return bool(tuple(policies)), rules, [state.ir.sets[n].members for n in names]


def named_ports(state: State, policies: Iterable[CompiledPolicy], direction: Direction, target: Group) -> Iterator[PortRange]:
    """Every port that the rules of one side name, as numbers; names mean what they mean on the target."""
    pod = target.pods[0] if target.pods else None
    for rule in (r for p in policies for r in p.rules_of(direction)):
        yield from rule.ports or ()
        for name in rule.named_ports if pod else ():
            yield from (PortRange(name.protocol, n, n) for n in pod.named_port(name.name, name.protocol))  # type: ignore[union-attr]
        for set_name in rule.endpoints:
            for member in state.ir.sets[set_name].members:
                if not isinstance(member, Address) and member.address in target.addresses:
                    yield PortRange(member.protocol, member.port, member.port)


def connection(source: Address, target: Address, port: Try) -> Connection:
    return Connection(source, target, port.protocol, port.port)
