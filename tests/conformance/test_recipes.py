"""Well-known policies, each with its whole table of who reaches whom, written by hand: every witness must give every cell.

The oracle, the compiled policies, and the simulator (rendered rules, both nodes, with the reply) are asked without packets;
the kernel with packets between namespaces, all recipes in one lab.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from netpol_compiler.model.objects import Connection
from netpol_compiler.witnesses import oracle
from netpol_lab.client import LabClient
from netpol_lab.scenarios.cases import read_manifests
from npctl.answers.probes import Try
from npctl.answers.trace import Tracer
from npctl.endpoints.endpoints import Place, find_place, parse_port
from npctl.inputs.state import State, load
from packets import own_lab_folder
from recipes import FOLDER, PLACES, WORLD, Cell, Recipe, all_recipes, read_recipe

OUTSIDE = {4: "192.0.2.109", 6: "fd00:192:0:2::109"}
RECIPES = all_recipes()


def names(path: Path) -> str:
    return path.stem


def place(state: State, name: str, family: int) -> Place:
    return find_place(state, OUTSIDE[family] if name == "outside" else PLACES[name], "default")


def connection(state: State, cell: Cell, family: int) -> tuple[Place, Place, Connection]:
    source, target = place(state, cell.source, family), place(state, cell.target, family)
    (a,), (b,) = ([x for x in end.addresses if x.version == family] for end in (source, target))
    choice = parse_port(cell.port)
    return source, target, Connection(a, b, choice.protocol, choice.number)


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_the_oracle_the_compiled_policies_and_the_rendered_rules_give_the_recipes_table(path: Path) -> None:
    recipe, state = read_recipe(path), load([str(WORLD), str(path)], quiet=True)
    tracer = Tracer(state)
    wrong = []
    for family in recipe.families:
        for cell in recipe.cells:
            source, target, asked = connection(state, cell, family)
            verdict = state.judge.judge(asked)
            answers = {
                "oracle": oracle.judge(state.cluster, asked).allowed,
                "compiled": verdict.allowed,
                "rules": tracer.trace(Try(source, target, asked, verdict)).allowed,
            }
            if set(answers.values()) != {cell.allowed}:
                wrong.append(f"IPv{family}: {cell.words}: {answers}")
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabClient]:
    """The recipes' world, dual stack."""
    with own_lab_folder(tmp_path_factory.mktemp("recipes")):
        client = LabClient("recipes")
        client.up(read_manifests(WORLD), network="host-gw", backend="nft", family="dual")
        try:
            yield client
        finally:
            client.down()


def on_packets(lab: LabClient, recipe: Recipe) -> list[str]:
    """The cells that packets contradict, in words. All connections at once."""
    asked = [(cell, family) for family in recipe.families for cell in recipe.cells]
    results = lab.connect_many(
        [{"source": PLACES[c.source], "destination": PLACES[c.target], "port": c.port, "family": f} for c, f in asked]
    )
    wrong = []
    for (cell, family), seen in zip(asked, results, strict=True):
        if [s["verdict"] for s in seen] != ["allowed" if cell.allowed else "refused"]:
            wrong.append(f"{recipe.name}, IPv{family}: {cell.words}: {[(s['verdict'], s['answer'], s['detail']) for s in seen]}")
    return wrong


@pytest.mark.kernel
@pytest.mark.timeout(600)
def test_the_kernel_gives_every_recipes_table(lab: LabClient) -> None:
    wrong = []
    for path in RECIPES:
        policies = read_manifests(path)
        lab.apply(policies)
        wrong += on_packets(lab, read_recipe(path))
        lab.delete(policies)
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_recipe_is_named_in_the_list_of_what_the_api_text_says() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    shown = [line.split("|")[3] for line in page.splitlines() if line.startswith("|")]
    named = {word for cell in shown for word in cell.split("`")[1::2]}
    assert named == {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("#| db ", "#| someone "),
        ("job:icmp  ", ""),
        ("#| web      -", "#| web      ."),
        ("#| db       X", "#| db       ?"),
        ("#| client ", "# client "),
        ("#\n", "#\n# family: IPv5\n#\n"),
    ],
)
def test_a_table_that_is_not_whole_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = (FOLDER / "deny-all-ingress.yaml").read_text(encoding="utf-8")
    assert old in text
    broken = tmp_path / "broken.yaml"
    broken.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"broken\.yaml: "):
        read_recipe(broken)
