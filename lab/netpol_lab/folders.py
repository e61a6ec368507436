"""Where labs live on disk: $NPCTL_LAB_DIR/NAME, or $XDG_STATE_HOME/npctl/labs/NAME.

control.sock   the supervisor's socket            objects/ ir/ reports/   the store, as in a cluster
pid            of the process that started it     logs/                   one of each program, and the supervisor's

With an API server there are besides: kubeconfig (for this machine), kubeconfig-inside (for the lab's own namespaces), etcd/ (its
data), pki/ (keys and tokens, worth nothing outside the lab).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from netpol_lab import protocol
from netpol_lab.errors import LabError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def root() -> Path:
    """The folder of all labs of this user."""
    given = os.environ.get("NPCTL_LAB_DIR")
    if given:
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "npctl" / "labs"


def lab_folder(name: str) -> Path:
    """The folder of one lab. Raises LabError for a name that cannot be one."""
    if not _NAME.fullmatch(name):
        raise LabError(f"{name!r} is not a lab's name: use lower-case letters, digits and dashes, 40 characters at most")
    return root() / name


def is_alive(folder: Path) -> bool:
    """Whether a supervisor answers there."""
    try:
        protocol.connect(folder).close()
    except OSError:
        return False
    return True


def clean(folder: Path) -> None:
    """Remove the folder of a lab that has ended."""
    shutil.rmtree(folder, ignore_errors=True)


def labs() -> tuple[str, ...]:
    """The names of the labs that run; folders of dead ones are removed on the way."""
    if not root().is_dir():
        return ()
    alive = []
    for folder in sorted(root().iterdir()):
        if is_alive(folder):
            alive.append(folder.name)
        elif folder.is_dir() and _NAME.fullmatch(folder.name) and not is_starting(folder):
            clean(folder)
    return tuple(alive)


def is_starting(folder: Path) -> bool:
    """Whether a process that was started for the folder still runs (its socket may not be there yet)."""
    try:
        pid = int((folder / "pid").read_text())
        return b"netpol_lab.supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False
