"""The operator on a folder of objects: the whole of it, wired.

    OBJECTS/ --ObjectFolderSource--> Pipeline --flush--> FolderPublisher --> IR/

The same pipeline serves the Kubernetes API; only source and publisher differ. Nothing is published before the
objects are completely there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from netpol_compiler.policy.ir import IRDelta
from netpol_compiler.policy.pipeline import Pipeline
from netpol_operator.inputs.folder_source import ObjectFolderSource
from netpol_operator.publishing.folder_publisher import FolderPublisher
from netpol_store.folder import FolderWatch

log = logging.getLogger("npctl.operator")

POLL_SECONDS = 1.0
"""After so long the folder is read even if no change was announced."""


class FolderOperator:
    """One operator between two folders. `step` does all there is to do now."""

    def __init__(self, objects: Path, ir: Path) -> None:
        self._pipeline = Pipeline()
        self._source = ObjectFolderSource(objects, self._pipeline)
        self._publisher = FolderPublisher(ir)
        self._published_revision = -1
        self._logged: dict[str, tuple[str, ...]] = {}

    def step(self) -> bool:
        """Read, compile, publish. Returns whether anything was published."""
        if not self._source.complete:
            return False
        revision = self._source.feed()
        delta = self._pipeline.flush()
        self._log_problems()
        if not delta and revision == self._published_revision:
            return False
        self._publisher.publish(delta, revision)
        self._published_revision = revision
        if delta:
            log.info("objects %d published: %s", revision, summary(delta))
        return True

    def _log_problems(self) -> None:
        """One line per object and change, never a flood."""
        for relative, words in self._source.problems.items():
            if self._logged.get(relative) != words:
                for line in words:
                    log.warning("%s", line)
        self._logged = dict(self._source.problems)


def summary(delta: IRDelta) -> str:
    """A delta in a line: how many of each."""
    parts = {
        "sets changed": len(delta.sets_up),
        "policies changed": len(delta.policies_up),
        "policies removed": len(delta.policies_down),
        "sets removed": len(delta.sets_down),
    }
    return ", ".join(f"{n} {what}" for what, n in parts.items() if n)


def run_on_folder(objects: Path, ir: Path, stop: Callable[[], bool]) -> None:
    """Serve until `stop()` is true; it is asked at every change and at least every second."""
    watch = FolderWatch(objects)
    operator = FolderOperator(objects, ir)
    try:
        while not stop():
            operator.step()
            watch.wait(POLL_SECONDS)
    finally:
        watch.close()
