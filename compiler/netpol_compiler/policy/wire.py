"""The IR's wire form: plain JSON values, canonical bytes, and the way back.

Equal values give equal bytes in every process (sorted keys, sorted members, no hash order). Every document carries
`schema`; a reader that meets a schema or a word it does not know raises `WireError`, and its caller keeps the last
good state: unknown is never empty.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from netpol_compiler.model.addresses import Address, Network, parse_address, parse_network
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import IPBlock, Key, NamedPort, PortRange, Rejected
from netpol_compiler.model.selectors import Operator, Requirement, Selector, make_selector
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy, CompiledRule, Endpoint, Peers, SetKind, SetSpec
from netpol_compiler.reading.fields import shorten

SCHEMA = 1
LAST_PORT = 65535

Json = dict[str, Any]
T = TypeVar("T")


class WireError(ValueError):
    """A document that this version does not understand; the text names what and where."""


def to_bytes(document: Json) -> bytes:
    """Canonical bytes of a document. Raises WireError for one that is nested too deeply."""
    try:
        return json.dumps(document, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
    except RecursionError as error:
        raise WireError("nested too deeply") from error


def from_bytes(content: bytes) -> Json:
    """The document in `content`. Raises WireError when it is no JSON object of a schema we read."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from error
    return checked(document)


def checked(document: object) -> Json:
    """`document` itself. Raises WireError when it is no JSON object of a schema we read."""
    if not isinstance(document, dict):
        raise WireError("not a JSON object")
    if document.get("schema") != SCHEMA:
        raise WireError(f"schema {document.get('schema')!r}, and this version reads schema {SCHEMA}")
    return document


# -- policies ------------------------------------------------------------------------------------------


def policy_to_wire(policy: CompiledPolicy) -> Json:
    return {"schema": SCHEMA, "digest": policy.digest, **_policy_body(policy)}


def policy_digest(policy: CompiledPolicy) -> str:
    """Hash of everything in a compiled policy but the digest itself: 32 hexadecimal characters."""
    return hashlib.sha256(to_bytes(_policy_body(policy))).hexdigest()[:32]


def _policy_body(policy: CompiledPolicy) -> Json:
    return {
        "namespace": policy.key.namespace,
        "name": policy.key.name,
        "uid": policy.uid,
        "podSelector": _selector_to_wire(policy.pod_selector),
        "directions": sorted(d.value for d in policy.directions),
        "rules": [_rule_to_wire(r) for r in policy.rules],
        "rejected": [_rejected_to_wire(r) for r in policy.rejected],
    }


def _rule_to_wire(rule: CompiledRule) -> Json:
    return {
        "direction": rule.direction.value,
        "index": rule.index,
        "sets": None if rule.peers is None else list(rule.peers.sets),
        "blocks": None if rule.peers is None else [_block_to_wire(b) for b in rule.peers.blocks],
        "ports": None if rule.ports is None else [_range_to_wire(p) for p in rule.ports],
        "namedPorts": [_named_port_to_wire(p) for p in rule.named_ports],
        "endpoints": list(rule.endpoints),
    }


def _range_to_wire(ports: PortRange) -> Json:
    return {"protocol": ports.protocol.value, "first": ports.first, "last": ports.last}


def _named_port_to_wire(port: NamedPort) -> Json:
    return {"protocol": port.protocol.value, "name": port.name}


def _named_port(document: Json) -> NamedPort:
    return NamedPort(Protocol(document["protocol"]), _text(document["name"]))


def _block_to_wire(block: IPBlock) -> Json:
    return {"cidr": block.cidr.text, "except": [e.text for e in block.exceptions]}


def _rejected_to_wire(rejected: Rejected) -> Json:
    """Without file and line: the IR of equal objects is equal wherever they were written."""
    return {"kind": rejected.kind, "path": list(rejected.path), "reason": rejected.reason}


def policy_from_wire(document: Json) -> CompiledPolicy:
    """The policy in a document. Raises WireError."""
    return _reading("policy", lambda: _policy(document))


def _policy(document: Json) -> CompiledPolicy:
    key = Key(_text(document["namespace"]), _text(document["name"]))
    return CompiledPolicy(
        key=key,
        uid=_text(document["uid"]),
        pod_selector=_selector(document["podSelector"]),
        directions=frozenset(Direction(d) for d in _list(document["directions"])),
        rules=tuple(_rule(r) for r in _list(document["rules"])),
        rejected=tuple(
            Rejected(_text(r["kind"]), key.namespace, key.name, tuple(map(_step, _list(r["path"]))), _text(r["reason"]))
            for r in _list(document["rejected"])
        ),
        digest=_text(document["digest"]),
    )


def _rule(document: Json) -> CompiledRule:
    return CompiledRule(
        direction=Direction(document["direction"]),
        index=_integer(document["index"]),
        peers=_peers(document["sets"], document["blocks"]),
        ports=None if document["ports"] is None else tuple(_range(p) for p in _list(document["ports"])),
        named_ports=tuple(map(_named_port, _list(document["namedPorts"]))),
        endpoints=tuple(map(_text, _list(document["endpoints"]))),
    )


def _peers(sets: object, blocks: object) -> Peers | None:
    if sets is None and blocks is None:
        return None
    if sets is None or blocks is None:
        raise WireError("a rule's sets and blocks are null together or not at all")
    return Peers(tuple(map(_text, _list(sets))), tuple(map(_block, _list(blocks))))


def _range(document: Json) -> PortRange:
    first, last = _integer(document["first"], LAST_PORT), _integer(document["last"], LAST_PORT)
    if first > last:
        raise WireError(f"ports from {first} to {last}")
    return PortRange(Protocol(document["protocol"]), first, last)


def _block(document: Json) -> IPBlock:
    return IPBlock(_network(document["cidr"]), tuple(_network(e) for e in _list(document["except"])))


# -- selectors and specs -------------------------------------------------------------------------------


def _selector_to_wire(selector: Selector) -> list[Json]:
    return [{"key": r.key, "operator": r.operator.value, "values": list(r.values)} for r in selector.requirements]


def _selector(document: Sequence[Json]) -> Selector:
    return make_selector(
        Requirement(_text(r["key"]), Operator(r["operator"]), tuple(map(_text, _list(r["values"])))) for r in _list(document)
    )


def _spec_to_wire(spec: SetSpec) -> Json:
    port = spec.named_port
    return {
        "namespace": spec.namespace,
        "namespaceSelector": None if spec.namespace_selector is None else _selector_to_wire(spec.namespace_selector),
        "podSelector": _selector_to_wire(spec.pod_selector),
        "namedPort": None if port is None else _named_port_to_wire(port),
    }


def _spec(document: Json) -> SetSpec:
    namespaces, port = document["namespaceSelector"], document["namedPort"]
    return SetSpec(
        namespace=None if document["namespace"] is None else _text(document["namespace"]),
        namespace_selector=None if namespaces is None else _selector(namespaces),
        pod_selector=_selector(document["podSelector"]),
        named_port=None if port is None else _named_port(port),
    )


# -- sets and their slices -----------------------------------------------------------------------------


def slice_to_wire(address_set: AddressSet, index: int, count: int, members: Iterable[Address | Endpoint]) -> Json:
    """Slice `index` of `count` of a set, with its share of the members; `size` counts them, for people's tables."""
    texts = sorted(member_to_wire(m) for m in members)
    return {
        "schema": SCHEMA,
        "name": address_set.name,
        "words": address_set.spec.words,
        "selects": _spec_to_wire(address_set.spec),
        "slice": index,
        "slices": count,
        "size": len(texts),
        "members": texts,
    }


def slices_from_wire(documents: Sequence[Json]) -> AddressSet:
    """The set that `documents`, all slices of it, make together. Raises WireError when one is missing or differs."""
    return _reading("set", lambda: _set(documents))


def _set(documents: Sequence[Json]) -> AddressSet:
    first = documents[0]
    count = _integer(first["slices"])
    there = {_integer(d["slice"]) for d in documents}
    if len(there) != count or max(there) != count - 1 or any(d["slices"] != count for d in documents):
        raise WireError(f"set {first['name']}: {len(documents)} slices of {count} are here")
    spec = _spec(first["selects"])
    members = frozenset(_member(spec.kind, m) for d in documents for m in _list(d["members"]))
    return AddressSet(_text(first["name"]), spec, members)  # type: ignore[arg-type]  # one kind per set, by its spec


def members_from_wire(document: Json) -> frozenset[Address | Endpoint]:
    """The members in one slice. Raises WireError."""
    return _reading("set", lambda: _members(document))


def _members(document: Json) -> frozenset[Address | Endpoint]:
    kind = _spec(document["selects"]).kind
    return frozenset(_member(kind, m) for m in _list(document["members"]))


def member_to_wire(member: Address | Endpoint) -> str:
    """A member as text: `10.0.0.1`, or `10.0.0.1,TCP,80` for an endpoint."""
    if isinstance(member, Address):
        return member.text
    return f"{member.address.text},{member.protocol.value},{member.port}"


def _member(kind: SetKind, text: str) -> Address | Endpoint:
    if kind is SetKind.ADDRESS:
        return parse_address(_text(text))
    address, protocol, port = _text(text).split(",")
    return Endpoint(parse_address(address), Protocol(protocol), _integer(int(port), LAST_PORT))


# -- helpers -------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise WireError(f"{shorten(repr(value))} where text belongs")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise WireError(f"{shorten(repr(value))} where a list belongs")
    return list(value)


def _integer(value: object, last: int = sys.maxsize) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= last:
        raise WireError(f"{shorten(repr(value))} where a number from 0 to {last} belongs")
    return value


def _step(value: object) -> str | int:
    """One part of a path."""
    return value if isinstance(value, str) else _integer(value)


def _network(text: str) -> Network:
    return parse_network(_text(text))[0]


def _reading(what: str, read: Callable[[], T]) -> T:
    """Whatever is wrong inside a document becomes a WireError that says so."""
    try:
        return read()
    except WireError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WireError(f"{what}: {type(error).__name__}: {error}") from error
