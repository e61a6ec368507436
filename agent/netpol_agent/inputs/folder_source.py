"""An agent's inputs from the lab's folders.

In: two folders and their commits. Out: a `Delta` for each scan. A removal counts only when a commit announces it.

    OBJECTS/Pod/NS/NAME.json   IR/addresssets/NAME.SLICE.json   IR/compiledpolicies/NS/NAME.json   */revision.json

    a file of a folder:  present --vanished--> vanished, still in force --commit--> removed
                            ^----written again-----'
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from netpol_agent.inputs.source import Delta
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy
from netpol_compiler.policy.slices import set_of_slice
from netpol_compiler.reading.objects import parse_pod
from netpol_store.folder import Changes, FolderReader, FolderWatch, read_revision

PODS, SETS, POLICIES = "Pod", "addresssets", "compiledpolicies"


class _CommittedFolder:
    """One folder and its commits."""

    def __init__(self, root: Path, kinds: tuple[str, ...]) -> None:
        self.revision = 0
        """The last commit that was read; 0: none yet."""
        self.vanished: set[str] = set()
        """Files that are not there any more, of which no commit has said so yet."""
        self._root = root
        """The folder, which holds the commits' revision."""
        self._reader = FolderReader(root, kinds)
        """Tells which files changed since its last scan."""

    def scan(self) -> Changes:
        """What changed; removals only once a revision newer than the last one stands for them."""
        # Before the scan: what is committed while we scan is covered by the next one.
        revision = int(read_revision(self._root).get("revision", 0))
        changes = self._reader.scan()
        self.vanished = (self.vanished | set(changes.removed)) - set(changes.changed)
        committed = revision not in (0, self.revision)
        removed, self.vanished = (self.vanished, set()) if committed else (set(), self.vanished)
        self.revision = revision or self.revision
        return Changes(changes.changed, tuple(sorted(removed)))

    @property
    def problem(self) -> str:
        """What cannot be right about the folder; empty for nothing."""
        count = len(self.vanished)
        return f"{self._root.name}: {count} objects vanished without a commit; they stay in force" if count else ""


class FolderSource:
    """The source of the lab and of tests: two folders."""

    def __init__(self, node: str, objects: Path, ir: Path) -> None:
        self._node = node
        """Only pods of this node matter."""
        self._watch = FolderWatch(objects, ir)
        """Its descriptor is readable after a change in one of the folders."""
        self._objects = _CommittedFolder(objects, (PODS,))
        """Pods of all nodes."""
        self._ir = _CommittedFolder(ir, (SETS, POLICIES))
        """Slices of sets, and policies."""
        self._mine: dict[str, Key] = {}
        """This node's pods, by file."""
        self._slices: dict[str, dict[str, wire.Json]] = {}
        """The last good documents of each set, by set and file."""
        self._problems: dict[str, str] = {}
        """What is not understood, in words, by file or set."""

    @property
    def complete(self) -> bool:
        return self._objects.revision > 0 and self._ir.revision > 0

    @property
    def problems(self) -> tuple[str, ...]:
        vanished = (f.problem for f in (self._objects, self._ir) if f.problem)
        return (*vanished, *(self._problems[k] for k in sorted(self._problems)))

    def fileno(self) -> int:
        return self._watch.fileno()

    def drain(self) -> None:
        self._watch.wait(0)

    def changes(self) -> Delta:
        objects, ir = self._objects.scan(), self._ir.scan()
        pods_up, pods_down = self._pods(objects)
        sets_up, sets_down = self._sets(ir)
        policies = [p for r, c in sorted(ir.changed.items()) if r.startswith(f"{POLICIES}/") and (p := self._policy(r, c))]
        removed = [r for r in ir.removed if r.startswith(f"{POLICIES}/")]
        for relative in removed:
            self._problems.pop(relative, None)
        return Delta(
            tuple(pods_up),
            tuple(pods_down),
            tuple(sets_up),
            tuple(sets_down),
            tuple(policies),
            tuple(_key(r) for r in removed),
            self._objects.revision,
            self._ir.revision,
        )

    def _pods(self, changes: Changes) -> tuple[list[Pod], list[Key]]:
        up: list[Pod] = []
        down: list[Key] = []
        for relative, content in sorted(changes.changed.items()):
            pod = self._pod(relative, content)
            if pod is not None and pod.node == self._node:
                self._mine[relative] = pod.key
                up.append(pod)
            elif pod is not None and relative in self._mine:
                down.append(self._mine.pop(relative))
        for relative in changes.removed:
            self._problems.pop(relative, None)
            if relative in self._mine:
                down.append(self._mine.pop(relative))
        return up, down

    def _pod(self, relative: str, content: bytes) -> Pod | None:
        """The pod in a file; None keeps what we had."""
        # Most pods run elsewhere: their files are told apart before anything is parsed.
        if self._node.encode() not in content and relative not in self._mine:
            return None
        try:
            data: Any = json.loads(content)
        except (ValueError, RecursionError) as error:
            self._problems[relative] = f"{relative}: not JSON ({error}); its last good state stays"
            return None
        pod, rejected = parse_pod(data if isinstance(data, dict) else {})
        if pod is not None and pod.node != self._node:
            self._problems.pop(relative, None)
        elif rejected:
            self._problems[relative] = "; ".join(r.words for r in rejected)
        else:
            self._problems.pop(relative, None)
        return pod

    def _sets(self, changes: Changes) -> tuple[list[AddressSet], list[str]]:
        """Slices of one set are merged by its name; a set that is not whole keeps its last good state."""
        changed: set[str] = set()
        for relative, content in changes.changed.items():
            if relative.startswith(f"{SETS}/"):
                changed.add(_set_name(relative))
                try:
                    self._slices.setdefault(_set_name(relative), {})[relative] = wire.from_bytes(content)
                    self._problems.pop(relative, None)
                except wire.WireError as error:
                    self._problems[relative] = f"{relative}: {error}; the set's last good state stays"
        for relative in changes.removed:
            if relative.startswith(f"{SETS}/"):
                changed.add(_set_name(relative))
                self._slices.get(_set_name(relative), {}).pop(relative, None)
                self._problems.pop(relative, None)
        up: list[AddressSet] = []
        down: list[str] = []
        for name in sorted(changed):
            self._problems.pop(name, None)
            if not self._slices.get(name):
                if self._slices.pop(name, None) is not None:
                    down.append(name)
            elif not any(p.startswith(f"{SETS}/{name}.") for p in self._problems):
                try:
                    up.append(wire.slices_from_wire(list(self._slices[name].values())))
                except wire.WireError as error:
                    self._problems[name] = f"set {name}: {error}; its last good state stays"
        return up, down

    def _policy(self, relative: str, content: bytes) -> CompiledPolicy | None:
        try:
            policy = wire.policy_from_wire(wire.from_bytes(content))
        except wire.WireError as error:
            self._problems[relative] = f"{relative}: {error}; its last good state stays"
            return None
        self._problems.pop(relative, None)
        return policy


def _key(relative: str) -> Key:
    _, namespace, name = relative.split("/", 2)
    return Key(namespace, name.removesuffix(".json"))


def _set_name(relative: str) -> str:
    name = relative.removeprefix(f"{SETS}/").removesuffix(".json")
    return set_of_slice(name) or name
