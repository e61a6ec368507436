"""A CompiledPolicy object decoded: what it says, when it says the same as before, and the way back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from builders import allow, key, pods, policy
from netpol_api.compiled_policy import (
    PublishedPolicy,
    SpecVersion,
    published_spec,
    read_compiled_policy,
    read_spec,
    spec_version,
)
from netpol_api.resources import compiled_policy_object
from netpol_compiler.policy import wire
from netpol_compiler.policy.translate import translate

POLICY = translate(policy("shop", "p", {"app": "web"}, ingress=[allow(pods(app="db"))])).policy
(SET,) = POLICY.set_names
OBJECT = compiled_policy_object(POLICY, 3, {SET: "17"})


def test_what_the_operator_publishes_is_what_a_reader_decodes() -> None:
    read = read_compiled_policy(OBJECT)
    assert (read.policy, read.policy.digest, read.need(SET), read.need("another")) == (POLICY, POLICY.digest, 17, 0)


def test_a_policy_that_is_kept_as_bytes_reads_back_as_it_was() -> None:
    published = read_compiled_policy(OBJECT)
    kept = wire.to_bytes(published_spec(published))
    assert read_spec(POLICY.key, wire.from_bytes(kept)) == published


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: {**spec, "schema": wire.SCHEMA + 1},
        lambda spec: {**spec, "name": "another"},
        lambda spec: {**spec, "rules": None},
        lambda spec: {k: v for k, v in spec.items() if k != "uid"},
        lambda spec: None,
        lambda spec: [spec],
    ],
)
def test_an_object_that_is_not_understood_is_refused(change: Any) -> None:
    with pytest.raises(wire.WireError):
        read_compiled_policy({**OBJECT, "spec": change(OBJECT["spec"])})


@pytest.mark.parametrize("needs", [None, [], "17", {SET: None}, {SET: "²"}, {SET: "1" * 30}])
def test_a_version_that_is_none_demands_nothing(needs: Any) -> None:
    assert read_compiled_policy({**OBJECT, "spec": {**OBJECT["spec"], "needs": needs}}).need(SET) == 0


def test_two_published_policies_differ_in_what_they_need() -> None:
    published = read_compiled_policy(OBJECT)
    assert published == PublishedPolicy(POLICY, {SET: 17}) != dataclasses.replace(published, needs={SET: 18})


def test_an_object_says_by_uid_and_generation_which_spec_it_has() -> None:
    def version(**metadata: Any) -> SpecVersion | None:
        return spec_version({"metadata": {"namespace": "shop", "name": "p", **metadata}})

    assert version(uid="a", generation=2, resourceVersion="5") == version(uid="a", generation=2, resourceVersion="9") is not None
    assert len({version(uid="a", generation=2), version(uid="a", generation=3), version(uid="b", generation=2)}) == 3


@pytest.mark.parametrize(
    "metadata",
    [{}, {"uid": "a"}, {"generation": 1}, {"uid": "", "generation": 1}]
    + [{"uid": "a", "generation": generation} for generation in (None, 0, True, "1", -1)],
)
def test_an_object_that_does_not_say_it_has_no_spec_version(metadata: dict[str, Any]) -> None:
    assert spec_version({"metadata": {"name": "p", **metadata}}) is None


def test_an_object_of_another_name_is_refused() -> None:
    with pytest.raises(wire.WireError, match="shop/p"):
        read_spec(key("shop/q"), OBJECT["spec"])
