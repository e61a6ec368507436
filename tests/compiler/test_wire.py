"""The IR's wire form: what a digest covers, equal bytes for equal sets, and what a reader refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import address, allow, block, has, key, network, pods, policy, port
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import IPBlock, NamedPort, Rejected
from netpol_compiler.model.selectors import EVERYTHING, make_selector
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet, Endpoint, Peers, SetSpec
from netpol_compiler.policy.translate import translate

POLICY = translate(
    policy(
        "shop",
        "p",
        {"app": "web"},
        ingress=[allow(pods(app="db"), block("10.0.0.0/8", "10.1.0.0/16"), ports=[port(80, 90), port("http")])],
        egress=[allow(), allow(pods(app="db"), ports=[port("sql")])],
    )
).policy
RULE = POLICY.rules_of(Direction.INGRESS)[0]
PEERS = RULE.peers or Peers()
CHANGED_RULES: list[dict[str, Any]] = [
    {"direction": Direction.EGRESS},
    {"index": 1},
    {"peers": replace(PEERS, sets=())},
    {"peers": replace(PEERS, blocks=())},
    {"peers": None},
    {"peers": replace(PEERS, blocks=(IPBlock(network("10.0.0.0/8")),))},
    {"ports": ()},
    {"ports": None},
    {"named_ports": ()},
    {"endpoints": ("e-x",)},
]
CHANGED: list[dict[str, Any]] = [
    {"key": key("shop/q")},
    {"key": key("farm/p")},
    {"uid": "another life"},
    {"pod_selector": make_selector([has("app")])},
    {"directions": frozenset({Direction.INGRESS})},
    {"rules": ()},
    {"rejected": (Rejected("NetworkPolicy", "shop", "p", ("spec", "x"), "unknown field"),)},
    *({"rules": (replace(RULE, **change), *POLICY.rules[1:])} for change in CHANGED_RULES),
]


@pytest.mark.parametrize("change", CHANGED, ids=lambda change: " ".join(change))
def test_a_digest_covers_everything_of_a_policy(change: dict[str, Any]) -> None:
    assert wire.policy_digest(replace(POLICY, **change)) != POLICY.digest


def test_what_is_read_is_what_was_written() -> None:
    back = wire.policy_from_wire(wire.from_bytes(wire.to_bytes(wire.policy_to_wire(POLICY))))
    assert (back, back.digest) == (POLICY, POLICY.digest)
    assert {rule.ports for rule in back.rules} >= {None, ()} and None in {rule.peers for rule in back.rules}


def test_the_bytes_of_a_policy_are_those_that_agents_of_other_versions_read() -> None:
    """Changed on purpose only, with another schema."""
    assert wire.to_bytes(wire.policy_to_wire(POLICY)).decode() == (
        '{"digest":"a9e8296f0f674a62199c2d5dc88fb9df","directions":["egress","ingress"],"name":"p","namespace":"shop",'
        '"podSelector":[{"key":"app","operator":"In","values":["web"]}],"rejected":[],"rules":['
        '{"blocks":null,"direction":"egress","endpoints":[],"index":0,"namedPorts":[],"ports":null,"sets":null},'
        '{"blocks":[],"direction":"egress","endpoints":["e-db-gkffn7bilsgbzeeb"],"index":1,"namedPorts":[],"ports":[],"sets":[]},'
        '{"blocks":[{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}],"direction":"ingress","endpoints":[],"index":0,'
        '"namedPorts":[{"name":"http","protocol":"TCP"}],"ports":[{"first":80,"last":90,"protocol":"TCP"}],'
        '"sets":["a-db-a0z3vhirdbunztai"]}],"schema":1,"uid":"uid-shop-p"}'
    )


@pytest.mark.parametrize(("sets", "blocks"), [(None, []), ([], None)])
def test_a_rule_with_sets_and_without_blocks_is_refused_and_the_other_way_round(sets: Any, blocks: Any) -> None:
    document = wire.policy_to_wire(POLICY)
    document["rules"][0] |= {"sets": sets, "blocks": blocks}
    with pytest.raises(wire.WireError, match="null together"):
        wire.policy_from_wire(document)


def test_a_digest_does_not_depend_on_the_digest() -> None:
    assert wire.policy_digest(replace(POLICY, digest="another")) == POLICY.digest


@pytest.mark.parametrize(
    ("port_name", "members"),
    [
        (None, [address(f"10.0.{n % 7}.{n}") for n in range(100)] + [address("fd00::1")]),
        (NamedPort(Protocol.TCP, "http"), [Endpoint(address(f"10.0.{n % 7}.{n}"), Protocol.TCP, 80) for n in range(100)]),
    ],
    ids=["addresses", "endpoints"],
)
def test_equal_members_are_equal_bytes_in_whatever_order_they_come(port_name: NamedPort | None, members: list[Any]) -> None:
    value = AddressSet("a-x", SetSpec("shop", None, EVERYTHING, port_name), frozenset(members))
    ways = (members, members[::-1], members[50:] + members[:50])
    assert len({wire.to_bytes(wire.slice_to_wire(value, 0, 1, way)) for way in ways}) == 1


def test_a_schema_that_we_do_not_know_is_refused_and_so_is_none() -> None:
    for schema in (wire.SCHEMA + 1, wire.SCHEMA - 1, str(wire.SCHEMA), None):
        with pytest.raises(wire.WireError, match="this version reads schema"):
            wire.checked({**wire.policy_to_wire(POLICY), "schema": schema})


@pytest.mark.parametrize("there", [[0], [1], [0, 0], [0, 2], []])
def test_a_set_is_whole_only_with_all_its_slices(there: list[int]) -> None:
    value = AddressSet("a-x", SetSpec("shop", None, EVERYTHING), frozenset())
    with pytest.raises(wire.WireError):
        wire.slices_from_wire([wire.slice_to_wire(value, index, 2, ()) for index in there])
