"""Checks of how the rules of policies stand to each other: repeats, rules without effect, rules that are shadowed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from netpol_compiler.model.kinds import DIRECTIONS, Direction
from netpol_compiler.model.objects import IPBlock, NamedPort, Policy, Rule
from npctl.lint.cluster_checks import PEERS_FIELD, rule_path
from npctl.lint.model import Hit, Severity, Subject, check


def _same(value: Any) -> str:
    """Equal for equal content, whatever the order of keys; lists keep theirs, which is enough for what people copy."""
    return json.dumps(value, sort_keys=True, default=str)


def _repeats(items: Any) -> Iterator[tuple[int, int]]:
    """(index, index of the earlier equal one) of each repeat in a list as written."""
    seen: dict[str, int] = {}
    for index, item in enumerate(items if isinstance(items, list) else ()):
        first = seen.setdefault(_same(item), index)
        if first != index:
            yield index, first


@check("NP009", Severity.WARNING, "a rule, peer or port written twice")
def duplicates(subject: Subject) -> Iterator[Hit]:
    for direction in DIRECTIONS:
        rules = dict(subject.rules(direction))
        for index, first in _repeats(list(rules.values())):
            yield ("spec", direction.value, index), f"is the same rule as spec.{direction.value}[{first}]", "remove one of them"
        for number, rule in rules.items():
            for field in (PEERS_FIELD[direction], "ports"):
                for index, first in _repeats(rule.get(field)):
                    path = ("spec", direction.value, number, field, index)
                    yield path, f"is the same as {field}[{first}]", "remove one of them"


def _allows_all(rule: Rule) -> bool:
    return rule.peers is None and rule.ports is None


@check("NP010", Severity.WARNING, "rules without effect beside a rule that allows everything")
def shadowed(subject: Subject) -> Iterator[Hit]:
    for direction in DIRECTIONS:
        rules = subject.policy.rules_of(direction)
        widest = next((r for r in rules if _allows_all(r)), None)
        for rule in rules if widest else ():
            if widest is not None and not _allows_all(rule):
                message = f"has no effect: spec.{direction.value}[{widest.index}] allows everything"
                yield rule_path(rule), message, "remove this rule, or narrow the other one"
        if widest is None and direction in subject.policy.directions:
            other = _shadowing(subject, direction)
            if other is not None:
                message = f"{direction.value} has no effect: {other.key} allows everything to the same pods"
                yield ("spec",), message, f"narrow {other.key}, or remove one of the two"


def _shadowing(subject: Subject, direction: Direction) -> Policy | None:
    """A policy that allows everything in `direction` to every pod that this one selects."""
    pods = subject.selected()
    for key, other in sorted(subject.state.cluster.policies.items()):
        beside = key != subject.key and key.namespace == subject.key.namespace
        if not beside or not any(_allows_all(r) for r in other.rules_of(direction)):
            continue
        if pods and all(other.pod_selector.matches(p.labels) for p in pods):
            return other
    return None


@check("NP011", Severity.WARNING, "an egress port by name towards an ipBlock, which matches nothing")
def named_port_of_block(subject: Subject) -> Iterator[Hit]:
    for rule in subject.policy.rules_of(Direction.EGRESS):
        names = [p.name for p in rule.ports or () if isinstance(p, NamedPort)]
        if names and any(isinstance(p, IPBlock) for p in rule.peers or ()):
            message = f"port {', '.join(names)} is a name, and addresses have none: towards the ipBlock it matches nothing"
            yield rule_path(rule, "ports"), message, "write the number"


@check("NP012", Severity.INFO, "a direction isolated without any rule: everything refused")
def denies_all(subject: Subject) -> Iterator[Hit]:
    for direction in DIRECTIONS:
        if direction in subject.policy.directions and not subject.policy.rules_of(direction):
            also = ", name lookups too" if direction is Direction.EGRESS else ""
            message = f"refuses all {direction.value} of what it selects{also} (unless another policy allows it)"
            yield ("spec", "policyTypes"), message, f"nothing, if that is meant; `{direction.value}: [{{}}]` allows everything"


@check("NP015", Severity.WARNING, "rules of a direction that policyTypes leaves out")
def rules_without_type(subject: Subject) -> Iterator[Hit]:
    for direction in DIRECTIONS:
        if direction not in subject.policy.directions and any(True for _ in subject.rules(direction)):
            message = f"these rules have no effect: policyTypes does not name {direction.api_name}"
            yield ("spec", direction.value), message, f"add {direction.api_name} to policyTypes, or remove the rules"
