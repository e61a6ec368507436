"""The cluster that a scenario runs on, changed by kubectl alone: apply -f, delete -f, label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cluster_api import Cluster
from netpol_lab.scenarios.cases import Manifest
from netpol_lab.scenarios.drivers import LabDriver

MACHINES = ("Node",)
"""What the lab was started with; everything else comes by kubectl."""


class KubectlDriver(LabDriver):
    """Real packets in a running lab. Each change returns when it is in force on every node."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.client)
        self._cluster = cluster

    def apply(self, manifests: Sequence[Manifest]) -> None:
        self._kubectl("apply", [m for m in manifests if m["kind"] not in MACHINES])

    def delete(self, manifests: Sequence[Manifest]) -> None:
        self._kubectl("delete", manifests, "--ignore-not-found")

    def _kubectl(self, verb: str, manifests: Sequence[Manifest], *options: str) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self._cluster.kubectl(verb, "-f", "-", *options, stdin=text)
        self._client.wait()

    def label(self, pod: str, labels: Mapping[str, str | None]) -> None:
        namespace, _, beginning = pod.partition("/")
        name = self._name(namespace, beginning)
        words = [f"{k}-" if v is None else f"{k}={v}" for k, v in labels.items()]
        self._cluster.kubectl("label", "pod", name, "-n", namespace, "--overwrite", *words)
        self._client.wait()

    def _name(self, namespace: str, beginning: str) -> str:
        """The whole name of a pod that a scenario names by its workload."""
        names = [pod["metadata"]["name"] for pod in self._cluster.items("pods", "-n", namespace)]
        (found,) = [name for name in names if name == beginning or name.startswith(f"{beginning}-")]
        return str(found)
