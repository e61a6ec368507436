"""A CompiledPolicy object of the API, decoded: the policy, and how new each of its sets must be.

In: the object as the API server has it. Out: `PublishedPolicy`, or `WireError`. Decode an object once and keep the value;
`spec_version` says without decoding whether a later event changes anything but status and labels. Pure: no I/O.

    reader, for each object that the list or the watch brings:
        version = spec_version(data)
        if version and version == known: nothing changed
        else: published = read_compiled_policy(data); equal to the known one: nothing changed
    reader that keeps a policy for later, small: wire.to_bytes(published_spec(published)), and read_spec of those values
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from netpol_api.resources import version_number
from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import CompiledPolicy


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


def key_of(data: Mapping[str, Any]) -> Key:
    """The policy that a CompiledPolicy object is named for."""
    return Key(str(data["metadata"].get("namespace") or ""), str(data["metadata"]["name"]))


def spec_version(data: Mapping[str, Any]) -> SpecVersion | None:
    """Equal for two states of an object that have one spec. None where the object does not say: decode and compare."""
    uid, generation = data["metadata"].get("uid"), data["metadata"].get("generation")
    if not isinstance(uid, str) or not uid or type(generation) is not int or generation <= 0:
        return None
    return SpecVersion(uid, generation)


def read_compiled_policy(data: Mapping[str, Any]) -> PublishedPolicy:
    """The policy in an object. Raises WireError when this version does not understand it."""
    return read_spec(key_of(data), data.get("spec"))


def read_spec(key: Key, spec: object) -> PublishedPolicy:
    """The policy in the spec of the object that is named for `key`. Raises WireError when this version does not understand it."""
    document = wire.checked(spec)
    policy = wire.policy_from_wire(document)
    if policy.key != key:
        raise wire.WireError(f"it says that it is {policy.key}")
    return PublishedPolicy(policy, _needs(document.get("needs")))


def published_spec(published: PublishedPolicy) -> wire.Json:
    """What `read_spec` reads back as an equal value."""
    return {**wire.policy_to_wire(published.policy), "needs": {name: str(n) for name, n in sorted(published.needs.items())}}


def _needs(value: object) -> dict[str, int]:
    return {str(name): version_number(str(version)) for name, version in value.items()} if isinstance(value, dict) else {}
