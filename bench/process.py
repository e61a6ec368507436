"""What a running process costs, as the kernel counts it in /proc. Bytes and seconds; raises OSError when it has ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME = 11
"""The place of utime in /proc/PID/stat behind the program's name, which may hold spaces; stime, cutime and cstime follow."""


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes. `peak`: the most that was ever resident; `share`: resident, with shared pages divided by those who share them."""

    resident: int
    peak: int
    share: int


def cpu_seconds(pid: int) -> float:
    """Processor time so far, with that of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[_UTIME : _UTIME + 4])) / _TICKS


def memory(pid: int) -> Memory:
    status, rollup = _fields(Path(f"/proc/{pid}/status")), _fields(Path(f"/proc/{pid}/smaps_rollup"))
    return Memory(status["VmRSS"], status["VmHWM"], rollup["Pss"])


def _fields(path: Path) -> dict[str, int]:
    """The lines that give kilobytes, in bytes."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words and words[-1] == "kB"}
