"""One NetworkPolicy to its compiled form, without looking at any pod: selectors become set specs.

In: `Policy`. Out: `CompiledPolicy` and the specs of the sets that it names. Filling the sets is `index`'s work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import IPBlock, NamedPort, Peer, PodPeer, Policy, Port, PortRange, Rule
from netpol_compiler.model.selectors import EVERYTHING
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import CompiledPolicy, CompiledRule, Peers, SetSpec
from netpol_compiler.policy.names import address_set_name


@dataclass(frozen=True, slots=True)
class Translation:
    """A compiled policy, and the spec of each set it names, by name."""

    policy: CompiledPolicy
    specs: dict[str, SetSpec]


def translate(policy: Policy) -> Translation:
    """Compile one policy. Equal policies give equal values and equal digests."""
    specs: dict[str, SetSpec] = {}
    rules = tuple(_rule(policy.key.namespace, rule, specs) for rule in sorted(policy.rules, key=_rule_order))
    compiled = CompiledPolicy(policy.key, policy.uid, policy.pod_selector, policy.directions, rules, policy.rejected)
    return Translation(dataclasses.replace(compiled, digest=wire.policy_digest(compiled)), specs)


def _rule_order(rule: Rule) -> tuple[str, int]:
    return rule.direction.value, rule.index


def _rule(namespace: str, rule: Rule, specs: dict[str, SetSpec]) -> CompiledRule:
    named = _named(rule.ports)
    egress = rule.direction is Direction.EGRESS
    pod_specs = [_spec(namespace, p) for p in rule.peers or () if isinstance(p, PodPeer)]
    peer_sets = _use(pod_specs, specs) if _needs_peers(rule, named) else ()
    return CompiledRule(
        direction=rule.direction,
        index=rule.index,
        peers=None if rule.peers is None else Peers(peer_sets, _blocks(rule.peers)),
        ports=None if rule.ports is None else tuple(sorted({p for p in rule.ports if isinstance(p, PortRange)})),
        named_ports=() if egress else named,
        endpoints=_use(_endpoint_specs(rule.peers, pod_specs, named), specs) if egress else (),
    )


def _needs_peers(rule: Rule, named: tuple[NamedPort, ...]) -> bool:
    """Whether the peers' addresses matter at all.

    An egress rule with nothing but named ports is decided by its endpoint sets alone.
    """
    return rule.direction is Direction.INGRESS or rule.ports is None or len(named) < len(rule.ports)


def _named(ports: Iterable[Port] | None) -> tuple[NamedPort, ...]:
    return tuple(sorted({p for p in ports or () if isinstance(p, NamedPort)}))


def _blocks(peers: Iterable[Peer]) -> tuple[IPBlock, ...]:
    return tuple(sorted({IPBlock(p.cidr, tuple(sorted(set(p.exceptions)))) for p in peers if isinstance(p, IPBlock)}))


def _spec(namespace: str, peer: PodPeer) -> SetSpec:
    if peer.namespace_selector is None:
        return SetSpec(namespace, None, peer.pod_selector)
    return SetSpec(None, peer.namespace_selector, peer.pod_selector)


def _endpoint_specs(peers: tuple[Peer, ...] | None, pod_specs: list[SetSpec], named: tuple[NamedPort, ...]) -> list[SetSpec]:
    """For an egress rule: each pod peer with each named port. A named port says nothing about an ipBlock
    (SEMANTICS 7); towards every destination it means every pod that has the name."""
    bases = [SetSpec(None, EVERYTHING, EVERYTHING)] if peers is None else pod_specs
    return [dataclasses.replace(base, named_port=port) for base in bases for port in named]


def _use(wanted: Iterable[SetSpec], specs: dict[str, SetSpec]) -> tuple[str, ...]:
    names = {address_set_name(spec): spec for spec in wanted}
    specs.update(names)
    return tuple(sorted(names))
