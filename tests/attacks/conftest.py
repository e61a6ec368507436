"""The labs that the attacks of this folder are tried in: one for each network, families and mode, for all tests that ask for
it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest

from attacks import Field, base
from netpol_lab.client import LabClient
from packets import own_lab_folder


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Field]]:
    """`field(network, families, guard, backend)`: a lab with the pods of `attacks.base`."""
    started: list[LabClient] = []

    @functools.cache
    def started_once(network: str, families: str, guard: str, backend: str) -> Field:
        lab = LabClient(f"attacks-{network}-{families}-{guard}-{backend}")
        started.append(lab)
        lab.up(base(families), network=network, backend=backend, family=families, guard=guard)
        return Field(lab)

    def of(network: str, families: str, guard: str, backend: str = "nft") -> Field:
        return started_once(network, families, guard, backend)

    with own_lab_folder(tmp_path_factory.mktemp("labs")):
        yield of
        for lab in started:
            lab.down()
