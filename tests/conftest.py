"""What all tests share: those marked `kernel` run where the machine allows namespaces, and say so where it does not."""

from __future__ import annotations

import os
import subprocess
from functools import cache

import pytest

_PROBE = ("unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c", "ip link set lo up && mount -t tmpfs none /mnt")


@cache
def _namespaces_refused() -> str:
    """Why this machine lets nobody be root of namespaces of their own; empty if it does."""
    try:
        probe = subprocess.run(_PROBE, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    return "" if probe.returncode == 0 else probe.stderr.strip() or f"{_PROBE[0]} failed with {probe.returncode}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a kernel test where namespaces are forbidden; fail it there if NPCTL_REQUIRE_KERNEL is set, as in CI."""
    if item.get_closest_marker("kernel") is None or not (reason := _namespaces_refused()):
        return
    message = f"this machine forbids user namespaces: {reason}"
    if os.environ.get("NPCTL_REQUIRE_KERNEL"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
