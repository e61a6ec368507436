"""NetworkPolicy (networking.k8s.io/v1), from a mapping to `Policy`: SEMANTICS 1, 3 to 7 and 15.

In: the object as YAML or the API gives it. Out: a `Policy`, and every part that was not understood as `Rejected`.
A policy whose identity is usable always comes out, so that it isolates what it selects, whatever else is wrong with it.

What a part that was not understood means, so that nothing is ever opened by it:

    a port                      that port is allowed nothing
    a peer, its selector or its block, an exception of the block   that peer is allowed nothing
    a field of a rule           that rule allows nothing
    a field of spec             the policy isolates what it selects; the rest stands
    a requirement of the policy's own podSelector   counts as satisfied: isolates more pods, never fewer
    a requirement of a peer's selector              counts as unsatisfiable: admits fewer pods, never more
    an entry of policyTypes     the known ones count; without any known one, as if policyTypes were missing
    `egress` of a wrong type    counts as having rules: egress is isolated, nothing allowed

So a written list of peers (or ports) of which none was understood is the empty tuple: nothing. It is never None, which means all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from netpol_compiler.model.addresses import Network, parse_network
from netpol_compiler.model.kinds import DIRECTIONS, Direction
from netpol_compiler.model.objects import IPBlock, NamedPort, Peer, PodPeer, Policy, Port, PortRange, Rejected, Rule
from netpol_compiler.model.selectors import EVERYTHING, Selector
from netpol_compiler.reading.fields import Path, Problems, describe, port_name_error, read_protocol
from netpol_compiler.reading.metadata import read_metadata
from netpol_compiler.reading.selector import read_selector

KIND = "NetworkPolicy"
_PEERS_FIELD = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_MAPPED_V4 = Network(6, 0xFFFF << 32, 96)

T = TypeVar("T")


def parse_policy(data: Mapping[str, Any]) -> tuple[Policy | None, tuple[Rejected, ...]]:
    """Parse one NetworkPolicy. The policy is None only when its name or namespace is unusable.

    The second value is what was rejected, and equals `Policy.rejected`.
    """
    metadata, problems = read_metadata(data, KIND)
    if not metadata.usable:
        return None, tuple(problems.found)
    problems.unknown_fields(data, ("apiVersion", "kind", "metadata", "spec", "status"), ())
    spec = _read_spec(data, problems)
    selector, _ = read_selector(spec.get("podSelector"), ("spec", "podSelector"), problems)
    written = {direction: problems.sequence(spec.get(direction.value), ("spec", direction.value)) for direction in DIRECTIONS}
    directions = _read_directions(spec, written, problems)
    rules = {d: [_read_rule(rule, d, i, problems) for i, rule in enumerate(written[d] or ())] for d in DIRECTIONS}
    rejected = tuple(problems.found)
    # Rules of a direction that policyTypes leaves out have no effect: they must not add to what other policies allow.
    effective = tuple(rule for direction in DIRECTIONS if direction in directions for rule in rules[direction])
    return Policy(metadata.key, metadata.uid, selector, directions, effective, rejected), rejected


def host_bits(data: Mapping[str, Any]) -> tuple[tuple[Path, str, Network], ...]:
    """Every cidr and exception with host bits set, which is legal: (path, text as written, block that it means)."""
    found: list[tuple[Path, str, Network]] = []
    _walk_blocks(data.get("spec"), ("spec",), found)
    return tuple(found)


def _walk_blocks(value: object, path: Path, found: list[tuple[Path, str, Network]]) -> None:
    if isinstance(value, Mapping):
        for key, child in value.items():
            _walk_blocks(child, (*path, key), found)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            _walk_blocks(child, (*path, index), found)
    elif isinstance(value, str) and "ipBlock" in path:
        try:
            network, has_host_bits = parse_network(value)
        except ValueError:
            return  # parse_policy has said so
        if has_host_bits:
            found.append((path, value, network))


def _read_spec(data: Mapping[str, Any], problems: Problems) -> Mapping[str, Any]:
    if data.get("spec") is None:
        problems.add(("spec",), "is missing: so the policy isolates every pod of its namespace; write podSelector at least")
    spec = problems.mapping(data.get("spec"), ("spec",)) or {}
    remedies = {"from": "it belongs into an entry of ingress", "to": "it belongs into an entry of egress"}
    problems.unknown_fields(spec, ("podSelector", "policyTypes", "ingress", "egress"), ("spec",), remedies)
    if spec.get("podSelector") is None:
        return {**spec, "podSelector": {}}  # not a pointer in the API: missing selects every pod
    return spec


def _read_directions(
    spec: Mapping[str, Any], written: Mapping[Direction, list[Any] | None], problems: Problems
) -> frozenset[Direction]:
    names = {direction.api_name: direction for direction in DIRECTIONS}
    known: set[Direction] = set()
    for index, entry in enumerate(problems.sequence(spec.get("policyTypes"), ("spec", "policyTypes")) or ()):
        if isinstance(entry, str) and entry in names:
            known.add(names[entry])
        else:
            problems.add(("spec", "policyTypes", index), f"expected Ingress or Egress, got {describe(entry)}")
    if known:
        return frozenset(known)
    egress = written[Direction.EGRESS]
    return frozenset(DIRECTIONS if egress is None or egress else (Direction.INGRESS,))


def _read_rule(value: object, direction: Direction, index: int, problems: Problems) -> Rule:
    path = ("spec", direction.value, index)
    nothing = Rule(direction, index, (), ())
    if value is None:
        problems.wrong_type(path, value, "a mapping; a rule that allows everything is written {}")
        return nothing
    data = problems.mapping(value, path)
    if data is None:
        return nothing
    field = _PEERS_FIELD[direction]
    other = "to" if field == "from" else "from"
    remedies = {other: f"the peers of {direction.value} are in {field}"}
    unknown = problems.unknown_fields(data, ("ports", field), path, remedies)
    peers: tuple[Peer, ...] | None = _read_list(data.get(field), (*path, field), _read_peer, problems)
    ports: tuple[Port, ...] | None = _read_list(data.get("ports"), (*path, "ports"), _read_port, problems)
    return nothing if unknown else Rule(direction, index, peers, ports)


def _read_list(
    value: object, path: Path, read: Callable[[Mapping[Any, Any], Path, Problems], T | None], problems: Problems
) -> tuple[T, ...] | None:
    """None (all) for a missing or empty list; else the entries that were understood, without repeats."""
    items = problems.sequence(value, path)
    if items is None:
        return ()
    if not items:
        return None
    understood: dict[T, None] = {}
    for index, item in enumerate(items):
        if item is None:  # a dash with nothing behind it: more likely forgotten than meant
            problems.wrong_type((*path, index), item, "a mapping")
            continue
        data = problems.mapping(item, (*path, index))
        entry = None if data is None else read(data, (*path, index), problems)
        if entry is not None:
            understood[entry] = None
    return tuple(understood)


def _read_peer(data: Mapping[Any, Any], path: Path, problems: Problems) -> Peer | None:
    unknown = problems.unknown_fields(data, ("podSelector", "namespaceSelector", "ipBlock"), path)
    written = [field for field in ("podSelector", "namespaceSelector", "ipBlock") if data.get(field) is not None]
    if not written:
        if not unknown:
            problems.add(path, "an empty peer; write podSelector, namespaceSelector or ipBlock ({} as a selector matches all)")
        return None
    if "ipBlock" in written and len(written) > 1:
        problems.add((*path, "ipBlock"), "cannot be combined with a selector in one peer; make it an entry of its own")
        return None
    if "ipBlock" in written:
        block = _read_block(data["ipBlock"], (*path, "ipBlock"), problems)
        return None if unknown else block
    selectors: dict[str, Selector] = {}
    for field in written:
        selector, complete = read_selector(data[field], (*path, field), problems)
        unknown = unknown or not complete
        selectors[field] = selector
    return None if unknown else PodPeer(selectors.get("namespaceSelector"), selectors.get("podSelector", EVERYTHING))


def _read_block(value: object, path: Path, problems: Problems) -> IPBlock | None:
    data = problems.mapping(value, path)
    if data is None:
        return None
    complete = not problems.unknown_fields(data, ("cidr", "except"), path)
    cidr = _read_network(data.get("cidr"), (*path, "cidr"), problems)
    items = problems.sequence(data.get("except"), (*path, "except"))
    exceptions: set[Network] = set()
    for index, item in enumerate(items or ()):
        exception = _read_network(item, (*path, "except", index), problems)
        if exception is None or (cidr is not None and not _is_inside(exception, cidr, (*path, "except", index), problems)):
            complete = False  # leaving only the exception out would allow what it was written to refuse
        else:
            exceptions.add(exception)
    if cidr is None or items is None or not complete:
        return None
    return IPBlock(cidr, tuple(sorted(exceptions)))


def _read_network(value: object, path: Path, problems: Problems) -> Network | None:
    if value is None:
        problems.add(path, "is missing: write a block such as 10.0.0.0/8")
        return None
    text = problems.text(value, path)
    if text is None:
        return None
    try:
        network, _ = parse_network(text)
    except ValueError as error:
        problems.add(path, str(error))
        return None
    if _MAPPED_V4.covers(network):
        problems.add(path, f"{text!r} is an IPv4 block inside IPv6, which no packet carries; write it as IPv4")
        return None
    return network


def _is_inside(exception: Network, cidr: Network, path: Path, problems: Problems) -> bool:
    if exception.version != cidr.version:
        problems.add(path, f"{exception} and its cidr {cidr} are of different address families")
        return False
    if not cidr.covers(exception) or exception == cidr:
        problems.add(path, f"{exception} must be inside of its cidr {cidr}, and smaller")
        return False
    return True


def _read_port(data: Mapping[Any, Any], path: Path, problems: Problems) -> Port | None:
    unknown = problems.unknown_fields(data, ("protocol", "port", "endPort"), path)
    protocol = read_protocol(data.get("protocol"), (*path, "protocol"), problems)
    port, last = data.get("port"), data.get("endPort")
    if port is None:
        if last is not None:
            problems.add((*path, "endPort"), "needs a port, the first of the range")
        return None if unknown or protocol is None or last is not None else PortRange(protocol)
    if isinstance(port, str):
        if error := port_name_error(port):
            problems.add((*path, "port"), error)
        elif last is not None:
            problems.add((*path, "endPort"), "needs a port that is a number, not a name")
        elif protocol is not None and not unknown:
            return NamedPort(protocol, port)
        return None
    first = problems.integer(port, (*path, "port"), 1, 65535)
    last = first if last is None else problems.integer(last, (*path, "endPort"), 1, 65535)
    if unknown or protocol is None or first is None or last is None:
        return None
    if last < first:
        problems.add((*path, "endPort"), f"{last} is below the range's first port {first}")
        return None
    return PortRange(protocol, first, last)
