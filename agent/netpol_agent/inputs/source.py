"""Where an agent's inputs come from: its node's pods and the policy IR.

`Source` is what the agent knows; `FolderSource` reads the lab's folders. What cannot be understood keeps its last
good state and is a problem in the report: unknown is never empty, and a removal counts only when a commit announces it.

    OBJECTS/Pod/NS/NAME.json   IR/addresssets/NAME.SLICE.json   IR/compiledpolicies/NS/NAME.json   */revision.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.node import NodeCompiler
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy
from netpol_compiler.reading.objects import parse_pod
from netpol_store.folder import Changes, FolderReader, FolderWatch, read_revision

PODS, SETS, POLICIES = "Pod", "addresssets", "compiledpolicies"


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed since the last one. The revisions are those that it brings the agent up to (0: unknown); `revisions`
    are the API server's, by kind, where it is the source."""

    pods_up: tuple[Pod, ...] = ()
    pods_down: tuple[Key, ...] = ()
    sets_up: tuple[AddressSet, ...] = ()
    sets_down: tuple[str, ...] = ()
    policies_up: tuple[CompiledPolicy, ...] = ()
    policies_down: tuple[Key, ...] = ()
    objects_revision: int = 0
    ir_revision: int = 0
    revisions: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether a pod, a set or a policy changed."""
        return any((self.pods_up, self.pods_down, self.sets_up, self.sets_down, self.policies_up, self.policies_down))

    def tell(self, compiler: NodeCompiler) -> None:
        """Hand all of it to a node's compiler, which works it out at its next flush."""
        for pod in self.pods_up:
            compiler.set_pod(pod)
        for key in self.pods_down:
            compiler.remove_pod(key)
        for address_set in self.sets_up:
            compiler.set_address_set(address_set)
        for policy in self.policies_up:
            compiler.set_policy(policy)
        for key in self.policies_down:
            compiler.remove_policy(key)
        for name in self.sets_down:
            compiler.remove_address_set(name)


class Source(Protocol):
    """An agent's inputs. Nothing may be programmed before `complete`."""

    @property
    def complete(self) -> bool:
        """Whether all inputs were read whole at least once."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be understood and so keeps its last good state, in words."""
        ...

    def changes(self) -> Delta:
        """Everything that changed since the last call."""
        ...

    def fileno(self) -> int:
        """Readable when `changes` has something to tell."""
        ...

    def drain(self) -> None:
        """Take note of what made `fileno` readable."""
        ...


@dataclass(slots=True)
class _Folder:
    """One folder and its commits. `held`: files that are gone, but no commit has said so yet."""

    root: Path
    reader: FolderReader
    revision: int = 0
    held: set[str] = field(default_factory=set)
    doubt: str = ""

    def scan(self) -> Changes:
        """What changed; removals only once a revision newer than the last one stands for them."""
        # Before the scan: what is committed while we scan is covered by the next one.
        revision = int(read_revision(self.root).get("revision", 0))
        changes = self.reader.scan()
        self.held = (self.held | set(changes.removed)) - set(changes.changed)
        committed = revision not in (0, self.revision)
        removed, self.held = (self.held, set()) if committed else (set(), self.held)
        self.revision = revision or self.revision
        self.doubt = (
            f"{self.root.name}: {len(self.held)} objects vanished without a commit; they stay in force" if self.held else ""
        )
        return Changes(changes.changed, tuple(sorted(removed)))


class FolderSource:
    """The source of the lab and of tests: two folders."""

    def __init__(self, node: str, objects: Path, ir: Path) -> None:
        self._node = node
        self._watch = FolderWatch(objects, ir)
        self._objects = _Folder(objects, FolderReader(objects, (PODS,)))
        self._ir = _Folder(ir, FolderReader(ir, (SETS, POLICIES)))
        self._mine: dict[str, Key] = {}
        self._slices: dict[str, dict[str, wire.Json]] = {}
        self._problems: dict[str, str] = {}

    @property
    def complete(self) -> bool:
        return self._objects.revision > 0 and self._ir.revision > 0

    @property
    def problems(self) -> tuple[str, ...]:
        doubts = (f.doubt for f in (self._objects, self._ir) if f.doubt)
        return (*doubts, *(self._problems[k] for k in sorted(self._problems)))

    def fileno(self) -> int:
        return self._watch.fileno()

    def drain(self) -> None:
        self._watch.wait(0)

    def changes(self) -> Delta:
        objects, ir = self._objects.scan(), self._ir.scan()
        pods_up, pods_down = self._pods(objects)
        sets_up, sets_down = self._sets(ir)
        policies = [p for r, c in sorted(ir.changed.items()) if r.startswith(f"{POLICIES}/") and (p := self._policy(r, c))]
        gone = [r for r in ir.removed if r.startswith(f"{POLICIES}/")]
        for relative in gone:
            self._problems.pop(relative, None)
        return Delta(
            tuple(pods_up),
            tuple(pods_down),
            tuple(sets_up),
            tuple(sets_down),
            tuple(policies),
            tuple(_key(r) for r in gone),
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
    return relative.removeprefix(f"{SETS}/").rsplit(".", 2)[0]
