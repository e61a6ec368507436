"""A folder as the shared store: the embedded stand-in for the Kubernetes API (lab, tests, files).

Writers put whole files in place by rename and then commit a revision; readers wait for a revision and
ask what changed since they last looked. One writer per folder; any number of readers.

    ROOT/<kind>/<...>.json    one object or one IR value a file
    ROOT/revision.json        {"revision": N, ...}: written last, so what it counts is complete
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inotify_simple import INotify, flags

REVISION_FILE = "revision.json"


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since the last scan: relative path -> content, and relative paths that are gone."""

    changed: dict[str, bytes] = field(default_factory=dict)
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


class FolderWriter:
    """The one writer of a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, relative: str, content: bytes) -> bool:
        """Put `content` in place atomically. Returns False when the file already holds it."""
        path = self.root / relative
        if path.exists() and path.read_bytes() == content:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        # The temporary name starts with a dot: readers pass over it.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
        return True

    def remove(self, relative: str) -> bool:
        """Remove one file. Returns False when there was none."""
        try:
            (self.root / relative).unlink()
        except FileNotFoundError:
            return False
        return True

    def commit(self, **facts: Any) -> int:
        """Announce all that was written: the next revision number, with `facts` beside it."""
        revision = int(read_revision(self.root).get("revision", 0)) + 1
        self.write(REVISION_FILE, json.dumps({"revision": revision, **facts}, sort_keys=True).encode())
        return revision


def read_revision(root: Path) -> dict[str, Any]:
    """The content of the revision file; empty when nothing was ever committed."""
    try:
        content = json.loads((root / REVISION_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class FolderReader:
    """One reader of a folder, which remembers what it has seen."""

    def __init__(self, root: Path, kinds: tuple[str, ...] | None = None) -> None:
        """`kinds`: the top folders to look at; None for all."""
        self.root = root
        self._kinds = kinds
        self._seen: dict[str, tuple[int, int, int]] = {}

    def scan(self) -> Changes:
        """Everything that changed since the last call (the first call: everything there is)."""
        now: dict[str, tuple[int, int, int]] = {}
        changed: dict[str, bytes] = {}
        for relative, path in self._files():
            try:
                stat = path.stat()
                # A rename gives a new inode, so two writes in one clock tick are still told apart.
                now[relative] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                if self._seen.get(relative) != now[relative]:
                    changed[relative] = path.read_bytes()
            except FileNotFoundError:
                now.pop(relative, None)
        removed = tuple(sorted(set(self._seen) - set(now)))
        self._seen = now
        return Changes(changed, removed)

    def _files(self) -> list[tuple[str, Path]]:
        found: list[tuple[str, Path]] = []
        tops = [self.root / k for k in self._kinds] if self._kinds is not None else [self.root]
        for top in tops:
            for folder, _, names in os.walk(top):
                for name in names:
                    if name.endswith(".json") and not name.startswith(".") and name != REVISION_FILE:
                        path = Path(folder) / name
                        found.append((str(path.relative_to(self.root)), path))
        return found


class FolderWatch:
    """Tells when any of several folders commits a revision."""

    def __init__(self, *roots: Path) -> None:
        self._inotify = INotify()
        for root in roots:
            root.mkdir(parents=True, exist_ok=True)
            self._inotify.add_watch(str(root), flags.MOVED_TO)

    def fileno(self) -> int:
        """For select: readable when something was committed."""
        number: int = self._inotify.fileno()
        return number

    def wait(self, seconds: float) -> bool:
        """Block until a commit, `seconds` at most. Returns whether there was one."""
        events = self._inotify.read(timeout=int(seconds * 1000), read_delay=0)
        return any(event.name == REVISION_FILE for event in events)

    def close(self) -> None:
        self._inotify.close()
