"""Labs on a real API server, one of each kind for all tests of a process; skipped, with the reason, where they cannot run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_api import Cluster, nodes
from kubectl import Kubectl
from netpol_lab.client import LabClient
from programs_api import Programs
from required import kubernetes_programs

HERE = Path(__file__).parent
STARTERS = ("cluster", "bare", "start_api")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that start a lab need namespaces."""
    for item in items:
        if item.path.is_relative_to(HERE) and set(STARTERS) & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture(scope="session")
def lab_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's labs live."""
    return tmp_path_factory.mktemp("labs")


def _client(root: Path, name: str) -> LabClient:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPCTL_LAB_DIR", str(root))
        return LabClient(name)


def _lab(root: Path, name: str, **options: Any) -> Iterator[Cluster]:
    kubernetes_programs()
    client = _client(root, name)
    try:
        client.up(options.pop("objects", nodes(111, 112, 113)), api=True, limit=options.pop("limit", 90), **options)
        yield Cluster(client)
    finally:
        client.down()


@pytest.fixture(scope="session")
def cluster(lab_root: Path) -> Iterator[Cluster]:
    """Three nodes with the chart's operator and agents. For all tests: leave nothing behind, and all programs running."""
    yield from _lab(lab_root, "cluster")


@pytest.fixture(scope="session")
def bare(lab_root: Path) -> Iterator[Cluster]:
    """Two nodes, the chart's definitions and rights, and no program of npctl: nobody touches what a test writes."""
    yield from _lab(lab_root, "bare", objects=nodes(111, 112), agents=False)


@pytest.fixture(scope="session")
def kubectl(bare: Cluster) -> Kubectl:
    """kubectl of the bare lab."""
    return Kubectl(bare.kubeconfig)


@pytest.fixture
def start_api(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts labs of a test's own: `start_api(name, **options of LabClient.up)`."""
    running: list[Iterator[Cluster]] = []

    def start(name: str = "own", **options: Any) -> Cluster:
        running.append(_lab(tmp_path, name, **{"objects": nodes(111, 112), "agents": False, **options}))
        return next(running[-1])

    yield start
    for lab in running:
        next(lab, None)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own in `cluster`, gone at the end with everything in it."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--timeout=60s", limit=90)


@pytest.fixture
def programs(cluster: Cluster) -> Iterator[Programs]:
    """The chart's programs, to end and to start; at the end all of them run, and all is in force."""
    found = Programs(cluster)
    yield found
    found.all_running()
