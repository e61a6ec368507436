"""Run a test's body in user, network and mount namespaces of its own: no root needed, nothing of the host touched.

    @isolated
    def test_something(...): ...

The body runs in a forked process with an empty /run (so its xtables lock is its own) and empty tables. Where
namespaces are forbidden the test is skipped, with the reason.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pickle
import subprocess
import traceback
from collections.abc import Callable
from typing import Any

import pytest

_NEWNS, _NEWUSER, _NEWNET = 0x00020000, 0x10000000, 0x40000000
_REC_PRIVATE = 0x4000 | 0x40000


@functools.lru_cache(maxsize=1)
def forbidden() -> str:
    """Why namespaces cannot be made here; empty when they can."""
    done = subprocess.run(["unshare", "-Urmn", "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"this machine forbids namespaces: {done.stderr.strip()}"


def isolated(body: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for tests; arguments (fixtures, parameters) are passed on."""

    @functools.wraps(body)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        if reason := forbidden():
            pytest.skip(reason)
        run_isolated(lambda: body(*args, **kwargs))

    return wrapper


def run_isolated(body: Callable[[], object]) -> Any:
    """What `body` returns (it must pickle); its failure is raised here as an AssertionError with its traceback."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(body, write)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        content = file.read()
    os.waitpid(child, 0)
    if not content:
        raise AssertionError("the isolated process died without a word")
    good, value = pickle.loads(content)
    if not good:
        raise AssertionError(value)
    return value


def _child(body: Callable[[], object], write: int) -> None:
    try:
        _enter()
        answer: tuple[bool, object] = (True, body())
    except BaseException:  # whatever ends the body is told to the parent, which raises it
        answer = (False, traceback.format_exc())
    try:
        with os.fdopen(write, "wb") as file:
            pickle.dump(answer, file)
    finally:
        os._exit(0)


def _enter() -> None:
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWUSER | _NEWNS | _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    for kind, target, flags in ((None, b"/", _REC_PRIVATE), (b"tmpfs", b"/run", 0), (b"sysfs", b"/sys", 0)):
        if libc.mount(b"none", target, kind, ctypes.c_ulong(flags), None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {target.decode()}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
