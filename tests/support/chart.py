"""The Helm chart as the tests use it: what helm renders from it, as objects, and its custom resource definitions.

In: values, written as for `helm --set`. Out: Kubernetes objects as dictionaries. Nothing is installed here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from netpol_lab.control import kubernetes_bin

CHART = Path(__file__).resolve().parents[2] / "charts" / "npctl"
RELEASE, NAMESPACE = "npctl", "npctl-system"
KUBERNETES = "1.36.3"
"""What helm is told that the cluster is, since `helm template` asks none."""

RIGHTS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")

Object = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm, whatever comes of it."""
    command = [str(kubernetes_bin.find().helm), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def template(*values: str, release: str = RELEASE, namespace: str = NAMESPACE) -> subprocess.CompletedProcess[str]:
    """`helm template` of the chart; each of `values` as for --set."""
    sets = [word for value in values for word in ("--set", value)]
    return helm("template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBERNETES, *sets)


def rendered(*values: str, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """The objects that `helm template` prints. Raises AssertionError with helm's words."""
    done = template(*values, release=release, namespace=namespace)
    assert done.returncode == 0, done.stderr
    return [data for data in yaml.safe_load_all(done.stdout) if data]


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    """Those of the kinds, in the order of `kinds`, which is the order to create them in."""
    found = list(objects)
    return [data for kind in kinds for data in found if data["kind"] == kind]


def definitions() -> list[Object]:
    """The custom resource definitions, which helm installs before everything else."""
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CHART / "crds").glob("*.yaml"))]
