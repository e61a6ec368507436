"""What the tree itself promises: its shape, the size of its parts, and that it knows nothing of where it was made."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
ROOTS = ("compiler", "store", "kube", "api", "operator", "agent", "manifests", "lab", "npctl", "realcluster")
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


def _root(path: Path) -> str:
    return path.relative_to(TOP).parts[0]


def _python_files() -> list[Path]:
    return [path for path in _files() if path.suffix == ".py"]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _name(path: Path) -> str:
    return str(path.relative_to(TOP))


def test_no_python_file_is_longer_than_it_can_be_read() -> None:
    lengths = {_name(path): path.read_text(encoding="utf-8").count("\n") for path in _python_files()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = {}
    for path in _python_files():
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long[f"{_name(path)}:{node.name}"] = length
    assert long == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        _name(path)
        for path in _python_files()
        if _root(path) in ROOTS and path.stat().st_size
        if not ast.get_docstring(_tree(path))
    ]
    assert silent == []


BY_NAME = {"datagram_received", "egress_allowing", "purge", "source_address", "destination_address"}
"""What asyncio and kopf call by its name, and fields that are only compared or written out whole."""


def _defined(tree: ast.Module) -> set[str]:
    """The names that a module and its classes give, but not what a decorator registers."""
    found: set[str] = set()
    for holder in (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef)):
        for node in holder.body:
            if isinstance(node, ast.Assign):
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                plain = {"property", "staticmethod", "classmethod", "cached_property", "cache", "contextmanager", "dataclass"}
                if all(getattr(getattr(d, "func", d), "id", "") in plain for d in node.decorator_list):
                    found.add(node.name)
    return {name for name in found if not name.startswith("__")}


def _used(tree: ast.Module) -> set[str]:
    """Names that are read, and texts that may be one."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def test_nothing_is_defined_that_nobody_uses() -> None:
    trees = {path: _tree(path) for path in _python_files()}
    used = set().union(*map(_used, trees.values()))
    dead = {
        _name(path): names for path, tree in trees.items() if _root(path) in ROOTS and (names := _defined(tree) - used - BY_NAME)
    }
    assert dead == {}


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
    for path in (path for path in _python_files() if _root(path) in ROOTS):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    installed = packages_distributions()
    imported = {_normal(name) for module in modules for name in installed.get(module, ())}
    assert _declared("operator", "agent", "lab") - imported == set()
