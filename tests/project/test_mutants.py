"""The mutation check itself: its list fits the sources, a run says what is true, and the page holds what was run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import mutate
from mutants import (
    BEGIN,
    END,
    Mutant,
    MutantError,
    Result,
    Seen,
    broken_text,
    judged,
    marks,
    read_mutants,
    recorded,
    recorded_ids,
    score,
)

TOP = Path(__file__).resolve().parents[2]
FOLDER = TOP / "tests" / "mutants"
MUTANT = Mutant("less", "Sums", "alpha/toy/sums.py", "It takes away.", "a + b", "a - b", ("tests/test_sums.py",))
ENTRY = {"id": "less", "file": MUTANT.file, "mistake": "It takes away.", "old": "a + b", "new": "a - b"}
SOURCE = "def add(a, b):\n    return a + b\n"


@pytest.fixture(scope="module")
def mutants() -> tuple[Mutant, ...]:
    return read_mutants(FOLDER, TOP)


def test_every_mutant_of_the_list_fits_its_source_and_its_tests(mutants: tuple[Mutant, ...]) -> None:
    assert len(mutants) >= 60


def test_the_page_holds_a_row_for_each_mutant_and_all_were_noticed(mutants: tuple[Mutant, ...]) -> None:
    page = (TOP / "docs" / "testing.md").read_text(encoding="utf-8")
    ids = [m.id for m in mutants]
    assert recorded_ids(page) == ids, "./dev mutate --record writes the page anew"
    assert f"{len(ids)} mutants, {len(ids)} noticed: 100 %." in page


def test_a_broken_source_says_with_which_mutant_it_is() -> None:
    told: dict[str, object] = {}
    exec(broken_text(MUTANT, SOURCE), told)
    assert told["MUTANT"] == "less" and told["add"](2, 3) == -1  # type: ignore[operator]  # the text just executed


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def add(a, b):\n    return b + a\n", "0 times"),
        (SOURCE + "def more(a, b):\n    return a + b\n", "2 times"),
        ("# a + b is meant\n", "would do what it does now"),
        ("'a + b'\na = (1\n", "no Python"),
    ],
)
def test_a_mutant_that_does_not_change_exactly_one_place_of_the_code_is_refused(source: str, why: str) -> None:
    with pytest.raises(MutantError, match=why):
        broken_text(MUTANT, source)


def toy(top: Path, *entries: Mapping[str, object], test: str = "assert add(2, 3) == 5", source: str = SOURCE) -> Path:
    """A project of one module, one test and some mutants."""
    import yaml

    files = {
        "pyproject.toml": '[tool.hatch.build]\ndev-mode-dirs = ["alpha"]\n[tool.pytest.ini_options]\naddopts = "-q"\n',
        "alpha/toy/__init__.py": "",
        "alpha/toy/sums.py": source,
        "tests/test_sums.py": f"from toy.sums import add\n\n\ndef test_sums():\n    {test}\n",
        "tests/test_nothing.py": "def test_nothing():\n    pass\n",
        "tests/mutants/1.yaml": yaml.safe_dump({"area": "Sums", "tests": ["tests/test_sums.py"], "mutants": list(entries)}),
        "docs/testing.md": f"# Tests\n{BEGIN}\nold\n{END}\nthe rest\n",
    }
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(content, encoding="utf-8")
    return top


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({**ENTRY, "old": "a * b"}, "0 times"),
        ({**ENTRY, "tests": ["tests/test_gone.py"]}, "test_gone.py does not exist"),
        ({**ENTRY, "file": "alpha/toy/gone.py"}, "name the file to which the code went"),
        ({**ENTRY, "replace": "x"}, "does not know replace"),
        ({k: v for k, v in ENTRY.items() if k != "mistake"}, "lacks mistake"),
        ({**ENTRY, "new": 5}, "every field is text"),
        ({**ENTRY, "id": "Not Small"}, "an id is small letters"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused_with_its_place(tmp_path: Path, entry: Mapping[str, object], why: str) -> None:
    with pytest.raises(MutantError, match=why):
        read_mutants(toy(tmp_path, entry) / "tests" / "mutants", tmp_path)


def test_two_mutants_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MutantError, match="two mutants less"):
        read_mutants(toy(tmp_path, ENTRY, ENTRY) / "tests" / "mutants", tmp_path)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen(1, "tests/t.py::test_sum[1-fd00::2]", "tests/t.py::test_sum[1-fd00::2]", "less"), "noticed by test_sum"),
        (Seen(0, "", "t::test_sum", "less"), "SURVIVED: a test is missing"),
        (Seen(None, "", "t::test_sum", "less"), "noticed by test_sum (does not end)"),
        (Seen(1, "", "t::test_sum", "less"), "its tests cannot be run (pytest's exit code 1): a mutant must be importable"),
        (Seen(0, "", "t::test_sum", ""), "its tests never import the module"),
        (Seen(1, "t::test_sum", "t::test_sum", ""), "not this mutant was imported but another copy of the module"),
        (Seen(1, "t::test_sum", "t::test_sum", "more"), "not this mutant was imported but more"),
        (Seen(2, "", "", ""), "its tests cannot be run (pytest's exit code 2): a mutant must be importable"),
        (Seen(5, "", "", "less"), "its tests cannot be run (pytest's exit code 5): a mutant must be importable"),
    ],
)
def test_only_a_failing_test_that_had_the_mutant_notices_it(seen: Seen, words: str) -> None:
    assert judged(MUTANT, seen).words == words


def test_of_several_failures_the_first_has_noticed() -> None:
    lines = [{"running": "a"}, {"mark": "less"}, {"failed": "a"}, {"running": "b"}, {"failed": "b"}]
    assert marks(lines, 1) == Seen(1, "a", "b", "less")


def test_the_page_keeps_what_is_around_the_table() -> None:
    results = [Result(MUTANT, "test_sum"), Result(Mutant("more", "Sums", "f", "A | B.", "", "", ()))]
    page = recorded(f"before\n{BEGIN}\nold\n{END}\nafter\n", results)
    assert page.startswith(f"before\n{BEGIN}\n") and page.endswith(f"{END}\nafter\n") and "old" not in page
    assert "| less | It takes away. | `test_sum` |" in page
    assert "| more | A \\| B. | **SURVIVED: a test is missing** |" in page
    assert "2 mutants, 1 noticed: 50 %." in page
    assert recorded_ids(page) == ["less", "more"]
    assert recorded(page, results) == page
    with pytest.raises(MutantError, match="lacks its markers"):
        recorded("no markers", results)


def test_a_score_is_never_rounded_up() -> None:
    assert score([Result(MUTANT, "t")] * 299 + [Result(MUTANT)]) == "300 mutants, 299 noticed: 99 %."


@pytest.mark.slow
@pytest.mark.timeout(600)  # eleven processes of pytest
def test_a_run_finds_out_what_is_noticed_and_leaves_the_sources_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    harmless = {**ENTRY, "id": "harmless", "new": "b + a"}
    elsewhere = {**ENTRY, "id": "elsewhere", "tests": ["tests/test_nothing.py"]}
    endless = {**ENTRY, "id": "endless", "old": "return a + b", "new": "while a: pass"}
    unimportable = {**ENTRY, "id": "unimportable", "old": "def add(a, b)", "new": "def add(a, b=nobody)"}
    top = toy(tmp_path, ENTRY, harmless, elsewhere, endless, unimportable)
    runner = mutate.Runner(top, tmp_path / "copies", jobs=1, limit=5)
    found = read_mutants(top / "tests" / "mutants", top)
    runner.check_whole(found)
    assert [r.words for r in runner.run(found)] == [
        "noticed by test_sums",
        "SURVIVED: a test is missing",
        "its tests never import the module",
        "noticed by test_sums (does not end)",
        "its tests cannot be run (pytest's exit code 2): a mutant must be importable",
    ]
    assert (top / "alpha/toy/sums.py").read_text(encoding="utf-8") == SOURCE
    assert "SURVIVED" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_exit_code_and_the_record_say_whether_all_were_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = toy(tmp_path, ENTRY, {**ENTRY, "id": "harmless", "new": "b + a"})
    assert mutate.main(["--jobs", "1", "--only", "less"], top) == 0
    assert "1 mutants, 1 noticed: 100 %." in capsys.readouterr().out
    assert mutate.main(["--jobs", "1", "--record"], top) == 1
    page = (top / "docs" / "testing.md").read_text(encoding="utf-8")
    assert recorded_ids(page) == ["less", "harmless"] and page.endswith("the rest\n")
    assert mutate.main(["--only", "unknown"], top) == 1
    assert "no mutant unknown" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_is_said_of_mutants_while_a_test_fails_without_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    top = toy(tmp_path, ENTRY, test="assert add(2, 3) == 6")
    assert mutate.main(["--jobs", "1"], top) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "tests/test_sums.py fails without any mutant: tests/test_sums.py::test_sums" in told.err


def test_recording_takes_all_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        mutate.main(["--record", "--only", "less"])
    assert "leave --only out" in capsys.readouterr().err
