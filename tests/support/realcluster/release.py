"""npctl on a real cluster as its users install it: the chart, by helm, with the project's own image.

In: a running cluster, the image's archive. Out: a release whose operator and agents are ready; later none, and clean nodes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from netpol_lab import kubernetes_bin
from netpol_lab.chart import chart_folder
from netpol_lab.errors import LabError
from realcluster.client import RealCluster

NAMESPACE = "npctl-system"
_NAME = ("npctl", "--namespace", NAMESPACE)
_WAIT = ("--wait", "--timeout", "120s")
_LIMIT = 180.0


class Release:
    """Every method returns when helm says that it is done, and raises LabError with helm's own words."""

    def __init__(self, cluster: RealCluster) -> None:
        self._cluster = cluster

    def install(self, archive: Path, *options: str) -> None:
        """Returns when the operator and every node's agent are ready. `options` are helm's, such as "--set", "a=b"."""
        self._cluster.load(archive)
        self._helm("install", *_NAME, str(chart_folder()), "--create-namespace", *_WAIT, *options)

    def upgrade(self, *options: str) -> None:
        self._helm("upgrade", *_NAME, str(chart_folder()), *_WAIT, *options)

    def uninstall(self) -> None:
        """As the chart's README says: first the rules, which stay in place when an agent just ends."""
        self.upgrade("--set", "agent.cleanup=true")
        self._helm("uninstall", *_NAME, "--wait")

    def _helm(self, *arguments: str) -> None:
        command: Sequence[str] = (str(kubernetes_bin.find().helm), *arguments)
        environment = dict(self._cluster.environment)
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, env=environment, check=False)
        if done.returncode:
            raise LabError(f"helm {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")
