"""CompiledPolicies as one agent knows them: bytes for namespaces without a pod here, values for the others.

In: CompiledPolicy objects of the node's bucket and of its pods' namespaces. Out: the policies of the namespaces that are open,
which are those with a pod on this node. What cannot be understood keeps its last good state; one that never was understood is
`unread`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netpol_agent.inputs.problems import Complaints
from netpol_api.api_objects import version_number
from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import CompiledPolicy

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Published:
    """A policy as it was published. `needs`: how new each of its sets must be (resourceVersion; 0: any)."""

    policy: CompiledPolicy
    needs: Mapping[str, int] = field(default_factory=dict)

    def need(self, name: str) -> int:
        return self.needs.get(name, 0)


class PolicyStore:
    """Policies by namespace. `unread`: of open namespaces, and never understood. `sealing`: such a policy isolates whom it
    selects; before that (while an agent starts, and the kernel has what an earlier one wrote) it is only `unread`."""

    def __init__(self, complaints: Complaints) -> None:
        self.sealing = False
        self._bytes: dict[str, dict[str, bytes]] = {}
        self._versions: dict[Key, int] = {}
        self._open: dict[str, dict[Key, Published]] = {}
        self._complaints = complaints
        self.unread: set[Key] = set()
        self._sealed: set[Key] = set()

    def put(self, data: Json, now: float) -> Key | None:
        """A policy as the API has it. Returns its key, or None when nothing changed but its status, or it is older than ours."""
        version = version_number(data["metadata"].get("resourceVersion"))
        key = Key(str(data["metadata"].get("namespace") or ""), str(data["metadata"]["name"]))
        if version:
            # A list and the watch tell of one object, in any order.
            if version < self._versions.get(key, 0):
                return None
            self._versions[key] = version
        try:
            content = wire.to_bytes({"spec": data.get("spec")})
        except wire.WireError:
            content = wire.to_bytes({"spec": None})  # nothing here will ever be able to read it
        held = self._bytes.setdefault(key.namespace, {})
        if held.get(key.name) == content:
            return None
        held[key.name] = content
        if key.namespace in self._open:
            self._read(key, content, now)
        return key

    def gone(self, key: Key) -> None:
        self._versions.pop(key, None)
        held = self._bytes.get(key.namespace, {})
        held.pop(key.name, None)
        if not held:
            self._bytes.pop(key.namespace, None)
        self._open.get(key.namespace, {}).pop(key, None)
        self._forget(key)

    def open(self, namespace: str, now: float) -> None:
        """A pod of this namespace runs here: its policies matter."""
        if namespace not in self._open:
            self._open[namespace] = {}
            for name, content in sorted(self._bytes.get(namespace, {}).items()):
                self._read(Key(namespace, name), content, now)

    def close(self, namespace: str) -> None:
        for name in self._bytes.get(namespace, {}):
            self._forget(Key(namespace, name))
        self._open.pop(namespace, None)

    def held(self, namespace: str) -> dict[Key, int]:
        """All policies of a namespace that were told of, with their resourceVersions."""
        keys = (Key(namespace, name) for name in self._bytes.get(namespace, {}))
        return {key: self._versions.get(key, 0) for key in keys}

    def of(self, namespace: str) -> Mapping[Key, Published]:
        """The policies of an open namespace; empty for any other."""
        return self._open.get(namespace, {})

    def get(self, key: Key) -> Published | None:
        return self.of(key.namespace).get(key)

    def _read(self, key: Key, content: bytes, now: float) -> None:
        spec, known, what = json.loads(content)["spec"], self._open[key.namespace], f"policy {key}"
        try:
            document = wire.checked(spec)
            policy = wire.policy_from_wire(document)
            if policy.key != key:
                raise wire.WireError(f"it says that it is {policy.key}")
        except wire.WireError as error:
            rest = "its last good state stays"
            if key not in known or key in self._sealed:
                rest = self._never_understood(key, spec)
            self._complaints.say(what, f"{what}: {error}; {rest}", now)
            return
        self._forget(key)
        known[key] = Published(policy, _needs(document.get("needs")))

    def _never_understood(self, key: Key, spec: object) -> str:
        """Unknown is never empty: returns what happens to a policy of which there is no good state."""
        if not self.sealing:
            self.unread.add(key)
            return "nothing is changed on this node until it is understood"
        sealed = _sealed(key, spec)
        if sealed is None:
            return "whom it selects cannot be read either: IT IS NOT ENFORCED"
        self._open[key.namespace][key] = sealed
        self._sealed.add(key)
        return "the pods that it selects are isolated, and it allows nothing"

    def _forget(self, key: Key) -> None:
        self.unread.discard(key)
        self._sealed.discard(key)
        self._complaints.clear(f"policy {key}")


def _sealed(key: Key, spec: object) -> Published | None:
    """What a policy that is not understood means at least: it isolates whom it selects. None where that cannot be read."""
    if not isinstance(spec, dict):
        return None
    told = {name: spec.get(name) for name in ("podSelector", "directions")}
    rest = {"namespace": key.namespace, "name": key.name, "uid": "", "rules": [], "rejected": [], "digest": ""}
    try:
        return Published(wire.policy_from_wire({"schema": wire.SCHEMA, **told, **rest}))
    except wire.WireError:
        return None


def _needs(value: object) -> Mapping[str, int]:
    if not isinstance(value, dict):
        return {}
    return {str(name): version_number(str(version)) for name, version in value.items()}
