"""Processes, told apart from later ones of the same number, and whose children they are.

In: process ids of this machine. Out: what /proc says of them just now; one that has ended (a zombie too) is not there.
"""

from __future__ import annotations

from pathlib import Path

from netpol_lab.errors import LabMissing

Process = tuple[int, str]
"""A process id and when it was started, in the kernel's ticks."""


def since(pid: int) -> str:
    """When the process was started; empty when it is not there."""
    fields = _fields(pid)
    return fields[19] if fields else ""


def below(pid: int) -> set[Process]:
    """The process itself and all that descend from it."""
    parents = {
        int(p.name): int(fields[1]) for p in Path("/proc").iterdir() if p.name.isdigit() if (fields := _fields(int(p.name)))
    }
    family = {pid} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {(member, started) for member in family if (started := since(member))}


def only_child(pid: int) -> int:
    """Raises LabMissing when it has none."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _fields(int(entry.name))) and int(fields[1]) == pid:
            return int(entry.name)
    raise LabMissing("the cluster has just ended")


def _fields(pid: int) -> list[str]:
    """Those of /proc/PID/stat from the state on; the name before it may hold anything."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields
