"""Labs that end with their test."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab_cluster import CLUSTER
from netpol_lab.client import LabClient


@pytest.fixture(scope="session")
def cluster() -> list[dict[str, Any]]:
    return copy.deepcopy(CLUSTER)


@pytest.fixture(scope="module")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the module's labs live."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("labs")
        patch.setenv("NPCTL_LAB_DIR", str(folder))
        yield folder


@pytest.fixture
def start(lab_folder: Path) -> Iterator[Callable[..., LabClient]]:
    """Starts labs without agents: `start(name, **options)`."""
    started: list[LabClient] = []

    def up(name: str = "test", **options: Any) -> LabClient:
        lab = LabClient(name)
        started.append(lab)
        lab.up(options.pop("objects", CLUSTER), agents=options.pop("agents", False), **options)
        return lab

    yield up
    for lab in started:
        lab.down()


@pytest.fixture(scope="module")
def cluster_lab(lab_folder: Path) -> Iterator[LabClient]:
    """One lab without agents for all tests of a module that do not change it."""
    lab = LabClient("shared")
    lab.up(CLUSTER, agents=False)
    yield lab
    lab.down()
