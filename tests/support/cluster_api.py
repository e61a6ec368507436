"""A lab on a real API server, as the tests use it: kubectl, the lab's client, and waiting for what must become true."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from netpol_lab.client import LabClient
from netpol_lab.control import kubernetes_bin
from until import until

T = TypeVar("T")
Object = Mapping[str, Any]


def nodes(*numbers: int) -> list[dict[str, Any]]:
    """Nodes 172.31.7.NUMBER; each has the block 10.200.NUMBER.0/24."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"172.31.7.{n}"},
            "spec": {"podCIDR": f"10.200.{n}.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": f"172.31.7.{n}"}]},
        }
        for n in numbers
    ]


@dataclass(frozen=True)
class Cluster:
    """One running lab. `client` is the lab's own; everything else goes to its API server, from outside, as people do it."""

    client: LabClient

    @property
    def kubeconfig(self) -> Path:
        return self.client.kubeconfig

    @property
    def environment(self) -> dict[str, str]:
        """For programs that are to find the cluster (KUBECONFIG) and the lab (NPCTL_LAB_DIR)."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "NPCTL_LAB_DIR": str(self.client.folder.parent)}

    def run(self, *arguments: str, stdin: str | None = None, limit: float = 60) -> subprocess.CompletedProcess[str]:
        """kubectl, whatever comes of it."""
        command = [str(kubernetes_bin.find().kubectl), *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=limit, env=self.environment, check=False
        )

    def kubectl(self, *arguments: str, stdin: str | None = None, limit: float = 60) -> str:
        """What kubectl prints. Raises AssertionError with its complaint when it fails."""
        done = self.run(*arguments, stdin=stdin, limit=limit)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """`kubectl get ... -o json`, as a value."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def items(self, *arguments: str) -> list[Any]:
        """The objects of `kubectl get ... -o json`."""
        found: list[Any] = self.get(*arguments)["items"]
        return found

    def apply(self, objects: Iterable[Object]) -> str:
        """`kubectl apply -f -`."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.kubectl("apply", "-f", "-", stdin=text)

    def wait_for(self, predicate: Callable[[], T], limit: float, what: str) -> T:
        """Return what `predicate` gives as soon as it is true. Raises AssertionError after `limit` seconds, with `what`."""
        return until(predicate, limit, what)
