"""The drawing of the floors in docs/architecture.md shows the folders as they are, and the layers that the contracts hold."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
MOST_MODULES = 12
"""Python files of one folder, its `__init__.py` aside."""

Layers = list[frozenset[str]]


def _drawing() -> list[dict[str, Layers]]:
    """Floors from top to bottom; of each root there its layers from top to bottom, each a set of rooms."""
    page = (TOP / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- floors: begin -->\n(.*?)<!-- floors: end -->", page, re.DOTALL)
    assert block
    joined = re.sub(r"\n {17}(?=>)", " ", block.group(1))
    floors: list[dict[str, Layers]] = [{}]
    for line in filter(None, map(str.strip, joined.splitlines())):
        if line == "----":
            floors.append({})
            continue
        root, rooms = line.split(None, 1)
        floors[-1][root] = [frozenset(layer.split(" | ")) for layer in rooms.split(" > ")]
    return floors


ROOTS = {root: layers for floor in _drawing() for root, layers in floor.items()}


def _package(root: str) -> Path:
    return next(path for path in (TOP / root).iterdir() if (path / "__init__.py").exists())


def _contracts() -> list[dict[str, object]]:
    contracts = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    return [contract for contract in contracts if contract["type"] == "layers"]


def _layers(contract: dict[str, object]) -> Layers:
    layers = contract["layers"]
    assert isinstance(layers, list)
    return [frozenset(layer.split(" | ")) for layer in layers]


def test_the_drawing_shows_every_root_that_holds_a_package() -> None:
    packages = {
        path.parent.parent.name for path in TOP.glob("*/*/__init__.py") if path.parent.parent.name not in {"tests", "build"}
    }
    assert set(ROOTS) == packages


@pytest.mark.parametrize("root", ROOTS)
def test_the_drawing_shows_every_room_of_a_root_and_no_other(root: str) -> None:
    package = _package(root)
    folders = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert sorted(room for layer in ROOTS[root] for room in layer) == sorted(folders | modules)


@pytest.mark.parametrize("root", [root for root, layers in ROOTS.items() if len(layers) > 1])
def test_the_drawings_order_of_rooms_is_the_one_that_the_import_contract_holds(root: str) -> None:
    held = [contract for contract in _contracts() if contract.get("containers") == [_package(root).name]]
    assert [_layers(contract) for contract in held] == [ROOTS[root]]
    assert [contract.get("exhaustive") for contract in held] == [True]


def test_the_drawings_order_of_roots_is_the_one_that_the_import_contract_holds() -> None:
    held = [contract for contract in _contracts() if "containers" not in contract]
    assert [_layers(contract) for contract in held] == [
        [frozenset(_package(root).name for root in floor) for floor in _drawing()]
    ]


@pytest.mark.parametrize("root", ROOTS)
def test_a_folder_holds_a_dozen_modules_at_most(root: str) -> None:
    package = _package(root)
    folders = [package, *(path for path in package.rglob("*") if path.is_dir())]
    counts = {
        str(folder.relative_to(TOP)): len([path for path in folder.glob("*.py") if path.stem != "__init__"]) for folder in folders
    }
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}
