"""The container image: what the Dockerfile promises, and, where it can be built here, what really is in it."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import build_image

TOP = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = (TOP / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
BUILDS = {"gcc", "cc", "ld", "as", "make", "pip", "pip3", "uv"}


def _stages() -> dict[str, str]:
    """The Dockerfile's instructions by stage; the last stage is called "final"."""
    parts = re.split(r"(?m)^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE)
    return {
        name or "final": f"FROM {base}\n{body}" for base, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


def _locked(name: str) -> dict[str, str]:
    """Of a lock, each requirement (with version and marker) and its hashes."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (TOP / name).read_text(encoding="utf-8"))
    return dict(re.findall(r"(?m)^(\S+==[^\\\n]+?) *\\\n((?:    --hash=\S+(?: \\)?\n)+)", text))


# ---- what is written -------------------------------------------------------------------------------------------------


def test_the_image_starts_npctl_as_a_user_that_is_not_root() -> None:
    final = _stages()["final"]
    assert re.search(r"(?m)^USER 65532:65532$", final)
    assert re.search(r'(?m)^ENTRYPOINT \["npctl"\]$', final)


def test_no_compiler_and_no_installer_is_in_a_stage_that_stays() -> None:
    stages = _stages()
    assert stages["final"].startswith("FROM system\n")
    installed = re.search(r"--no-install-recommends ([^&]+)", stages["system"])
    assert installed is not None and set(installed[1].split()) == {"python3", "iptables", "ipset", "kmod"}
    assert "apt-get" not in stages["final"] and "pip" not in stages["final"]
    assert "--without-pip /opt/npctl" in stages["packages"]


def test_every_package_comes_from_a_lock_by_its_hash() -> None:
    installs = re.findall(r"pip(?: --python \S+)? (?:install|wheel) [^&\n]+", DOCKERFILE)
    assert len(installs) == 5
    for command in installs:
        by_hash, from_here, npctl_itself = "--require-hashes" in command, "--no-index" in command, command.rstrip().endswith(" .")
        assert by_hash or from_here or npctl_itself, command


def test_the_label_and_the_comment_say_the_version_that_pyproject_says() -> None:
    version = PROJECT["project"]["version"]
    assert f'org.opencontainers.image.version="{version}"' in DOCKERFILE
    assert f"docker build -t npctl:{version} ." in DOCKERFILE
    assert build_image.version() == version


def test_the_context_has_every_source_that_goes_into_the_wheel_and_nothing_more() -> None:
    let_through = set(re.findall(r"(?m)^!(\S+)$", (TOP / ".dockerignore").read_text(encoding="utf-8")))
    # The lab needs the chart, the image does not.
    included = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]) - {"charts/npctl"}
    roots = {package.split("/")[0] for package in included}
    files = {"LICENSE", "README.md", "pyproject.toml", "requirements-build.lock", "requirements-runtime.lock"}
    assert let_through == roots | files


def test_what_runs_is_what_was_tested() -> None:
    runtime, tested = _locked("requirements-runtime.lock"), _locked("requirements.lock")
    assert len(runtime) > 20
    assert {name: hashes for name, hashes in runtime.items() if tested.get(name) != hashes} == {}


def test_what_runs_is_locked_and_what_only_tests_is_not() -> None:
    names = {re.split(r"==", requirement)[0] for requirement in _locked("requirements-runtime.lock")}
    extras = PROJECT["project"]["optional-dependencies"]

    def wanted(lines: list[str]) -> set[str]:
        return {re.split(r"[<>=\[~!]", line)[0].lower().replace("_", "-") for line in lines if not line.startswith("npctl[")}

    needed = wanted([*PROJECT["project"]["dependencies"], *extras["operator"], *extras["agent"]])
    assert needed - names == set()
    assert (wanted(extras["test"]) - needed) & names == set()


# ---- what is in it ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive() -> Path:
    """The image of this checkout, as a Docker archive; built if need be, where that can be done."""
    lacking = [program for program in ("mmdebstrap", "buildah", "unshare") if shutil.which(program) is None]
    if lacking or subprocess.run(build_image.as_root(["true"]), capture_output=True, check=False).returncode:
        pytest.skip(f"no image can be built here: {', '.join(lacking) or 'that takes root'}; `./dev image` says what to do")
    return build_image.build()


@pytest.fixture(scope="module")
def configuration(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as tar:
        return json.loads(_content(tar, json.loads(_content(tar, "manifest.json"))[0]["Config"]))


@pytest.fixture(scope="module")
def system(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image's files, unpacked."""
    place = tmp_path_factory.mktemp("system")
    with tarfile.open(archive) as tar:
        for name in json.loads(_content(tar, "manifest.json"))[0]["Layers"]:
            _unpack(_content(tar, name), place)
    (place / "dev" / "null").touch()  # programs open it, and a file will do; the device is root's to make
    yield place
    shutil.rmtree(place)


def _unpack(layer: bytes, place: Path) -> None:
    """A layer over those below it: what it says is gone goes. Devices and owners are left out: they are root's to make."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        for gone in (Path(name) for name in tar.getnames() if "/.wh." in name):
            target = place / gone.parent / gone.name.removeprefix(".wh.")
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    unpack = ["tar", "--extract", "--no-same-owner", "--exclude=dev/*", "--exclude=.wh.*", "--directory", str(place)]
    subprocess.run(unpack, input=layer, check=True)


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def _in_system(system: Path, configuration: dict[str, Any], command: str, *, user: str = "--map-root-user") -> str:
    """What `command` prints in the image's files, in namespaces of its own."""
    environment = dict(pair.split("=", 1) for pair in configuration["config"]["Env"])
    unshare = ["unshare", "--user", user, "--net", "--mount", f"--root={system}", "/bin/sh", "-ec", command]
    done = subprocess.run(unshare, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


in_the_image = [pytest.mark.kernel, pytest.mark.timeout(900)]


class TestInTheImage:
    pytestmark = in_the_image

    def test_the_archive_has_a_name_without_a_registry_of_its_own(self, archive: Path) -> None:
        with tarfile.open(archive) as tar:
            names = json.loads(_content(tar, "manifest.json"))[0]["RepoTags"]
        assert [name.rsplit("/", 1)[-1] for name in names] == [f"npctl:{build_image.version()}"]

    def test_its_configuration_is_the_dockerfile_s(self, configuration: dict[str, Any]) -> None:
        assert configuration["config"]["User"] == "65532:65532"
        assert configuration["config"]["Entrypoint"] == ["npctl"]
        assert configuration["config"]["Labels"]["org.opencontainers.image.version"] == build_image.version()

    def test_both_programs_start_as_the_image_s_user(self, system: Path, configuration: dict[str, Any]) -> None:
        told = _in_system(
            system, configuration, "id -un; npctl --version; npctl agent --help; npctl operator --help", user="--map-user=65532"
        )
        assert told.startswith(f"npctl\nnpctl {build_image.version()}\n")
        assert "npctl agent" in told and "npctl operator" in told

    def test_everything_that_the_programs_import_is_there(self, system: Path, configuration: dict[str, Any]) -> None:
        modules = [
            f"netpol_{root}.{path.stem}" for root in ("compiler", "store", "kube", "operator", "agent") for path in _modules(root)
        ]
        _in_system(system, configuration, f"python -c 'import {', '.join(modules)}, iptc, npctl.main'")

    def test_rules_with_sets_are_programmed_by_either_backend(self, system: Path, configuration: dict[str, Any]) -> None:
        told = _in_system(
            system,
            configuration,
            "ipset create here hash:net; ipset add here 10.0.0.0/8; ipset add here 10.1.0.0/16 nomatch; ipset list here\n"
            "for backend in nft legacy; do\n"
            '  printf "*filter\\n-A INPUT -m set --match-set here src -m comment --comment c -j DROP\\nCOMMIT\\n" >/tmp/rules\n'
            "  iptables-$backend-restore --noflush /tmp/rules; iptables-$backend-save -t filter\n"
            "done",
        )
        assert told.count("-A INPUT -m set --match-set here src -m comment --comment c -j DROP") == 2

    def test_it_holds_nothing_that_builds_or_installs_python(self, system: Path) -> None:
        folders = [system / part for part in ("usr/bin", "usr/local/bin", "usr/sbin", "opt/npctl/bin")]
        assert BUILDS & {path.name for folder in folders for path in folder.iterdir()} == set()
        assert not list((system / "opt/npctl").rglob("pip"))

    def test_all_of_npctl_can_be_read_by_any_user(self, archive: Path) -> None:
        closed = []
        with tarfile.open(archive) as tar:
            for name in json.loads(_content(tar, "manifest.json"))[0]["Layers"]:
                with tarfile.open(fileobj=tar.extractfile(name)) as layer:
                    closed += [m.name for m in layer if m.name.startswith("opt/") and not m.issym() and m.mode & 0o004 == 0]
        assert closed == []


def _modules(root: str) -> list[Path]:
    return [path for path in (TOP / root / f"netpol_{root}").glob("*.py") if path.stem not in {"__init__", "__main__"}]
