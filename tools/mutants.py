"""The mutants: small ways to break the product that people make in policy engines, and what a run of them says.

In: the files of tests/mutants, and the sources that they break. Out: `Mutant` values, a broken source's text, what became of a
mutant, the table of docs/testing.md. Excluded: copies of the tree and processes (`mutate`). Everything here is pure but reading
the files.

    area: The words                     what the file's mutants have in common
    tests: [tests/a/test_b.py]          what may notice them, quick ones first
    mutants:
      - id: except-forgotten            names it for --only
        file: compiler/x/y.py
        mistake: One sentence.
        old: "the exact text"           must be in the file exactly once, so that the list cannot rot unseen
        new: "what stands there instead"
        tests: [...]                    where others than the area's notice it
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

BEGIN, END = "<!-- mutants: ./dev mutate --record writes what follows -->", "<!-- mutants: end -->"
_FIELDS = {"id", "file", "mistake", "old", "new"}
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MARK = "MUTANT"
"""The variable that a broken module says with which mutant it is: a test process can prove by it what it has imported."""


class MutantError(Exception):
    """One line for people: which mutant, what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: in `file` (relative to the checkout), `old` becomes `new`. `tests`: pytest's arguments, in order."""

    id: str
    area: str
    file: str
    mistake: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def module(self) -> str:
        """The module's name as it is imported: a source root is no package."""
        return self.file.removesuffix(".py").split("/", 1)[1].replace("/", ".").removesuffix(".__init__")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run of tests told. `code`: pytest's exit code, None when it would not end. `failed`: the first test that
    failed; `running`: the last one that began; `mark`: the imported module's MARK."""

    code: int | None
    failed: str = ""
    running: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant: `noticed_by` a test, or else a survivor, or `broken`: why the run says nothing."""

    mutant: Mutant
    noticed_by: str = ""
    broken: str = ""

    @property
    def noticed(self) -> bool:
        return bool(self.noticed_by)

    @property
    def words(self) -> str:
        return f"noticed by {self.noticed_by}" if self.noticed else self.broken or "SURVIVED: a test is missing"


# -- reading -----------------------------------------------------------------------------------------


def read_mutants(folder: Path, top: Path) -> tuple[Mutant, ...]:
    """All mutants of a folder, each checked against the sources and tests below `top`. Raises MutantError."""
    found: dict[str, Mutant] = {}
    for path in sorted(folder.glob("*.yaml")):
        for mutant in _area(path.name, yaml.safe_load(path.read_text(encoding="utf-8"))):
            if mutant.id in found:
                raise MutantError(f"{path.name}: there are two mutants {mutant.id}; give one another id")
            found[mutant.id] = mutant
            for test in mutant.tests:
                if not (top / test.partition("::")[0]).is_file():
                    raise MutantError(f"{path.name}: {mutant.id}: {test} does not exist; name the test file that took its place")
            broken_text(mutant, _source(top, mutant))
    if not found:
        raise MutantError(f"{folder}: holds no mutants")
    return tuple(found.values())


def _area(place: str, document: Any) -> Iterable[Mutant]:
    if not isinstance(document, dict) or document.keys() != {"area", "tests", "mutants"}:
        raise MutantError(f"{place}: must hold area, tests and mutants")
    for entry in document["mutants"]:
        who = f"{place}: {entry.get('id', '(no id)')}"
        if lacking := sorted(_FIELDS - entry.keys()):
            raise MutantError(f"{who}: lacks {', '.join(lacking)}")
        if unknown := sorted(entry.keys() - _FIELDS - {"tests"}):
            raise MutantError(f"{who}: does not know {', '.join(unknown)}; known are {', '.join(sorted(_FIELDS))} and tests")
        if not all(isinstance(entry[name], str) for name in _FIELDS) or not _ID.fullmatch(entry["id"]):
            raise MutantError(f"{who}: every field is text (write it in quotes), and an id is small letters, digits and '-'")
        texts = {name: entry[name] for name in _FIELDS}
        yield Mutant(area=document["area"], tests=tuple(entry.get("tests") or document["tests"]), **texts)


def _source(top: Path, mutant: Mutant) -> str:
    try:
        return (top / mutant.file).read_text(encoding="utf-8")
    except OSError as error:
        raise MutantError(f"{mutant.id}: {mutant.file}: {error.strerror}; name the file to which the code went") from error


@cache
def _meaning(source: str) -> str:
    """What a source says to Python; many mutants have one source."""
    return ast.dump(ast.parse(source))


def broken_text(mutant: Mutant, source: str) -> str:
    """`source` with the mistake, and MARK set at its end. Raises MutantError when that is not exactly one change of the code."""
    times = source.count(mutant.old)
    if times != 1:
        remedy = "write what stands there now" if not times else "write more of what stands around it"
        raise MutantError(f"{mutant.id}: {mutant.file} holds {mutant.old!r} {times} times and not once; {remedy}")
    broken = source.replace(mutant.old, mutant.new)
    try:
        same = ast.dump(ast.parse(broken)) == _meaning(source)
    except SyntaxError as error:
        raise MutantError(f"{mutant.id}: {mutant.file} would be no Python any more: {error}") from error
    if same:
        raise MutantError(f"{mutant.id}: {mutant.file} would do what it does now; change code and not only its words")
    return f"{broken}\n\n{MARK} = {mutant.id!r}\n"


# -- judging -----------------------------------------------------------------------------------------


def judged(mutant: Mutant, seen: Seen) -> Result:
    """What one run says of a mutant. Only a test that fails notices: a run that could not even begin says nothing."""
    if seen.mark not in ("", mutant.id) or (seen.code in (0, 1) and seen.failed and not seen.mark):
        return Result(mutant, broken=f"not this mutant was imported but {seen.mark or 'another copy of the module'}")
    if seen.code is None:
        begun = bool(seen.running)
        return Result(mutant, f"{_short(seen.running)} (does not end)") if begun else Result(mutant, broken="hangs at once")
    if seen.code == 1 and seen.failed:
        return Result(mutant, _short(seen.failed))
    if seen.code == 0:
        return Result(mutant) if seen.mark else Result(mutant, broken="its tests never import the module")
    return Result(mutant, broken=f"its tests cannot be run (pytest's exit code {seen.code}): a mutant must be importable")


def _short(test: str) -> str:
    """The test's name without its file and parameters, which may hold anything."""
    return test.partition("[")[0].rpartition("::")[2]


# -- telling -----------------------------------------------------------------------------------------


def score(results: Sequence[Result]) -> str:
    """In one line: how many, and how many noticed."""
    noticed = sum(r.noticed for r in results)
    return f"{len(results)} mutants, {noticed} noticed: {100 * noticed // len(results)} %."


def table(results: Iterable[Result]) -> str:
    """A table in Markdown for each area, in the order of the files."""
    areas: dict[str, list[Result]] = {}
    for result in results:
        areas.setdefault(result.mutant.area, []).append(result)
    return "\n\n".join("\n".join([f"### {area}", "", *_rows(entries)]) for area, entries in areas.items())


def _rows(results: Iterable[Result]) -> list[str]:
    head = ["| id | mistake | noticed by |", "|---|---|---|"]
    rows = [(r.mutant.id, r.mutant.mistake, f"`{r.noticed_by}`" if r.noticed else f"**{r.words}**") for r in results]
    return [*head, *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)]


def recorded(page: str, results: Sequence[Result]) -> str:
    """`page` with the score and the table between its markers. Raises MutantError when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MutantError(f"the page lacks its markers; write {BEGIN} and {END} where the table belongs")
    return f"{before}{begin}\n\n{score(results)}\n\n{table(results)}\n\n{end}{after}"


def recorded_ids(page: str) -> list[str]:
    """The ids in a page's table, in their order."""
    return re.findall(r"(?m)^\| (?!id \|)([a-z0-9-]+) \|", page.partition(BEGIN)[2].partition(END)[0])


def marks(lines: Iterable[Mapping[str, str]], code: int | None) -> Seen:
    """One run's notes (see `mutant_notes`) and its exit code, as `Seen`."""
    told: dict[str, str] = {}
    for line in lines:
        for what, value in line.items():
            if what == "failed":
                told.setdefault(what, value)
            else:
                told[what] = value
    return Seen(code, told.get("failed", ""), told.get("running", ""), told.get("mark", ""))
