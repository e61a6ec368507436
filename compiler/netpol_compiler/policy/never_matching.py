"""What in a policy can never match, whatever pods there will be, as opposed to what matches nothing today. Pure.

In: a parsed policy. Out: (path, reason) for each part. The rules are those of the API text: requirements of a selector are
ANDed; an ipBlock's exceptions are cut from its cidr; a named port is a port of a pod, never of an address block.
"""

from __future__ import annotations

from collections.abc import Iterator

from netpol_compiler.model.addresses import subtract
from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import IPBlock, NamedPort, Policy, Rule
from netpol_compiler.model.selectors import Operator, Selector

Path = tuple[str | int, ...]
_PEERS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


def never_matches(policy: Policy) -> list[tuple[Path, str]]:
    """Every part of `policy` that can never match, with its path in the object and the reason."""
    found: list[tuple[Path, str]] = []
    if reason := contradiction(policy.pod_selector):
        found.append((("spec", "podSelector"), f"selects no pod, ever: {reason}"))
    for rule in policy.rules:
        found += _of_rule(rule)
    return found


def _of_rule(rule: Rule) -> Iterator[tuple[Path, str]]:
    path: Path = ("spec", rule.direction.value, rule.index)
    for peer in rule.peers or ():
        if isinstance(peer, IPBlock):
            if not subtract(peer.cidr, peer.exceptions):
                yield (*path, _PEERS[rule.direction]), f"{peer.cidr.text} is excepted whole"
            continue
        for name, selector in (("namespaceSelector", peer.namespace_selector), ("podSelector", peer.pod_selector)):
            if selector is not None and (reason := contradiction(selector)):
                yield (*path, _PEERS[rule.direction], name), f"matches nothing, ever: {reason}"
    blocks_only = bool(rule.peers) and all(isinstance(p, IPBlock) for p in rule.peers or ())
    names_only = bool(rule.ports) and all(isinstance(p, NamedPort) for p in rule.ports or ())
    if rule.direction is Direction.EGRESS and blocks_only and names_only:
        yield (*path, "ports"), "a named port is a port of a pod, and towards an ipBlock it matches nothing: use the number"


def contradiction(selector: Selector) -> str:
    """Why no labels can match a selector; empty when some can."""
    for one in selector.requirements:
        for other in selector.requirements:
            if one.key == other.key and _excludes(one.operator, one.values, other.operator, other.values):
                return f"its requirements on {one.key!r} exclude each other"
    return ""


def _excludes(one: Operator, values: tuple[str, ...], other: Operator, others: tuple[str, ...]) -> bool:
    if one is Operator.IN and other is Operator.IN:
        return not set(values) & set(others)
    if one is Operator.IN and other is Operator.NOT_IN:
        return set(values) <= set(others)
    return one in (Operator.IN, Operator.EXISTS) and other is Operator.DOES_NOT_EXIST
