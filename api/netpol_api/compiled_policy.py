"""CompiledPolicy, the custom resource: one NetworkPolicy of the same namespace and name, compiled. Pure.

    /apis/npctl.dev/v1alpha1/namespaces/NS/compiledpolicies/NAME

    operator:     policy --compiled_policy_object--> object
    agent:        object --read_compiled_policy--> PublishedPolicy: the policy, and how new each of its sets must be
    npctl, lab:   object --compiled_of--> Compiled: of what it was made, and the digest of the result

The wire form is the object's `spec`. What stands beside it there is for people, for watches and for waiting. Decode an object
once and keep the value; `spec_version` says without decoding whether a later event changes anything but status and labels.

    reader, for each object that the list or the watch brings:
        version = spec_version(data)
        if version and version == known: nothing changed
        else: published = read_compiled_policy(data); equal to the known one: nothing changed
    reader that keeps a policy for later, small: wire.to_bytes(published_spec(published)), and read_spec of those values
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpol_api.api_objects import Json, JsonView, key_of, version_number
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


@dataclass(frozen=True, slots=True)
class PublishedPolicy:
    """A policy as it was published. `needs`: how new each of its sets must be (resourceVersion; 0 or missing: any)."""

    policy: CompiledPolicy
    needs: Mapping[str, int] = field(default_factory=dict)

    def need(self, name: str) -> int:
        return self.needs.get(name, 0)


class SpecVersion(NamedTuple):
    """Which state of an object's spec: the API server raises `generation` with each change of the spec, and never else."""

    uid: str
    generation: int


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


def spec_version(data: JsonView) -> SpecVersion | None:
    """Equal for two states of an object that have one spec. None where the object does not say: decode and compare."""
    uid, generation = data["metadata"].get("uid"), data["metadata"].get("generation")
    if not isinstance(uid, str) or not uid or type(generation) is not int or generation <= 0:
        return None
    return SpecVersion(uid, generation)


def read_compiled_policy(data: JsonView) -> PublishedPolicy:
    """The policy in an object. Raises WireError when this version does not understand it."""
    return read_spec(key_of(data), data.get("spec"))


def read_spec(key: Key, spec: object) -> PublishedPolicy:
    """The policy in the spec of the object that is named for `key`. Raises WireError when this version does not understand it."""
    document = wire.checked(spec)
    policy = wire.policy_from_wire(document)
    if policy.key != key:
        raise wire.WireError(f"it says that it is {policy.key}")
    return PublishedPolicy(policy, _needs(document.get("needs")))


def published_spec(published: PublishedPolicy) -> Json:
    """What `read_spec` reads back as an equal value."""
    return {**wire.policy_to_wire(published.policy), "needs": {name: str(n) for name, n in sorted(published.needs.items())}}


def _needs(value: object) -> dict[str, int]:
    return {str(name): version_number(str(version)) for name, version in value.items()} if isinstance(value, dict) else {}
