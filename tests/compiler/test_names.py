"""Names are hashes of separated parts: what differs in any part, or only in where a part ends, shares no chain and no set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import selector
from netpol_compiler.model.kinds import Family, Protocol
from netpol_compiler.model.objects import NamedPort
from netpol_compiler.model.selectors import EVERYTHING
from netpol_compiler.policy.ir import SetKind, SetSpec
from netpol_compiler.policy.names import address_set_name, api_hash, chain_name, kernel_hash, parse_set_name, set_name

SPEC = SetSpec("a", None, selector(app="web"), NamedPort(Protocol.TCP, "http"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", "bc"], ["ab", "c"]),
        (["a", ["b", "c"]], ["a", ["b"], "c"]),
        (["a", ""], ["", "a"]),
        ([1, 2], [12]),
        ([None], ["None"]),
    ],
)
def test_where_a_part_ends_belongs_to_the_name(one: list[object], other: list[object]) -> None:
    for named in (kernel_hash, api_hash):
        assert named(one) != named(other)
    assert chain_name("pi", "x", one) != chain_name("pi", "x", other)


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, namespace="b"),
        replace(SPEC, namespace=None, namespace_selector=EVERYTHING),
        replace(SPEC, pod_selector=selector(app="db")),
        replace(SPEC, pod_selector=EVERYTHING),
        replace(SPEC, named_port=NamedPort(Protocol.UDP, "http")),
        replace(SPEC, named_port=NamedPort(Protocol.TCP, "https")),
        replace(SPEC, named_port=None),
    ],
)
def test_sets_that_differ_in_anything_have_other_names(other: SetSpec) -> None:
    assert address_set_name(SPEC) != address_set_name(other)


def test_a_set_tells_its_family_and_type_because_the_kernel_cannot_change_them() -> None:
    heads = [set_name(family, ip_port, "web", ["x"])[:11] for family in Family for ip_port in (False, True)]
    assert heads == ["npc4-n1-web", "npc4-p1-web", "npc6-n1-web", "npc6-p1-web"]


@pytest.mark.parametrize(
    ("spec", "kind", "stem"),
    [
        (SPEC, SetKind.ENDPOINT, "web"),
        (replace(SPEC, named_port=None), SetKind.ADDRESS, "web"),
        (replace(SPEC, pod_selector=selector(app="a-b.C")), SetKind.ENDPOINT, "a-b-c"),
        (replace(SPEC, pod_selector=selector(app="-"), named_port=None), SetKind.ADDRESS, "x"),
    ],
)
def test_a_sets_name_read_back_says_what_it_was_made_of(spec: SetSpec, kind: SetKind, stem: str) -> None:
    parts = parse_set_name(address_set_name(spec))
    assert (parts.kind, parts.stem, parts.text) == (kind, stem, address_set_name(spec))


@pytest.mark.parametrize("text", ["", "s", "-", "e", "a-x", "x.y", "\u00e4-\u00f6-\u00fc"])
def test_a_text_that_names_no_set_of_ours_is_read_all_the_same(text: str) -> None:
    assert parse_set_name(text).kind is (SetKind.ENDPOINT if text == "e" else SetKind.ADDRESS)
