"""BIRD's configurations, read by BIRD itself: what runs with them is in test_networks.py."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from netpol_lab import machine
from netpol_realcluster import plan
from netpol_realcluster.networks import bird

NODES = ("172.31.7.111", "172.31.7.112", "172.31.7.113")
OTHERS = dict(zip(NODES[1:], ("10.200.1.0/24", "10.200.2.0/24"), strict=True))


def _neighbours(config: str) -> list[str]:
    return [line.split()[1] for line in config.splitlines() if line.strip().startswith("neighbor ")]


@pytest.mark.parametrize("network", [bird.Mesh(), bird.Reflector()], ids=["mesh", "reflector"])
def test_bird_understands_the_configuration_of_a_node(network: bird.Mesh | bird.Reflector, tmp_path: Path) -> None:
    _accepted(bird.node_config(NODES[0], "10.200.0.0/24", network.neighbours(OTHERS)), tmp_path)


def test_bird_understands_the_configuration_of_the_reflector(tmp_path: Path) -> None:
    _accepted(bird.reflector_config(NODES), tmp_path)


def test_a_mesh_connects_every_node_with_every_other_and_a_reflector_each_with_itself_alone() -> None:
    mesh, reflector = (
        _neighbours(bird.node_config(NODES[0], "10.200.0.0/24", network.neighbours(OTHERS)))
        for network in (bird.Mesh(), bird.Reflector())
    )
    assert mesh == list(OTHERS)
    assert reflector == [plan.ADDRESSES[plan.API]]
    assert _neighbours(bird.reflector_config(NODES)) == list(NODES)


def _accepted(config: str, folder: Path) -> None:
    program = shutil.which("bird", path=machine.search_path())
    if not program:
        pytest.skip("no bird here: `./dev cluster build` installs it")
    path = folder / "bird.conf"
    path.write_text(config)
    done = subprocess.run([program, "-p", "-c", str(path)], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
