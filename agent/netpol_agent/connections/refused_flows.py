"""Whether this node's part of the policies refuses one flow: for conntrack entries that are there already.

In: the node's pods, policies and sets as they are in force (`NodeCompiler`). Out: a bool. It is the IR that is
evaluated, with the same function that gives `npctl` its verdicts.
"""

from __future__ import annotations

from netpol_agent.connections.conntrack import Flow
from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import Pod
from netpol_compiler.node import NodeCompiler
from netpol_compiler.policy.ir import CompiledPolicy
from netpol_compiler.policy.verdict import holders, rule_allows

_PROTOCOLS = {p.number: p for p in Protocol}


class NodeJudge:
    """One moment's state; make a new one for every pass."""

    def __init__(self, compiler: NodeCompiler) -> None:
        self._sets = compiler.address_sets
        """In force, by name."""
        self._holders = holders(compiler.pods.values())
        """The local pod of each address."""
        self._by_namespace: dict[str, list[CompiledPolicy]] = {}
        """The policies in force."""
        for policy in compiler.policies.values():
            self._by_namespace.setdefault(policy.key.namespace, []).append(policy)
        self._isolating: dict[tuple[Pod, Direction], tuple[CompiledPolicy, ...]] = {}
        """The policies that isolate a pod, as far as they were asked for."""

    @property
    def isolated(self) -> frozenset[Address]:
        """The addresses of local pods that some policy isolates."""
        return frozenset(a for a, pod in self._holders.items() if any(self._policies(pod, d) for d in Direction))

    def refused(self, flow: Flow) -> bool:
        """Whether a new connection like `flow` would be refused on this node."""
        source, target = self._holders.get(flow.source), self._holders.get(flow.destination)
        if source is not None and source == target:
            return False  # a pod always reaches itself
        return not self._allowed(Direction.EGRESS, source, flow.destination, flow) or not self._allowed(
            Direction.INGRESS, target, flow.source, flow
        )

    def _allowed(self, direction: Direction, pod: Pod | None, peer: Address, flow: Flow) -> bool:
        policies = self._policies(pod, direction) if pod is not None else ()
        if pod is None or not policies:
            return True
        destination = pod if direction is Direction.INGRESS else None
        protocol = _PROTOCOLS.get(flow.protocol)
        port = flow.port if protocol is not None else None
        return any(
            rule_allows(self._sets, rule, destination, peer, protocol, port)
            for policy in policies
            for rule in policy.rules_of(direction)
        )

    def _policies(self, pod: Pod, direction: Direction) -> tuple[CompiledPolicy, ...]:
        key = (pod, direction)
        if key not in self._isolating:
            self._isolating[key] = tuple(
                p
                for p in self._by_namespace.get(pod.key.namespace, ())
                if direction in p.directions and p.pod_selector.matches(pod.labels)
            )
        return self._isolating[key]
