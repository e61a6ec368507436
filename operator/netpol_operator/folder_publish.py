"""The IR into a folder, in the order that keeps every reader safe.

    IR/addresssets/NAME.SLICE.json    IR/compiledpolicies/NS/NAME.json    IR/revision.json

Sets are written before the policies that use them and removed after; the revision comes last. A new publisher
takes over what is there: files that hold the right bytes are not written again, and what nobody wants any more goes.
"""

from __future__ import annotations

from pathlib import Path

from netpol_compiler import wire
from netpol_compiler.ir import AddressSet, IRDelta
from netpol_compiler.objects import Key
from netpol_store.folder import FolderReader, FolderWriter

SETS = "addresssets"
POLICIES = "compiledpolicies"


class FolderPublisher:
    """The one writer of an IR folder."""

    def __init__(self, root: Path) -> None:
        self._writer = FolderWriter(root)
        self._placements: dict[str, dict[str, int]] = {}
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
            placement = {str(m): int(document["slice"]) for m in document["members"]}
            self._placements.setdefault(str(document["name"]), {}).update(placement)
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
            self._placements.pop(name, None)
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
        members = {wire.member_to_wire(m): m for m in address_set.members}
        placement = wire.distribute(members, self._placements.get(address_set.name, {}))
        count = max(placement.values(), default=0) + 1
        files = set()
        for index in range(count):
            document = wire.slice_to_wire(address_set, index, count, (members[m] for m, i in placement.items() if i == index))
            relative = f"{SETS}/{address_set.name}.{index}.json"
            self._write(relative, wire.to_bytes(document))
            files.add(relative)
        for relative in self._files.get(address_set.name, set()) - files:
            self._writer.remove(relative)
        self._placements[address_set.name] = placement
        self._files[address_set.name] = files


def _policy_file(key: Key) -> str:
    return f"{POLICIES}/{key.namespace}/{key.name}.json"
