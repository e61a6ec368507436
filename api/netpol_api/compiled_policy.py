"""CompiledPolicy, the custom resource: one NetworkPolicy of the same namespace and name, compiled. Pure.

    /apis/npctl.dev/v1alpha1/namespaces/NS/compiledpolicies/NAME

The wire form is the object's `spec` (`api_objects.document_of` reads it). What stands beside it there is for people, for watches
and for waiting, and no reader of the IR needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from netpol_api.api_objects import Json, JsonView
from netpol_api.kinds import COMPILED_POLICY
from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import CompiledPolicy


class Compiled(NamedTuple):
    """Which version of a NetworkPolicy was compiled, and the digest of the result."""

    uid: str
    generation: int
    digest: str


def compiled_policy_path(key: Key) -> str:
    return COMPILED_POLICY.path(key.namespace, key.name)


def compiled_policy_object(policy: CompiledPolicy, generation: int, needs: Mapping[str, str]) -> Json:
    """A CompiledPolicy. `generation` is the NetworkPolicy's; `needs` says how new each set must be (its resourceVersion).

    Not owned by the NetworkPolicy: the garbage collector would remove it before the operator has published what comes instead.
    """
    return {
        "apiVersion": COMPILED_POLICY.api_version,
        "kind": COMPILED_POLICY.kind,
        "metadata": {"namespace": policy.key.namespace, "name": policy.key.name},
        "spec": {
            **wire.policy_to_wire(policy),
            "sourceGeneration": generation,
            "needs": dict(sorted(needs.items())),
            "isolates": ",".join(d.api_name for d in Direction if d in policy.directions),
            "ruleCount": len(policy.rules),
        },
    }


def compiled_of(item: JsonView) -> Compiled:
    """What was compiled. What is missing or of another type equals nothing, so the policy counts as not compiled."""
    spec = item.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    uid, generation, digest = spec.get("uid"), spec.get("sourceGeneration"), spec.get("digest")
    return Compiled(
        uid if isinstance(uid, str) else "",
        generation if type(generation) is int else 0,
        digest if isinstance(digest, str) else "",
    )
