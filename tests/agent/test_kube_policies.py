"""What an agent makes of CompiledPolicies that a list and a watch tell of in any order."""

from __future__ import annotations

from typing import Any

from builders import key, policy
from netpol_agent.inputs.input_problems import InputProblems
from netpol_agent.inputs.policy_cache import PolicyCache
from netpol_compiler.policy import wire
from netpol_compiler.policy.translate import translate

KEY = key("shop/p")


def published(version: int, app: str) -> dict[str, Any]:
    spec = wire.policy_to_wire(translate(policy("shop", "p", {"app": app})).policy)
    return {"metadata": {"namespace": "shop", "name": "p", "resourceVersion": str(version)}, "spec": spec}


def selects(store: PolicyCache) -> str:
    found = store.get(KEY)
    return found.policy.pod_selector.words if found else "nothing"


def test_an_older_state_that_comes_late_changes_nothing() -> None:
    store = PolicyCache(InputProblems())
    store.open("shop", 0.0)
    assert store.put(published(5, "new"), 0.0) == KEY
    assert store.put(published(4, "old"), 1.0) is None
    assert selects(store) == "app=new" and store.versions("shop") == {KEY: 5}
    assert store.put(published(6, "newer"), 2.0) == KEY
    assert selects(store) == "app=newer"


def test_after_a_deletion_a_name_begins_anew() -> None:
    store = PolicyCache(InputProblems())
    store.open("shop", 0.0)
    store.put(published(5, "old"), 0.0)
    store.delete(KEY)
    assert selects(store) == "nothing"
    assert store.put(published(3, "restored"), 1.0) == KEY and selects(store) == "app=restored"
