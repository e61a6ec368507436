"""Objects of the IR that somebody has edited by hand: the operator can tell them from its own, whatever they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from hostile import deep, spoiled_json
from netpol_operator.publishing.observed import digest_of
from search import searched

GOOD = {
    "metadata": {"name": "s.0", "labels": {"npctl.dev/set": "s"}, "ownerReferences": [{"uid": "u"}]},
    "spec": {"schema": 1, "name": "s", "members": ["10.0.0.1"], "needs": {"a": "5"}},
}


@searched(200)
@given(spoiled_json(GOOD["spec"]))
def test_another_spec_has_another_digest(spec: Any) -> None:
    without = [{k: v for k, v in s.items() if k != "needs"} if isinstance(s, dict) else s for s in (spec, GOOD["spec"])]
    same = digest_of({**GOOD, "spec": spec}) == digest_of(GOOD)
    assert same == (json.dumps(without[0], sort_keys=True) == json.dumps(without[1], sort_keys=True))


@pytest.mark.parametrize("depth", [100, 900, 1000, 5000])
def test_a_spec_that_is_deep_has_another_digest(depth: int) -> None:
    assert digest_of({**GOOD, "spec": deep(depth)}) != digest_of(GOOD)
