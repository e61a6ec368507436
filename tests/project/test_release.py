"""A release as far as it goes without a registry: its files are made, checked, installed; a wrong tag or version is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import release
from required import kubernetes_programs
from steps import StepError

TOP = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PYPROJECT["project"]["version"]
INCLUDED = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
PACKAGES = [Path(place).name for place in INCLUDED if not place.startswith("charts/")]
WHEEL = f"npctl-{VERSION}-py3-none-any.whl"
SOURCES = f"npctl-{VERSION}.tar.gz"
CHART = f"npctl-chart-{VERSION}.tgz"
MATERIALS = f"npctl-{VERSION}.cdx.json"
CHANGELOG = """# Changelog

## [Unreleased]

- not yet

## [0.2.0] - 2026-02-03

### Added

- the second

## [0.1.0] - 2026-01-02

- the first
"""


def _release(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOP / "tools" / "release.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release of this checkout."""
    kubernetes_programs()
    out = tmp_path_factory.mktemp("release") / "out"
    told = _release("--out", str(out))
    assert told.returncode == 0, told.stderr
    assert told.stdout == f"{out}\n"
    return out


@pytest.fixture(scope="module")
def installed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a fresh environment that has the wheel and nothing else."""
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    options = ["--disable-pip-version-check", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        *options,
        "install",
        "--no-deps",
        "--no-index",
        str(made / WHEEL),
    ]
    subprocess.run(command, check=True)
    return python


def _python(python: Path, code: str) -> str:
    """What `code` prints. The packages that npctl needs are the tests' own; npctl itself is not found there: it is installed
    by a .pth file, which only a site directory's start reads."""
    dependencies = sysconfig.get_path("purelib")
    command = [str(python), "-I", "-c", f"import sys; sys.path.append({dependencies!r})\n{code}"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert told.returncode == 0, told.stderr
    return told.stdout


# ---- what is released ------------------------------------------------------------------------------------------------


def test_every_place_names_the_version_of_pyproject() -> None:
    assert set(release.versions().values()) == {VERSION}


@pytest.mark.parametrize("place", list(release.versions()))
def test_a_place_that_names_another_version_is_refused(place: str) -> None:
    named = dict.fromkeys(release.versions(), "1.2.3")
    assert release.agreed_version(named, "v1.2.3") == "1.2.3"
    with pytest.raises(StepError, match=re.escape(f"1.2.4 in {place}")):
        release.agreed_version(named | {place: "1.2.4"}, "v1.2.3")


@pytest.mark.parametrize("tag", ["v9.9.9", VERSION, f"v{VERSION}-rc1", ""])
def test_a_tag_that_is_not_the_versions_is_refused_and_nothing_is_made(tag: str, tmp_path: Path) -> None:
    told = _release("--tag", tag, "--out", str(tmp_path / "out"))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == (
        f"./dev release: the tag is {tag}, and pyproject.toml and the chart are of version {VERSION}, whose tag is v{VERSION}\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_notes_are_the_versions_own_section() -> None:
    assert release.release_notes(CHANGELOG, "0.2.0", released=True) == "### Added\n\n- the second\n"
    assert release.release_notes(CHANGELOG, "0.1.0", released=True) == "- the first\n"


def test_a_tag_without_a_section_is_refused_and_a_trial_shows_what_is_not_released_yet() -> None:
    with pytest.raises(StepError, match=r"## \[0\.3\.0\] - YYYY-MM-DD"):
        release.release_notes(CHANGELOG, "0.3.0", released=True)
    assert release.release_notes(CHANGELOG, "0.3.0", released=False) == "- not yet\n"


def test_the_changelog_has_the_form_that_a_release_reads() -> None:
    headings = re.findall(r"(?m)^## (.*)$", (TOP / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    numbers = [tuple(map(int, heading.groups())) if heading else None for heading in released]
    assert None not in numbers
    assert numbers == sorted(set(numbers), reverse=True), "the newest stands first, each once"


# ---- its files -------------------------------------------------------------------------------------------------------


def test_the_folder_holds_every_file_and_sha256sum_finds_them_right(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {SOURCES, WHEEL, CHART, MATERIALS, "SHA256SUMS", "NOTES.md"}
    checked = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=made, capture_output=True, text=True, check=False)
    assert checked.stdout.splitlines() == [f"{name}: OK" for name in sorted((SOURCES, WHEEL, CHART, MATERIALS))]
    assert checked.returncode == 0


def test_a_file_that_was_changed_is_found(made: Path, tmp_path: Path) -> None:
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + (b"\0" if file.name == CHART else b""))
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert f"{CHART}: FAILED" in checked.stdout.splitlines()


def test_a_folder_with_other_files_is_refused_and_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    told = _release("--out", str(tmp_path))
    assert told.returncode == 1
    assert "holds mine.txt" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_second_run_takes_the_place_of_the_first(made: Path) -> None:
    before = (made / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert _release("--out", str(made)).returncode == 0
    after = (made / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    # The chart's archive holds the time at which helm made it.
    assert [line for line in after if CHART not in line] == [line for line in before if CHART not in line]


def test_the_sources_hold_what_git_holds_but_for_what_only_the_repository_needs(made: Path) -> None:
    with tarfile.open(made / SOURCES) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    held = {name for name in listed.stdout.splitlines() if (TOP / name).is_file()}
    assert {name for name in held - names if not name.startswith(".ci/")} == set()


def test_the_chart_is_packed_whole(made: Path) -> None:
    folder = TOP / "charts" / "npctl"
    with tarfile.open(made / CHART) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
        file = tar.extractfile("npctl/Chart.yaml")
        assert file is not None
        about = yaml.safe_load(file.read())
    assert (about["name"], about["version"], about["appVersion"]) == ("npctl", VERSION, VERSION)
    assert packed == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_bill_of_materials_is_of_this_version(made: Path) -> None:
    about = json.loads((made / MATERIALS).read_text(encoding="utf-8"))["metadata"]["component"]
    assert about["purl"] == f"pkg:pypi/npctl@{VERSION}"


# ---- the wheel -------------------------------------------------------------------------------------------------------


def test_every_package_of_the_wheel_says_that_it_is_typed(made: Path) -> None:
    with zipfile.ZipFile(made / WHEEL) as wheel:
        names = set(wheel.namelist())
    assert len(PACKAGES) >= 7
    assert {f"{name}/py.typed" for name in PACKAGES} <= names
    assert {name.partition("/")[0] for name in names if name.endswith(".py")} == set(PACKAGES)


def test_the_installed_wheel_imports_whole_and_from_itself(made: Path, installed: Path) -> None:
    with zipfile.ZipFile(made / WHEEL) as wheel:
        files = [Path(name) for name in wheel.namelist() if name.endswith(".py") and not name.endswith("__main__.py")]
    told = _python(
        installed,
        "import importlib, json, pathlib, pkgutil\n"
        "seen = {}\n"
        f"for name in {PACKAGES!r}:\n"
        "    package = importlib.import_module(name)\n"
        "    seen[name] = package.__file__\n"
        "    for module in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        if not module.name.endswith('__main__'):\n"
        "            seen[module.name] = importlib.import_module(module.name).__file__\n"
        "print(json.dumps(seen))",
    )
    site = Path(_python(installed, "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    assert sorted(json.loads(told).values()) == sorted(str(site / file) for file in files)


def test_the_installed_program_starts_and_finds_the_chart(installed: Path) -> None:
    main = "import sys; sys.argv = ['npctl', '--version']; from npctl.main import main; main()"
    assert _python(installed, main) == f"npctl {VERSION}\n"
    chart = Path(_python(installed, "from netpol_lab.control.chart import chart_folder; print(chart_folder())").strip())
    assert chart.is_relative_to(installed.parents[1]) and (chart / "crds").is_dir()
    script = (installed.parent / "npctl").read_text(encoding="utf-8")
    assert script.splitlines()[0] == f"#!{installed}"
