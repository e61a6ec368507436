"""AddressSets as one agent knows them: slices that its watch brings, and slices that it fetched by the set's name.

In: AddressSet objects. Out: whole sets, parsed only when they are asked for. A slice that leaves the watch may only have left the
agent's span, so it stays until a fetch says that it is gone, or until nobody here needs the set. What cannot be understood keeps
its last good state.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from netpol_agent.inputs.problems import Complaints
from netpol_api.address_set import SET_LABEL
from netpol_api.api_objects import document_of, version_number
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet

Json = Mapping[str, Any]

PATIENCE = 1.0
"""Seconds for which a set may lack a slice before that is a problem: slices are written one after the other."""


@dataclass(slots=True)
class _Slice:
    """One object. `content` is its spec; `part` its members once they were asked for."""

    version: int
    index: int
    count: int
    content: bytes
    watched: bool
    part: AddressSet | None = None


@dataclass(slots=True)
class _Set:
    """`version`: the newest state of the set that was seen. `refused`: objects that are not understood. `good`: its last whole
    value; `stale`: the slices say something newer."""

    slices: dict[str, _Slice] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    version: int = 0
    good: AddressSet | None = None
    stale: bool = True


class SetStore:
    """Sets by name. `complaints` has what could not be understood, by `set NAME` and `addressset OBJECT`."""

    def __init__(self, complaints: Complaints) -> None:
        self._sets: dict[str, _Set] = {}
        self._owners: dict[str, str] = {}
        self._complaints = complaints

    # -- what comes in ---------------------------------------------------------------------------------

    def put(self, data: Json, now: float, watched: bool = True) -> str:
        """One slice as the API has it. Returns the set's name."""
        metadata = data["metadata"]
        object_name = str(metadata["name"])
        name = str((metadata.get("labels") or {}).get(SET_LABEL) or object_name.rpartition(".")[0])
        known = self._sets.setdefault(name, _Set())
        old, version = known.slices.get(object_name), version_number(metadata.get("resourceVersion"))
        if old is not None:
            old.watched = old.watched or watched
            if version and version <= old.version:
                return name
        try:
            document = document_of(data)
            index, count = document["slice"], document["slices"]
            if type(index) is not int or type(count) is not int or not 0 <= index < count or document["name"] != name:
                raise wire.WireError("slice, slices and name do not fit together")
            content = wire.to_bytes(document)
        except (wire.WireError, KeyError) as error:
            self._complaints.say(
                f"addressset {object_name}", f"addressset {object_name}: {error}; its last good state stays", now
            )
            known.refused.add(object_name)
            self._owners[object_name] = name
            return name
        self._complaints.clear(f"addressset {object_name}")
        known.refused.discard(object_name)
        self._owners[object_name] = name
        known.version = max(known.version, version)
        if old is not None and old.content == content:
            old.version = version  # only its labels changed, which say who needs it
            return name
        known.slices[object_name] = _Slice(version, index, count, content, watched or bool(old and old.watched))
        known.stale = True
        return name

    def left(self, object_name: str) -> str | None:
        """A slice that the watch does not bring any more. Returns the set's name."""
        self._complaints.clear(f"addressset {object_name}")
        name = self._owners.get(object_name)
        known = self._sets.get(name) if name is not None else None
        if known is not None:
            known.refused.discard(object_name)
            if object_name in known.slices:
                known.slices[object_name].watched = False
        return name

    def fetched(self, name: str, items: Iterable[Json], version: int, now: float) -> None:
        """All slices that the API has of one set, at `version`."""
        known = self._sets.setdefault(name, _Set())
        there = set()
        for data in items:
            self.put(data, now, watched=False)
            there.add(str(data["metadata"]["name"]))
        self._keep(known, {o for o, s in known.slices.items() if s.watched or o in there})
        known.version = max(known.version, version)

    def release(self, name: str) -> None:
        """Nobody here needs the set: only what the watch brings is kept, unparsed."""
        self._complaints.clear(f"set {name}")
        known = self._sets.get(name)
        if known is None:
            return
        self._keep(known, {o for o, s in known.slices.items() if s.watched})
        known.good, known.stale = None, True
        for held in known.slices.values():
            held.part = None
        if not known.slices:
            del self._sets[name]

    def _keep(self, known: _Set, names: set[str]) -> None:
        for object_name in known.slices.keys() - names:
            del known.slices[object_name]
            self._owners.pop(object_name, None)
            known.stale = True

    # -- what is asked ---------------------------------------------------------------------------------

    def watched(self, name: str) -> bool:
        """Whether all that is known of the set comes from the watch."""
        known = self._sets.get(name)
        return known is not None and bool(known.slices) and all(s.watched for s in known.slices.values())

    def version(self, name: str) -> int:
        """The newest state of the set that was seen; -1: nothing was ever heard of it."""
        known = self._sets.get(name)
        return -1 if known is None else known.version

    def unread(self, name: str) -> bool:
        """Whether the set is there, and nothing of it was ever understood."""
        known = self._sets.get(name)
        return known is not None and bool(known.refused) and known.good is None

    def current(self, name: str, now: float) -> bool:
        """Whether `value` is as new as what was seen."""
        return self.value(name, now) is not None and not self._sets[name].stale

    def value(self, name: str, now: float) -> AddressSet | None:
        """The set, or its last good state while it is not whole or not understood; None: there is none."""
        known = self._sets.get(name)
        if known is None or not (known.slices or known.refused):
            return None
        if known.stale and known.slices:
            self._refresh(name, known, now)
        return known.good

    def _refresh(self, name: str, known: _Set, now: float) -> None:
        slices = sorted(known.slices.values(), key=lambda s: s.index)
        count = slices[0].count
        if len(slices) != count or any((s.index, s.count) != (i, count) for i, s in enumerate(slices)):
            words = f"set {name}: {len(slices)} slices of {count} are here; its last good state stays"
            self._complaints.say(f"set {name}", words, now, PATIENCE)
            return
        try:
            parts = [_part(s) for s in slices]
        except wire.WireError as error:
            self._complaints.say(f"set {name}", f"set {name}: {error}; its last good state stays", now)
            return
        self._complaints.clear(f"set {name}")
        known.stale = False
        known.good = parts[0] if count == 1 else _merged(parts)


def _part(held: _Slice) -> AddressSet:
    """One slice parsed as a set of its own: a change of one slice must not cost the parsing of all others."""
    if held.part is None:
        held.part = wire.slices_from_wire([{**json.loads(held.content), "slice": 0, "slices": 1}])
    return held.part


def _merged(parts: list[AddressSet]) -> AddressSet:
    members: frozenset[Any] = frozenset().union(*(p.members for p in parts))  # one kind per set, by its spec
    return AddressSet(parts[0].name, parts[0].spec, members)
