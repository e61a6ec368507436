"""The many ways to write one policy, and the ways to write nonsense into it.

In: a `Policy`. Out: manifests that all mean it: what is missing, null and empty at every level, labels and expressions, defaults
written out or left out, host bits, directions that policyTypes leaves out. `damaged` puts something that nobody can understand
somewhere into a manifest's spec.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from draws import below, booleans, pick
from netpol_compiler.model.addresses import Address, Network
from netpol_compiler.model.kinds import DIRECTIONS, Direction, Protocol
from netpol_compiler.model.objects import IPBlock, NamedPort, Peer, Policy, Port, Rule
from netpol_compiler.model.selectors import Operator, Requirement, Selector

Json = dict[str, Any]
PEERS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
NONSENSE: tuple[Any, ...] = (True, 3.5, "Nonsense!", [["nonsense"]], {"newField": 1})
"""Not understood wherever it stands in a spec, instead of a mapping, a list, a text or a number."""


def writable(policy: Policy) -> bool:
    """Whether a manifest can mean this: a list that is there and allows nothing can only come of what was rejected."""
    return all(r.peers != () and r.ports != () for r in policy.rules)


def _optional(draw: st.DrawFn, name: str, value: Any) -> Json:
    """A field, which may be written as null, or not at all, where its value is empty."""
    if value:
        return {name: value}
    return pick(draw, [{}, {name: None}, {name: value}])


@st.composite
def manifests(draw: st.DrawFn, policy: Policy) -> Json:
    """A manifest that means `policy`. Of what is written twice in a list, once counts."""
    spec: Json = _optional(draw, "podSelector", draw(_selector(policy.pod_selector)))
    for direction in DIRECTIONS:
        rules = [draw(_rule(r)) for r in policy.rules_of(direction)]
        if direction not in policy.directions:
            rules = pick(draw, [[], [{}]])  # without effect
        spec |= _optional(draw, direction.value, rules)
    types = [d.api_name for d in DIRECTIONS if d in policy.directions]
    default = {Direction.INGRESS, *([Direction.EGRESS] if spec.get("egress") else [])}
    if policy.directions == default:
        spec |= pick(draw, [{}, {"policyTypes": None}, {"policyTypes": []}, {"policyTypes": types}])
    else:
        spec["policyTypes"] = draw(st.permutations(types))
    metadata = {"namespace": policy.key.namespace, "name": policy.key.name, "uid": policy.uid}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


@st.composite
def _rule(draw: st.DrawFn, rule: Rule) -> Json:
    peers = [draw(_peer(p)) for p in rule.peers or ()]
    ports = [draw(_port(p)) for p in rule.ports or ()]
    return _optional(draw, PEERS[rule.direction], peers) | _optional(draw, "ports", ports)


@st.composite
def _peer(draw: st.DrawFn, peer: Peer) -> Json:
    if isinstance(peer, IPBlock):
        exceptions = draw(st.permutations([draw(_cidr(e)) for e in peer.exceptions]))
        block = {"cidr": draw(_cidr(peer.cidr))} | _optional(draw, "except", exceptions)
        return {"ipBlock": block} | pick(draw, [{}, {"podSelector": None}, {"namespaceSelector": None}])
    pods: Json = {"podSelector": draw(_selector(peer.pod_selector))}
    if peer.namespace_selector is None:
        return pods | pick(draw, [{}, {"namespaceSelector": None}, {"ipBlock": None}])
    if not peer.pod_selector.requirements:
        pods = pick(draw, [pods, {}, {"podSelector": None}])
    return {"namespaceSelector": draw(_selector(peer.namespace_selector))} | pods


@st.composite
def _cidr(draw: st.DrawFn, network: Network) -> str:
    """With or without host bits."""
    value = pick(draw, [network.value, network.last])
    return f"{Address(network.version, value)}/{network.prefix}"


@st.composite
def _port(draw: st.DrawFn, port: Port) -> Json:
    written: Json = {"protocol": port.protocol.value}
    if port.protocol is Protocol.TCP:
        written = pick(draw, [written, {}, {"protocol": None}])
    if isinstance(port, NamedPort):
        return {**written, "port": port.name}
    if port.is_whole_protocol:
        return written | pick(draw, [{}, {"port": None}, {"port": None, "endPort": None}])
    ends = [{"endPort": port.last}] if port.first != port.last else [{"endPort": port.last}, {}, {"endPort": None}]
    return {**written, "port": port.first} | pick(draw, ends)


@st.composite
def _selector(draw: st.DrawFn, selector: Selector) -> Json:
    labels: dict[str, str] = {}
    expressions: list[Json] = []
    for requirement in draw(st.permutations(selector.requirements)):
        plain = requirement.operator is Operator.IN and len(requirement.values) == 1 and requirement.key not in labels
        if plain and draw(booleans):
            labels[requirement.key] = requirement.values[0]
        else:
            expressions.append(draw(_expression(requirement)))
    return _optional(draw, "matchLabels", labels) | _optional(draw, "matchExpressions", expressions)


@st.composite
def _expression(draw: st.DrawFn, requirement: Requirement) -> Json:
    # Written twice is written once.
    values = draw(st.permutations(requirement.values)) + list(requirement.values[: draw(below(2))])
    return {"key": requirement.key, "operator": requirement.operator.value} | _optional(draw, "values", values)


# -- nonsense ------------------------------------------------------------------------------------------

Place = tuple[str | int, ...]


def places(value: Any, path: Place = ()) -> Iterable[Place]:
    """Every place in a value, the value itself first."""
    yield path
    children: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield from places(child, (*path, key))


def at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


@st.composite
def damaged(draw: st.DrawFn, manifest: Json) -> Json:
    """`manifest` with nonsense in place of some part of its spec, or added to it. What policyTypes says is left alone, and a
    place where null stands is too: nonsense there is a field that was not written before, which may well add an allowance."""
    broken = copy.deepcopy(manifest)
    spec = broken["spec"]
    found = [p for p in places(spec) if p[:1] != ("policyTypes",) and at(spec, p) is not None]
    place = pick(draw, found)
    part = at(spec, place)
    if isinstance(part, list) and draw(booleans):
        part.insert(draw(below(len(part) + 1)), pick(draw, [*NONSENSE, None]))
    elif isinstance(part, dict) and (not place or draw(booleans)):
        # In matchLabels every key that is a label is understood, but not such a value.
        part["newField"] = pick(draw, NONSENSE)
    else:
        at(spec, place[:-1])[place[-1]] = pick(draw, NONSENSE)
    return broken
