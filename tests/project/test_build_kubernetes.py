"""The Kubernetes that the tests talk to: what is pinned, who builds it, and who finds it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import build_kubernetes
from netpol_lab.control.kubernetes_bin import PROGRAMS, KubernetesBinaries, cache_root, find
from netpol_lab.errors import LabLacksPrograms

TOP = Path(__file__).resolve().parents[2]
PINS = build_kubernetes.read_pins()
BASE, NODES, E2E = build_kubernetes.BASE, build_kubernetes.NODES, build_kubernetes.E2E


def _programs(folder: Path, names: tuple[str, ...] = PROGRAMS) -> Path:
    """A folder with an executable file for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def _builder(cache: Path, *groups: str, **environment: str) -> subprocess.Popen[str]:
    own = {name: value for name, value in os.environ.items() if name != "NPCTL_KUBERNETES_BIN"}
    return subprocess.Popen(
        [sys.executable, str(TOP / "tools" / "build_kubernetes.py"), *groups],
        env=own | {"XDG_CACHE_HOME": str(cache)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# ---- what is pinned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [BASE, NODES, E2E])
def test_every_program_is_of_a_module_that_go_mod_pins_and_go_sum_knows(group: str) -> None:
    for program in build_kubernetes.GROUPS[group].values():
        known = (TOP / "tests" / "cluster" / program.place / "go.sum").read_text(encoding="utf-8")
        assert f"{program.module} {build_kubernetes.read_pins(program.place).versions[program.module]} h1:" in known


def test_what_the_lab_looks_for_is_what_is_built_when_nothing_else_is_asked_for() -> None:
    assert set(build_kubernetes.GROUPS[BASE]) == set(PROGRAMS)


def test_the_staging_modules_are_those_published_with_this_kubernetes() -> None:
    replaced = re.findall(r"(?m)^\t(k8s\.io/\S+) => (\S+) v0\.(\S+)$", (TOP / "tests/cluster/go.mod").read_text(encoding="utf-8"))
    assert len(replaced) > 25
    assert {version for _, _, version in replaced} == {PINS.versions[build_kubernetes.KUBERNETES].removeprefix("v1.")}


def test_pypi_s_go_is_of_the_minor_version_that_go_mod_asks_for() -> None:
    version = tuple(map(int, build_kubernetes.pinned_toolchain().split(".")))
    assert version[:2] == PINS.go[:2] and version >= PINS.go


def test_another_go_is_another_folder() -> None:
    assert build_kubernetes.fingerprint(BASE, "go1.26.6") != build_kubernetes.fingerprint(BASE, "go1.26.7")


def test_each_group_of_programs_has_a_folder_of_its_own() -> None:
    assert len({build_kubernetes.folder_of(group) for group in (BASE, NODES, E2E)}) == 3


def test_the_programs_say_the_versions_that_go_mod_pins() -> None:
    programs = find()
    said = {
        name: subprocess.run(command, capture_output=True, text=True, check=True).stdout for name, command in _questions(programs)
    }
    assert f"Kubernetes {PINS.versions[build_kubernetes.KUBERNETES]}\n" in said["kube-apiserver"]
    assert f"Client Version: {PINS.versions[build_kubernetes.KUBERNETES]}\n" in said["kubectl"]
    assert f"etcd Version: {PINS.versions['go.etcd.io/etcd/server/v3'].removeprefix('v')}\n" in said["etcd"]
    assert (
        said["helm"].startswith(f"{PINS.versions['helm.sh/helm/v3']}+")
        or said["helm"].strip() == PINS.versions["helm.sh/helm/v3"]
    )


def _questions(programs: KubernetesBinaries) -> list[tuple[str, list[str]]]:
    return [
        ("kube-apiserver", [str(programs.kube_apiserver), "--version"]),
        ("kubectl", [str(programs.kubectl), "version", "--client"]),
        ("etcd", [str(programs.etcd), "--version"]),
        ("helm", [str(programs.helm), "version", "--short"]),
    ]


def test_helm_renders_for_this_kubernetes_and_not_for_its_default_of_old(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: says, version: 1.0.0}\n", encoding="utf-8")
    (chart / "templates" / "it.yaml").write_text("said: {{ .Capabilities.KubeVersion.Version }}\n", encoding="utf-8")
    done = subprocess.run([str(find().helm), "template", str(chart)], capture_output=True, text=True, check=True)
    minor = ".".join(PINS.versions[build_kubernetes.KUBERNETES].split(".")[:2])
    assert f"said: {minor}.0\n" in done.stdout


# ---- who builds it ---------------------------------------------------------------------------------------------------


def test_a_second_builder_waits_and_then_finds_all_done(tmp_path: Path) -> None:
    first = build_kubernetes.only_one(tmp_path / "npctl" / "kubernetes" / "lock", "Kubernetes")
    with first:
        second = _builder(tmp_path)
        assert second.stderr is not None
        assert second.stderr.readline() == "another ./dev builds Kubernetes just now; waiting for it\n"
        (folder,) = (tmp_path / "npctl" / "kubernetes").glob("v*")
        _programs(folder)
    out, errors = second.communicate(timeout=60)
    assert (second.returncode, out, errors) == (0, f"{folder}\n", "")


def test_what_is_there_is_not_built_again_and_becomes_the_newest(tmp_path: Path) -> None:
    here = _programs(tmp_path / "npctl" / "kubernetes" / build_kubernetes.folder_of(BASE).name)
    other = _programs(tmp_path / "npctl" / "kubernetes" / "v0-other")
    os.utime(here, (1, 1))
    out, errors = _builder(tmp_path).communicate(timeout=60)
    assert (out, errors) == (f"{here}\n", "")
    assert find({"XDG_CACHE_HOME": str(tmp_path)}).etcd == here / "etcd"
    assert other.is_dir()


def test_the_nodes_programs_are_built_only_when_they_are_asked_for(tmp_path: Path) -> None:
    cache = tmp_path / "npctl"
    _programs(cache / "kubernetes" / build_kubernetes.folder_of(BASE).name)
    assert _builder(tmp_path).wait(60) == 0
    assert not (cache / "nodes").exists()
    here = _programs(cache / "nodes" / build_kubernetes.folder_of(NODES).name, tuple(build_kubernetes.GROUPS[NODES]))
    assert _builder(tmp_path, NODES).communicate(timeout=60) == (f"{here}\n", "")


def test_without_the_module_proxy_one_line_says_so_and_nothing_half_built_is_left(tmp_path: Path) -> None:
    # PyPI's Go, where there is no other, is not fetched again.
    if (cache_root() / "go").is_dir():
        (tmp_path / "npctl").mkdir()
        (tmp_path / "npctl" / "go").symlink_to(cache_root() / "go")
    builder = _builder(tmp_path, GOPROXY="http://127.0.0.1:9", GOMODCACHE=str(tmp_path / "modules"), GOFLAGS="-modcacherw")
    out, errors = builder.communicate(timeout=100)
    assert builder.returncode == 1
    assert out == ""
    progress, error = errors.splitlines()
    assert re.fullmatch(r"etcd v\S+ \.\.\. failed", progress)
    assert re.match(
        r"\./dev: the network did not give what that step needs \(.*127\.0\.0\.1:9.*\); all it printed is in build/logs/", error
    )
    (folder,) = (tmp_path / "npctl" / "kubernetes").glob("v*")
    assert list(folder.iterdir()) == []


# ---- who finds it ----------------------------------------------------------------------------------------------------


def test_the_variable_goes_before_the_cache_and_the_cache_before_path(tmp_path: Path) -> None:
    named, cached, on_path = (_programs(tmp_path / part) for part in ("named", "cache/npctl/kubernetes/v1", "path"))
    environment = {"NPCTL_KUBERNETES_BIN": str(named), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": str(on_path)}
    assert find(environment) == KubernetesBinaries(*(named / program for program in PROGRAMS))
    del environment["NPCTL_KUBERNETES_BIN"]
    assert find(environment).kube_apiserver == cached / "kube-apiserver"
    (cached / "helm").unlink()
    assert find(environment).helm == on_path / "helm"


def test_of_several_folders_the_newest_complete_one_counts(tmp_path: Path) -> None:
    root = tmp_path / "npctl" / "kubernetes"
    for age, name in enumerate(("newest", "middle", "oldest")):
        _programs(root / name, PROGRAMS if name != "newest" else PROGRAMS[:3])
        os.utime(root / name, (1_000_000 - age, 1_000_000 - age))
    (root / "lock").touch()
    assert find({"XDG_CACHE_HOME": str(tmp_path)}).kubectl == root / "middle" / "kubectl"


@pytest.mark.parametrize("relative", ["", "some/where"])
def test_the_cache_is_in_the_home_folder_unless_xdg_says_otherwise(relative: str) -> None:
    assert cache_root({"XDG_CACHE_HOME": relative}) == Path.home() / ".cache" / "npctl"


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path) -> None:
    on_path = _programs(tmp_path / "path", ("kubectl", "helm"))
    with pytest.raises(LabLacksPrograms, match=r"not found: etcd, kube-apiserver; `\./dev cluster` builds them"):
        find({"XDG_CACHE_HOME": str(tmp_path), "PATH": str(on_path)})
    with pytest.raises(LabLacksPrograms, match=rf"NPCTL_KUBERNETES_BIN={on_path} lacks etcd, kube-apiserver; .*`\./dev cluster`"):
        find({"NPCTL_KUBERNETES_BIN": str(on_path)})


def test_a_variable_that_names_a_wrong_folder_stops_the_builder(tmp_path: Path) -> None:
    builder = _builder(tmp_path, NPCTL_KUBERNETES_BIN=str(tmp_path))
    assert "lacks etcd, kube-apiserver, kubectl, helm: correct it, or unset it" in builder.communicate(timeout=60)[1]
    assert builder.returncode == 1
