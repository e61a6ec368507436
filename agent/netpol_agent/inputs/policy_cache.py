"""CompiledPolicies as one agent knows them: values for the namespaces of its pods, bytes for the others.

In: CompiledPolicy objects of the node's bucket and of its pods' namespaces. Out: the policies of the open namespaces, which are
those with a pod on this node. A policy is decoded once, when it comes or when its namespace opens.

    closed: bytes --first pod: decoded--> open: value --last pod deleted: encoded--> closed: bytes

What cannot be understood keeps its last good state. Where there is none:

    the agent starts       UNREAD: nothing is changed on this node until it is understood
    in operation           SEALED: it isolates whom it selects, and allows nothing
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from netpol_agent.inputs.input_problems import InputProblems
from netpol_api.compiled_policy import PublishedPolicy, SpecVersion, key_of, published_spec, read_spec, spec_version
from netpol_api.resources import version_number
from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire

Json = Mapping[str, Any]


class Reading(Enum):
    """What became of the latest version of a policy, where it was not understood."""

    STALE = "its last good state stays"
    UNREAD = "nothing is changed on this node until it is understood"
    SEALED = "the pods that it selects are isolated, and it allows nothing"
    IGNORED = "whom it selects cannot be read either: IT IS NOT ENFORCED"


@dataclass(slots=True)
class _Unreadable:
    """The latest version of a policy of an open namespace, which is not understood."""

    content: bytes
    reading: Reading


class PolicyCache:
    """Policies by namespace."""

    def __init__(self, problems: InputProblems) -> None:
        self.sealing = False
        """Whether a new policy that is not understood isolates whom it selects; not while an agent starts, and the kernel has
        what an earlier one wrote."""
        self._problems = problems
        """Where what is not understood is reported."""
        self._versions: dict[Key, int] = {}
        """The newest resourceVersion of each policy that was seen."""
        self._spec_versions: dict[Key, SpecVersion | None] = {}
        """Which state of its spec that is."""
        self._closed: dict[str, dict[str, bytes]] = {}
        """Specs of the policies of closed namespaces, by namespace and name."""
        self._open: dict[str, dict[Key, PublishedPolicy]] = {}
        """The policies of open namespaces in their last good state."""
        self._unreadable: dict[Key, _Unreadable] = {}
        """Policies of open namespaces whose latest version is not understood."""

    # -- what comes in ---------------------------------------------------------------------------------

    def put(self, data: Json, now: float) -> Key | None:
        """A policy as the API has it. Returns its key, or None when nothing changed but its status, or it is older than ours."""
        key, version = key_of(data), version_number(data["metadata"].get("resourceVersion"))
        if version:
            # A list and the watch tell of one object, in any order.
            if version < self._versions.get(key, 0):
                return None
            self._versions[key] = version
        before, self._spec_versions[key] = self._spec_versions.get(key), spec_version(data)
        if before is not None and before == self._spec_versions[key]:
            return None
        changed = self._read if key.namespace in self._open else self._store
        return key if changed(key, data.get("spec"), now) else None

    def delete(self, key: Key) -> None:
        self._versions.pop(key, None)
        self._spec_versions.pop(key, None)
        self._open.get(key.namespace, {}).pop(key, None)
        closed = self._closed.get(key.namespace, {})
        closed.pop(key.name, None)
        if not closed:
            self._closed.pop(key.namespace, None)
        self._forget(key)

    def open(self, namespace: str, now: float) -> None:
        """A pod of this namespace runs here: its policies matter."""
        if namespace not in self._open:
            self._open[namespace] = {}
            for name, content in sorted(self._closed.pop(namespace, {}).items()):
                self._read(Key(namespace, name), json.loads(content)["spec"], now)

    def close(self, namespace: str) -> None:
        """The last pod of this namespace was deleted: its policies become small."""
        contents = {key.name: _content(published_spec(published)) for key, published in self._open.pop(namespace, {}).items()}
        for key in [k for k in self._unreadable if k.namespace == namespace]:
            contents[key.name] = self._unreadable[key].content
            self._forget(key)
        if contents:
            self._closed[namespace] = contents

    # -- what is asked ---------------------------------------------------------------------------------

    def versions(self, namespace: str) -> dict[Key, int]:
        """All policies of a namespace that were seen, with their resourceVersions."""
        closed = (Key(namespace, name) for name in self._closed.get(namespace, ()))
        unreadable = (key for key in self._unreadable if key.namespace == namespace)
        keys = {*closed, *self._open.get(namespace, ()), *unreadable}
        return {key: self._versions.get(key, 0) for key in keys}

    def of(self, namespace: str) -> Mapping[Key, PublishedPolicy]:
        """The policies of an open namespace; empty for any other."""
        return self._open.get(namespace, {})

    def get(self, key: Key) -> PublishedPolicy | None:
        return self.of(key.namespace).get(key)

    @property
    def unread(self) -> bool:
        """Whether a policy of an open namespace was never understood, and nothing stands for it."""
        return any(u.reading is Reading.UNREAD for u in self._unreadable.values())

    # -- reading ---------------------------------------------------------------------------------------

    def _store(self, key: Key, spec: object, _: float) -> bool:
        """A policy of a closed namespace. Returns whether it changed."""
        cached, content = self._closed.setdefault(key.namespace, {}), _content(spec)
        changed = cached.get(key.name) != content
        cached[key.name] = content
        return changed

    def _read(self, key: Key, spec: object, now: float) -> bool:
        """A policy of an open namespace. Returns whether it changed."""
        cached, what = self._open[key.namespace], f"policy {key}"
        try:
            published = read_spec(key, spec)
        except (wire.WireError, RecursionError) as error:
            content = _content(spec)
            before = self._unreadable.get(key)
            if before is not None and before.content == content:
                return False
            reading = self._without(key, spec, before)
            self._unreadable[key] = _Unreadable(content, reading)
            self._problems.report(what, f"{what}: {error}; {reading.value}", now)
            return True
        changed = key in self._unreadable or not _same(published, cached.get(key))
        self._forget(key)
        if changed:
            cached[key] = published
        return changed

    def _without(self, key: Key, spec: object, before: _Unreadable | None) -> Reading:
        """What happens to a policy that is not understood. Unknown is never empty."""
        sealed_before = before is not None and before.reading is Reading.SEALED
        if key in self._open[key.namespace] and not sealed_before:
            return Reading.STALE
        if not self.sealing:
            return Reading.UNREAD
        sealed = _sealed(key, spec)
        if sealed is None:
            return Reading.SEALED if sealed_before else Reading.IGNORED
        self._open[key.namespace][key] = sealed
        return Reading.SEALED

    def _forget(self, key: Key) -> None:
        """Nothing is wrong with the policy any more."""
        self._unreadable.pop(key, None)
        self._problems.clear(f"policy {key}")


def _same(new: PublishedPolicy, old: PublishedPolicy | None) -> bool:
    """Whether both say the same, the digest included, which does not count when policies are compared."""
    return old is not None and new == old and new.policy.digest == old.policy.digest


def _content(spec: object) -> bytes:
    try:
        return wire.to_bytes({"spec": spec})
    except wire.WireError:
        return wire.to_bytes({"spec": None})  # nothing here will ever be able to read it


def _sealed(key: Key, spec: object) -> PublishedPolicy | None:
    """What a policy that is not understood means at least: it isolates whom it selects. None where that cannot be read."""
    if not isinstance(spec, dict):
        return None
    selection = {name: spec.get(name) for name in ("podSelector", "directions")}
    rest = {"namespace": key.namespace, "name": key.name, "uid": "", "rules": [], "rejected": [], "digest": ""}
    try:
        return PublishedPolicy(wire.policy_from_wire({"schema": wire.SCHEMA, **selection, **rest}))
    except wire.WireError:
        return None
