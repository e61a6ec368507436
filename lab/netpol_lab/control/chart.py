"""npctl's own chart, installed into the lab as a user installs it: `helm template`, then applied, definitions first.

In: helm, values that point at the lab. Out: the chart's objects on the API server; its resources are served when it returns.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from netpol_lab.control.cluster_api import ClusterApi
from netpol_lab.errors import LabError, LabTimeout

RELEASE, NAMESPACE = "npctl", "npctl-system"
_DEFINITION = "CustomResourceDefinition"
_PROGRAMS = ("Deployment", "DaemonSet", "PodDisruptionBudget", "NetworkPolicy")
_POLL_SECONDS = 0.05


def chart_folder() -> Path:
    """Where the chart is: in the checkout, or beside this package where that is installed. Raises LabError."""
    here = Path(__file__).resolve().parent
    for folder in (here.parents[2] / "charts" / "npctl", here.parent / "charts" / "npctl"):
        if (folder / "Chart.yaml").is_file():
            return folder
    raise LabError("npctl's chart is not here: this installation lacks charts/npctl")


def rendered(helm: Path, values: Mapping[str, Any], version: str, home: Path) -> list[dict[str, Any]]:
    """The chart's objects with these values, for an API server of `version`. Raises LabError with helm's own words."""
    command = [
        str(helm), "template", RELEASE, str(chart_folder()), "--namespace", NAMESPACE, "--kube-version", version,
        "--include-crds", "--values", "-",
    ]  # fmt: skip
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, env=env, cwd="/", check=False)
    if done.returncode != 0:
        raise LabError(f"helm template failed ({done.returncode}): {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


async def install(api: ClusterApi, objects: list[dict[str, Any]], programs: bool, limit: float) -> None:
    """Apply the chart's objects. Without `programs`: definitions and rights, but nothing that runs. Raises LabError."""
    wanted = [o for o in objects if programs or o["kind"] not in _PROGRAMS]
    definitions = [o for o in wanted if o["kind"] == _DEFINITION]
    await api.apply(definitions, RELEASE)
    await _served(api, [o["metadata"]["name"] for o in definitions], limit)
    await api.apply([o for o in wanted if o["kind"] != _DEFINITION], RELEASE)


async def _served(api: ClusterApi, names: list[str], limit: float) -> None:
    """Return when the API server serves the defined resources."""
    deadline = time.monotonic() + limit
    resource = await api.resource("apiextensions.k8s.io/v1", _DEFINITION)
    for name in names:
        while not _established(await api.client.get(resource.path(name=name))):
            if time.monotonic() > deadline:
                raise LabTimeout(f"the API server does not serve {name} within {limit:g} s")
            await asyncio.sleep(_POLL_SECONDS)


def _established(definition: Mapping[str, Any]) -> bool:
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
