"""The IR into a folder, in the order that keeps every reader safe.

    IR/addresssets/NAME.SLICE.json    IR/compiledpolicies/NS/NAME.json    IR/revision.json

Sets are written before the policies that use them and removed after; the revision comes last. A new publisher
takes over what is there: files that hold the right bytes are not written again, and what nobody wants any more goes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet, IRDelta
from netpol_compiler.policy.slices import Slices, slice_name
from netpol_store.folder import FolderReader, FolderWriter

SETS = "addresssets"
POLICIES = "compiledpolicies"


class FolderPublisher:
    """The one writer of an IR folder."""

    def __init__(self, root: Path) -> None:
        self._writer = FolderWriter(root)
        self._slices: dict[str, Slices[Any]] = {}
        self._files: dict[str, set[str]] = {}
        self._leftovers: set[str] = set()
        for relative, content in FolderReader(root, (SETS, POLICIES)).scan().changed.items():
            self._leftovers.add(relative)
            self._adopt(relative, content)

    def _adopt(self, relative: str, content: bytes) -> None:
        """Remember which slice holds which member, so that a restart moves none."""
        if not relative.startswith(SETS):
            return
        try:
            document = wire.from_bytes(content)
            slices = self._slices.setdefault(str(document["name"]), Slices())
            slices.mirror(int(document["slice"]), wire.members_from_wire(document))
        except (wire.WireError, KeyError, TypeError, ValueError):
            # Unreadable: it is written anew if it is still wanted, and goes with the leftovers if not.
            return

    def publish(self, delta: IRDelta, objects_revision: int) -> int:
        """Write a delta and commit. The first call also removes what an earlier run left and nobody wants."""
        for address_set in delta.sets_up:
            self._write_set(address_set)
        for policy in delta.policies_up:
            self._write(_policy_file(policy.key), wire.to_bytes(wire.policy_to_wire(policy)))
        for key in delta.policies_down:
            self._writer.remove(_policy_file(key))
        for name in delta.sets_down:
            self._slices.pop(name, None)
            for relative in self._files.pop(name, ()):
                self._writer.remove(relative)
        for relative in sorted(self._leftovers, reverse=True):  # policies before sets
            self._writer.remove(relative)
        self._leftovers.clear()
        return self._writer.commit(objects_revision=objects_revision, schema=wire.SCHEMA)

    def _write(self, relative: str, content: bytes) -> None:
        self._leftovers.discard(relative)
        self._writer.write(relative, content)

    def _write_set(self, address_set: AddressSet) -> None:
        slices = self._slices.setdefault(address_set.name, Slices())
        slices.update(address_set.members)
        files = set()
        for index, members in enumerate(slices.parts):
            relative = f"{SETS}/{slice_name(address_set.name, index)}.json"
            document = wire.slice_to_wire(address_set, index, len(slices.parts), members)
            self._write(relative, wire.to_bytes(document))
            files.add(relative)
        for relative in self._files.get(address_set.name, set()) - files:
            self._writer.remove(relative)
        self._files[address_set.name] = files


def _policy_file(key: Key) -> str:
    return f"{POLICIES}/{key.namespace}/{key.name}.json"
