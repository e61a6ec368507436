"""npctl on a real cluster as its users install it: the chart, by helm, with the project's own image.

In: a running cluster, the image's archive. Out: a release whose operator and agents are ready; later none, and clean nodes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from netpol_lab.control import kubernetes_bin
from netpol_lab.control.chart import chart_folder
from netpol_lab.errors import LabError
from netpol_realcluster.client import RealCluster

NAMESPACE = "npctl-system"
_NAME = ("npctl", "--namespace", NAMESPACE)
_TIMEOUT = "--timeout=120s"
_WAIT = ("--wait", _TIMEOUT)
_LIMIT = 180.0


class Release:
    """Every method returns when helm says that it is done, and raises LabError with helm's own words."""

    def __init__(self, cluster: RealCluster) -> None:
        self._cluster = cluster

    def install(self, archive: Path, *options: str) -> None:
        """Returns when the operator and every node's agent are ready. `options` are helm's, such as "--set", "a=b"."""
        self._cluster.load(archive)
        self._helm("install", *_NAME, str(chart_folder()), "--create-namespace", *_WAIT, *options)
        self._wait_for_agents()

    def exists(self) -> bool:
        return bool(self._helm("list", "--short", *_NAME[1:]).strip())

    def upgrade(self, *options: str) -> None:
        """Returns when every node's agent is the new one."""
        self._helm("upgrade", *_NAME, str(chart_folder()), "--reset-then-reuse-values", *_WAIT, *options)
        self._wait_for_agents()

    def uninstall(self) -> None:
        """As the chart's README says: first the rules, which stay in place when an agent just ends."""
        self.upgrade("--set", "agent.cleanup=true")
        self._helm("uninstall", *_NAME, "--wait")

    def _wait_for_agents(self) -> None:
        """helm's own waiting leaves out as many of them as may be replaced at a time."""
        self._run(str(kubernetes_bin.find().kubectl), "rollout", "status", "daemonset/npctl-agent", *_NAME[1:], _TIMEOUT)

    def _helm(self, *arguments: str) -> str:
        return self._run(str(kubernetes_bin.find().helm), *arguments)

    def _run(self, program: str, *arguments: str) -> str:
        environment = dict(self._cluster.environment)
        command = [program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, env=environment, check=False)
        if done.returncode:
            words = done.stderr.strip() or done.stdout.strip()
            raise LabError(f"{Path(program).name} {arguments[0]}: {words}")
        return done.stdout
