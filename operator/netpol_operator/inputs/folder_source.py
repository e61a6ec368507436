"""Kubernetes objects in a folder as the operator's source: files in, calls to the pipeline out.

    OBJECTS/Namespace/_/NAME.json   OBJECTS/Pod/NS/NAME.json   OBJECTS/NetworkPolicy/NS/NAME.json

The folder stands in for the API server (lab, tests). An object that cannot be read keeps its last good state,
and `problems` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from netpol_compiler.model.objects import Key, Namespace, Pod, Policy, Rejected
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.reading.objects import parse_namespace, parse_pod, parse_policy
from netpol_store.folder import FolderReader, read_revision

KINDS = ("Namespace", "Pod", "NetworkPolicy")

Value = Namespace | Pod | Policy
_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Value | None, tuple[Rejected, ...]]]] = {
    "Namespace": parse_namespace,
    "Pod": parse_pod,
    "NetworkPolicy": parse_policy,
}


class ObjectFolderSource:
    """Feeds a pipeline from a folder. `problems`: relative path -> what is wrong with that object, in words."""

    def __init__(self, root: Path, pipeline: Pipeline) -> None:
        self.root = root
        self.problems: dict[str, tuple[str, ...]] = {}
        self._pipeline = pipeline
        self._reader = FolderReader(root, KINDS)

    @property
    def complete(self) -> bool:
        """Whether the folder was ever committed: before that, what is missing may only not be written yet."""
        return bool(read_revision(self.root))

    def feed(self) -> int:
        """Hand every change since the last call to the pipeline. Returns the revision that this covers at least."""
        # Read before the scan: what is committed while we scan is covered by the next call.
        revision = int(read_revision(self.root).get("revision", 0))
        changes = self._reader.scan()
        for relative, content in changes.changed.items():
            self._changed(relative, content)
        for relative in changes.removed:
            self._removed(relative)
        return revision

    def _changed(self, relative: str, content: bytes) -> None:
        kind = relative.partition("/")[0]
        try:
            data = json.loads(content)
            value, rejected = _PARSERS[kind](data if isinstance(data, dict) else {})
        except (ValueError, RecursionError) as error:
            value, rejected = None, ()
            self.problems[relative] = (f"{relative}: not JSON ({error}); its last good state stays",)
        else:
            self._note(relative, tuple(r.words for r in rejected))
        if isinstance(value, Namespace):
            self._pipeline.set_namespace(value)
        elif isinstance(value, Pod):
            self._pipeline.set_pod(value)
        elif isinstance(value, Policy):
            self._pipeline.set_policy(value)

    def _note(self, relative: str, words: tuple[str, ...]) -> None:
        if words:
            self.problems[relative] = words
        else:
            self.problems.pop(relative, None)

    def _removed(self, relative: str) -> None:
        self.problems.pop(relative, None)
        kind, namespace, name = relative.removesuffix(".json").split("/", 2)
        if kind == "Namespace":
            self._pipeline.remove_namespace(name)
        elif kind == "Pod":
            self._pipeline.remove_pod(Key(namespace, name))
        else:
            self._pipeline.remove_policy(Key(namespace, name))
