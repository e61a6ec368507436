"""AddressSets as one agent knows them: slices that its watch brings, and slices that it fetched by the set's name.

In: AddressSet objects. Out: whole sets, decoded only when they are asked for. A slice that leaves the watch may only have left
the agent's span, so it stays until a fetch says that it was deleted, or until nobody here needs the set. What cannot be
understood keeps its last good state.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from netpol_agent.inputs.input_problems import InputProblems
from netpol_api.resources import SET_LABEL, document_of, version_number
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet
from netpol_compiler.policy.slices import set_of_slice

Json = Mapping[str, Any]

SLICE_GRACE_SECONDS = 1.0
"""For which a set may lack a slice before that is a problem: slices are written one after the other."""


@dataclass(slots=True)
class _Slice:
    """One object."""

    version: int
    """Its resourceVersion."""
    index: int
    """Its place among the set's slices."""
    count: int
    """How many slices the set has, as this one says."""
    content: bytes
    """Its spec."""
    watched: bool
    """Whether the watch brings its changes."""
    part: AddressSet | None = None
    """Its members, once they were asked for."""


@dataclass(slots=True)
class _CachedSet:
    """What is known of one set."""

    slices: dict[str, _Slice] = field(default_factory=dict)
    """The last good state of each slice, by object."""
    refused: set[str] = field(default_factory=set)
    """Objects that are not understood."""
    version: int = 0
    """The newest state of the set that was seen."""
    good: AddressSet | None = None
    """Its last whole value."""
    stale: bool = True
    """Whether the slices say something newer than `good`."""


class SetCache:
    """Sets by name."""

    def __init__(self, problems: InputProblems) -> None:
        self._sets: dict[str, _CachedSet] = {}
        """By set."""
        self._owners: dict[str, str] = {}
        """The set of each object."""
        self._problems = problems
        """Where what is not understood is reported, by `set NAME` and `addressset OBJECT`."""

    # -- what comes in ---------------------------------------------------------------------------------

    def put(self, data: Json, now: float, watched: bool = True) -> str:
        """One slice as the API has it. Returns the set's name."""
        metadata = data["metadata"]
        object_name = str(metadata["name"])
        name = str((metadata.get("labels") or {}).get(SET_LABEL) or set_of_slice(object_name))
        cached = self._sets.setdefault(name, _CachedSet())
        old, version = cached.slices.get(object_name), version_number(metadata.get("resourceVersion"))
        if old is not None:
            old.watched = old.watched or watched
            if version and version <= old.version:
                return name
        what = f"addressset {object_name}"
        self._owners[object_name] = name
        try:
            index, count, content = _checked_slice(data, name)
        except (wire.WireError, KeyError) as error:
            self._problems.report(what, f"{what}: {error}; its last good state stays", now)
            cached.refused.add(object_name)
            return name
        self._problems.clear(what)
        cached.refused.discard(object_name)
        cached.version = max(cached.version, version)
        if old is not None and old.content == content:
            old.version = version  # only its labels changed, which say who needs it
            return name
        cached.slices[object_name] = _Slice(version, index, count, content, watched or bool(old and old.watched))
        cached.stale = True
        return name

    def unwatch(self, object_name: str) -> str | None:
        """A slice that the watch does not bring any more. Returns the set's name."""
        self._problems.clear(f"addressset {object_name}")
        name = self._owners.get(object_name)
        cached = self._sets.get(name) if name is not None else None
        if cached is not None:
            cached.refused.discard(object_name)
            if object_name in cached.slices:
                cached.slices[object_name].watched = False
        return name

    def fetched(self, name: str, items: Iterable[Json], version: int, now: float) -> None:
        """All slices that the API has of one set, at `version`."""
        cached = self._sets.setdefault(name, _CachedSet())
        there = set()
        for data in items:
            self.put(data, now, watched=False)
            there.add(str(data["metadata"]["name"]))
        self._keep(cached, {o for o, s in cached.slices.items() if s.watched or o in there})
        cached.version = max(cached.version, version)

    def release(self, name: str) -> None:
        """Nobody here needs the set: only what the watch brings is kept, not decoded."""
        self._problems.clear(f"set {name}")
        cached = self._sets.get(name)
        if cached is None:
            return
        self._keep(cached, {o for o, s in cached.slices.items() if s.watched})
        cached.good, cached.stale = None, True
        for part in cached.slices.values():
            part.part = None
        if not cached.slices:
            del self._sets[name]

    def _keep(self, cached: _CachedSet, names: set[str]) -> None:
        for object_name in cached.slices.keys() - names:
            del cached.slices[object_name]
            self._owners.pop(object_name, None)
            cached.stale = True

    # -- what is asked ---------------------------------------------------------------------------------

    def watched(self, name: str) -> bool:
        """Whether all that is known of the set comes from the watch."""
        cached = self._sets.get(name)
        return cached is not None and bool(cached.slices) and all(s.watched for s in cached.slices.values())

    def unread(self, name: str) -> bool:
        """Whether the set is there, and nothing of it was ever understood."""
        cached = self._sets.get(name)
        return cached is not None and bool(cached.refused) and cached.good is None

    def version(self, name: str, now: float) -> int:
        """As of which resourceVersion `value` is known; -1: there is none, or something newer was seen that is not whole."""
        return -1 if self.value(name, now) is None or self._sets[name].stale else self._sets[name].version

    def value(self, name: str, now: float) -> AddressSet | None:
        """The set, or its last good state while it is not whole or not understood; None: there is none."""
        cached = self._sets.get(name)
        if cached is None or not (cached.slices or cached.refused):
            return None
        if cached.stale and cached.slices:
            self._refresh(name, cached, now)
        return cached.good

    def _refresh(self, name: str, cached: _CachedSet, now: float) -> None:
        slices = sorted(cached.slices.values(), key=lambda s: s.index)
        count, what = slices[0].count, f"set {name}"
        if len(slices) != count or any((s.index, s.count) != (i, count) for i, s in enumerate(slices)):
            words = f"{what}: {len(slices)} slices of {count} are here; its last good state stays"
            self._problems.report(what, words, now, SLICE_GRACE_SECONDS)
            return
        try:
            parts = [_part(s) for s in slices]
        except wire.WireError as error:
            self._problems.report(what, f"{what}: {error}; its last good state stays", now)
            return
        self._problems.clear(what)
        cached.stale = False
        cached.good = parts[0] if count == 1 else _merged(parts)


def _checked_slice(data: Json, name: str) -> tuple[int, int, bytes]:
    """Index, count and spec of a slice of set `name`. Raises WireError or KeyError."""
    document = document_of(data)
    index, count = document["slice"], document["slices"]
    if type(index) is not int or type(count) is not int or not 0 <= index < count or document["name"] != name:
        raise wire.WireError("slice, slices and name do not fit together")
    return index, count, wire.to_bytes(document)


def _part(part: _Slice) -> AddressSet:
    """One slice decoded as a set of its own: a change of one slice must not cost the decoding of all others."""
    if part.part is None:
        part.part = wire.slices_from_wire([{**json.loads(part.content), "slice": 0, "slices": 1}])
    return part.part


def _merged(parts: list[AddressSet]) -> AddressSet:
    members: frozenset[Any] = frozenset().union(*(p.members for p in parts))  # one kind per set, by its spec
    return AddressSet(parts[0].name, parts[0].spec, members)
