"""Where the programs of Kubernetes are: etcd, kube-apiserver, kubectl and helm.

In: the environment and the cache folder that `./dev cluster` (tools/build_kubernetes.py) fills. Out: four paths to executable
files, all of one folder, unless they come from PATH. This only looks; nothing is built or started here.

A cache folder has a name that no reader needs to understand (it changes with the modules' versions and with Go's), so
the newest one that holds all four counts. One that is just being filled does not, and so never mixes with an older one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from netpol_lab.errors import LabLacksPrograms

PROGRAMS = ("etcd", "kube-apiserver", "kubectl", "helm")
FOLDER_VARIABLE = "NPCTL_KUBERNETES_BIN"
_REMEDY = "`./dev cluster` builds them"


@dataclass(frozen=True, slots=True)
class KubernetesBinaries:
    """Absolute paths of executable files."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path
    helm: Path


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder outside every checkout that holds what checkouts share: `kubernetes/` (binaries) and `go/` (toolchains)."""
    given = environment.get("XDG_CACHE_HOME", "")
    # The XDG rules say that a relative path is to be passed over.
    return (Path(given) if given.startswith("/") else Path.home() / ".cache") / "npctl"


def find(environment: Mapping[str, str] = os.environ) -> KubernetesBinaries:
    """The folder that NPCTL_KUBERNETES_BIN names, else the newest complete cache folder, else PATH.

    Raises LabLacksPrograms, which names what is missing where, and the remedy.
    """
    if given := environment.get(FOLDER_VARIABLE):
        folder = Path(given).absolute()
        if missing := lacking(folder):
            raise LabLacksPrograms(f"{FOLDER_VARIABLE}={given} lacks {', '.join(missing)}; without that variable, {_REMEDY}")
        return _in(folder)
    if newest := _newest_complete(cache_root(environment) / "kubernetes"):
        return _in(newest)
    found = {program: shutil.which(program, path=environment.get("PATH")) for program in PROGRAMS}
    if missing := [program for program, path in found.items() if path is None]:
        raise LabLacksPrograms(f"a real API server needs {', '.join(PROGRAMS)}; not found: {', '.join(missing)}; {_REMEDY}")
    return KubernetesBinaries(*(Path(path).absolute() for path in found.values() if path is not None))


def lacking(folder: Path, programs: Iterable[str] = PROGRAMS) -> list[str]:
    """Those of the programs that `folder` does not hold as executable files."""
    return [p for p in programs if not ((folder / p).is_file() and os.access(folder / p, os.X_OK))]


def _in(folder: Path) -> KubernetesBinaries:
    return KubernetesBinaries(*(folder / program for program in PROGRAMS))


def _newest_complete(root: Path) -> Path | None:
    complete = [folder for folder in root.iterdir() if not lacking(folder)] if root.is_dir() else []
    return max(complete, key=lambda folder: folder.stat().st_mtime_ns, default=None)
