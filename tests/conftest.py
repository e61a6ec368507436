"""What all tests share: those marked `kernel` run where the machine allows namespaces, and say so where it does not; random
tests are marked `searching`, and search as far as the profile says (`support/search.py`)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import is_hypothesis_test
from xdist.scheduler import LoadScopeScheduling

from search import SECONDS, load_profiles, shuffled, time_is_over

load_profiles()

TOGETHER = (
    "tests/cluster/",
    "tests/realcluster/",
    "tests/project/test_image.py",
    "tests/project/test_release.py",
    "tests/project/test_layout.py",
)
_PROBE = ("unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c", "ip link set lo up && mount -t tmpfs none /mnt")


@cache
def _namespaces_refused() -> str:
    """Why this machine lets nobody be root of namespaces of their own; empty if it does."""
    try:
        probe = subprocess.run(_PROBE, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    return "" if probe.returncode == 0 else probe.stderr.strip() or f"{_PROBE[0]} failed with {probe.returncode}"


class Folders(LoadScopeScheduling):
    """Tests that share a cluster, a build or all parsed sources stay in one process; all others go to whichever is free.
    The largest folders begin first.

    xdist's own groups need nodes' private names, which newer versions of pytest do not have: they group nothing, and say nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Folders:
    return Folders(config, log)  # type: ignore[arg-type]


def _sendable(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _sendable(inner) for key, inner in value.items()}
    return type(value)(map(_sendable, value)) if isinstance(value, list | tuple) else value


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Iterator[object]:
    """Half a character in what a test printed, or in the words of its failure, ends the whole run in xdist otherwise."""
    return _sendable((yield))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "searching: tries random examples; set by itself on every test of Hypothesis")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("searching")
            item.add_marker(pytest.mark.timeout(SECONDS))
    shuffled(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a kernel test where namespaces are forbidden; fail it there if NPCTL_REQUIRE_KERNEL is set, as in CI."""
    if time_is_over() and item.get_closest_marker("searching"):
        pytest.skip("the time is over")
    if item.get_closest_marker("kernel") is None or not (reason := _namespaces_refused()):
        return
    message = f"this machine forbids user namespaces: {reason}"
    if os.environ.get("NPCTL_REQUIRE_KERNEL"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
