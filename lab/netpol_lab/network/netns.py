"""Network namespaces by name, for a process that owns the user namespace around them.

Names are files below /run/netns, which the supervisor has on a tmpfs of its own, so `ip -n NAME` finds them too.
Entering one changes the calling THREAD only; sockets and processes made meanwhile belong to that namespace for good.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from netpol_lab.errors import LabError

NETNS_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
MS_BIND = 0x1000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int = CLONE_NEWNET) -> None:
    """setns(2) for the calling thread."""
    _check(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0) -> None:
    """mount(2)."""
    done = _libc.mount(source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), None)
    _check(done, f"mount {target}")


def unmount(target: str) -> None:
    """umount2(2), lazily."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"unmount {target}")


class Namespaces:
    """The lab's network namespaces, by name. The empty name is the supervisor's own: the lab's "switch"."""

    def __init__(self) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._open: dict[str, int] = {"": self._home}

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def create(self, name: str) -> None:
        """Make the namespace `name`; its loopback is still down."""
        NETNS_DIR.mkdir(parents=True, exist_ok=True)
        target = NETNS_DIR / name
        target.touch()
        try:
            unshare(CLONE_NEWNET)
            mount("/proc/thread-self/ns/net", str(target), flags=MS_BIND)
            self._open[name] = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            setns(self._home)

    def remove(self, name: str) -> None:
        """Forget the namespace `name`; the kernel ends it when the last process and socket in it are gone."""
        os.close(self._open.pop(name))
        unmount(str(NETNS_DIR / name))
        (NETNS_DIR / name).unlink()

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """The calling thread is in `name` for the time of the block, which must not await."""
        setns(self._open[name])
        try:
            yield
        finally:
            setns(self._home)

    def run(self, name: str, command: Sequence[str], text: str | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run a command in `name` with `text` as its input; returns what it printed.

        Raises LabError with the command and its own words when it fails.
        """
        with self.inside(name):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **(env or {})},
            )
        out, err = process.communicate(text or "")
        if process.returncode != 0:
            raise LabError(
                f"{' '.join(command)} in {name or 'the switch'} failed ({process.returncode}): {err.strip() or out.strip()}"
            )
        return out

    def sysctl(self, name: str, settings: Mapping[str, str | int]) -> None:
        """Write sysctls of the namespace `name`; a name's parts are separated by slashes, as below /proc/sys."""
        with self.inside(name):
            for key, value in settings.items():
                path = f"/proc/sys/{key}"
                try:
                    with open(path, "w", encoding="ascii") as file:
                        file.write(str(value))
                except OSError as error:
                    raise LabError(f"setting {key}={value} in {name or 'the switch'}: {error.strerror}") from error
