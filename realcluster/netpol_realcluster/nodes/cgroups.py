"""The one thing of a cluster that does not end with its processes: the control groups that its pods are in.

In: the cluster's folder, whose hash names its groups. Out: they are made, and later gone, in every mounted hierarchy.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from netpol_lab.errors import LabTimeout
from netpol_lab.topology.model import short_hash

_LIMIT = 20.0
_POLL = 0.02


def group_of(folder: Path) -> str:
    """The group below which all nodes have theirs; another one for each cluster."""
    return f"npctl-{short_hash(str(folder), 12)}"


def make(group: str) -> None:
    """Make the group, in every hierarchy: a kubelet wants that below which it is to make its own to be there."""
    for place in _hierarchies():
        (place / group).mkdir(parents=True)


def present(group: str) -> list[Path]:
    """The group's folders, one for each hierarchy that has it."""
    return [place / group for place in _hierarchies() if (place / group).is_dir()]


def remove(group: str) -> None:
    """Remove the group with all below it. Its processes have ended; the kernel may take a moment to notice. Raises LabTimeout."""
    deadline = time.monotonic() + _LIMIT
    while left := [top for top in present(group) if not _removed(top)]:
        if time.monotonic() > deadline:
            raise LabTimeout(f"the kernel does not let go of {', '.join(map(str, left))} within {_LIMIT:g} s")
        time.sleep(_POLL)


def _removed(top: Path) -> bool:
    try:
        for folder, _, _ in os.walk(top, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True


def _hierarchies() -> list[Path]:
    lines = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return [Path(fields[1]) for fields in lines if fields[2] in ("cgroup", "cgroup2")]
