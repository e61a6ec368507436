"""What this machine itself has: links, addresses, rules, mounts, processes and sockets; a lab must change none of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from netpol_lab import machine

COMMANDS = (
    ("ip", "-details", "link"),
    ("ip", "address"),
    ("ip", "route", "show", "table", "all"),
    ("ip", "netns"),
    ("iptables-legacy-save",),
    ("ip6tables-legacy-save",),
    ("iptables-nft-save",),
    ("nft", "list", "ruleset"),
    ("ipset", "save"),
)


def host_state() -> dict[str, str]:
    """What the machine itself has; commands that this user may not run there say the same each time."""
    env = {**os.environ, "PATH": machine.search_path(), "LC_ALL": "C"}
    found = {}
    for command in COMMANDS:
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        # Comment lines carry the time of day.
        found[" ".join(command)] = "\n".join(x for x in (done.stdout + done.stderr).splitlines() if not x.startswith("#"))
    found["mounts"] = Path("/proc/self/mountinfo").read_text()
    found["forwarding"] = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    return found


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names the lab's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended meanwhile
    return found


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, though nobody has asked how yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def host_sockets_of(pids: list[int]) -> list[tuple[str, int]]:
    """(address, port) of the TCP sockets that these processes have in the calling process's network."""
    inodes = {_inode(link) for pid in pids for link in _links(pid)}
    found = []
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes:
            address, port = fields[1].split(":")
            octets = [str(int(address[i : i + 2], 16)) for i in (6, 4, 2, 0)]
            found.append((".".join(octets), int(port, 16)))
    rows = Path("/proc/self/net/tcp6").read_text().splitlines()[1:]
    return found + [(row.split()[1], 0) for row in rows if row.split()[9] in inodes]


def _links(pid: int) -> list[str]:
    try:
        return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def _inode(link: str) -> str:
    return link.removeprefix("socket:[").removesuffix("]") if link.startswith("socket:[") else ""
