"""What the tree itself promises: its shape, the size of its parts, and that it knows nothing of where it was made."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
ROOTS = ("compiler", "store", "kube", "operator", "agent", "lab", "npctl")
LONGEST_FILE = 450
LONGEST_FUNCTION = 60

# Pieced together, so that this file does not hold what it looks for.
HOSTS = ("python" + "hosted.org", "pypi" + ".org", "deb" + ".debian.org", "archive" + ".ubuntu.com", "proxy" + ".golang.org")
MACHINE_PATHS = r"(?<![\w.-])/(?:home|root|Users|work)/"
FORBIDDEN = re.compile("|".join([*map(re.escape, HOSTS), MACHINE_PATHS]))


def _files() -> list[Path]:
    """What git holds or would add; where there is no git (an unpacked archive), every file outside of made folders."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, cwd=TOP, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        found = [TOP / name for name in listed.stdout.split("\0") if name]
    else:
        found = [path for path in TOP.rglob("*") if not any(part in {".venv", "build"} for part in path.relative_to(TOP).parts)]
    return sorted(path for path in found if path.is_file())


def _python_files() -> list[Path]:
    return [path for path in _files() if path.suffix == ".py"]


def _name(path: Path) -> str:
    return str(path.relative_to(TOP))


def test_no_python_file_is_longer_than_it_can_be_read() -> None:
    lengths = {_name(path): path.read_text(encoding="utf-8").count("\n") for path in _python_files()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {}
    for path in _python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long[f"{_name(path)}:{node.name}"] = length
    assert long == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        _name(path)
        for path in _python_files()
        if path.relative_to(TOP).parts[0] in ROOTS and path.stat().st_size
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_the_roots_are_no_packages_so_that_operator_never_hides_the_standard_library() -> None:
    assert [root for root in (*ROOTS, "tests") if list((TOP / root).glob("__init__.py"))] == []
    assert [_name(path) for path in (TOP / "tests").rglob("__init__.py")] == []


@pytest.mark.parametrize("expected", ["LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "requirements.lock"])
def test_the_tree_holds(expected: str) -> None:
    assert (TOP / expected).stat().st_size > 0


def test_the_tree_names_no_registry_and_no_place_where_it_was_made() -> None:
    found = []
    for path in _files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{_name(path)}:{text.count(chr(10), 0, hit.start()) + 1}: {hit.group()}" for hit in FORBIDDEN.finditer(text)]
    assert found == []


def test_every_link_in_the_documentation_leads_to_something_in_the_tree() -> None:
    dead = []
    for page in (path for path in _files() if path.suffix == ".md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            place = (page.parent / target).resolve()
            if "://" not in target and not (place.is_relative_to(TOP) and place.exists()):
                dead.append(f"{_name(page)}: {target}")
    assert dead == []


def test_every_locked_package_has_a_version_and_hashes() -> None:
    for name in ("requirements.lock", "requirements-build.lock"):
        entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n", "", (TOP / name).read_text(encoding="utf-8")))
        assert [entry.splitlines()[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


def _declared(*extras: str) -> set[str]:
    """The distributions that pyproject.toml declares, those of `extras` included, as pip writes their names."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {_normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in lines} - {"npctl"}


def _normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def test_every_dependency_of_pyproject_is_locked() -> None:
    locked = set(re.findall(r"(?m)^([\w.-]+)==", (TOP / "requirements.lock").read_text(encoding="utf-8")))
    assert _declared("operator", "agent", "lab", "test") - locked == set()


def test_every_dependency_that_is_not_for_tests_alone_is_imported() -> None:
    modules = set()
    for path in (path for path in _python_files() if path.relative_to(TOP).parts[0] in ROOTS):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    installed = packages_distributions()
    imported = {_normal(name) for module in modules for name in installed.get(module, ())}
    assert _declared("operator", "agent", "lab") - imported == set()
