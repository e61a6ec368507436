"""The operator and the nodes' agents on the lab's folders (in a lab without an API server), and whether they are in force.

In: the lab's folders. Out: processes that only share those folders; and whether all is in force: if not, who lags and why.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpol_lab.errors import LabTimeout
from netpol_lab.network import cni_results
from netpol_lab.network.builder import lock_of
from netpol_lab.processes import Processes
from netpol_lab.topology.model import Backend, LabNode
from netpol_store.folder import read_revision

OPERATOR = "operator"
POLL_SECONDS = 0.01


@dataclass(slots=True)
class FolderPrograms:
    """The daemons of one lab, among its processes by name: "operator", "agent-NODE"."""

    folder: Path
    processes: Processes
    backend: Backend
    established: str = "cut"
    accept: str = "return"
    guard: str = "off"

    @property
    def running(self) -> tuple[str, ...]:
        """Their names; none where the lab has no agents."""
        return self.processes.names()

    def start_operator(self) -> None:
        self._start(OPERATOR, "", ["operator", "--objects", str(self.folder / "objects"), "--ir", str(self.folder / "ir")])

    def set_nodes(self, nodes: Mapping[str, LabNode]) -> None:
        """One agent for each node; agents of deleted nodes are ended, and their reports deleted."""
        wanted = {f"agent-{n.name}": n for n in nodes.values()}
        for name in [n for n in self.running if n != OPERATOR and n not in wanted]:
            self.processes.end(name, 5)
            (self.folder / "reports" / f"{name.removeprefix('agent-')}.json").unlink(missing_ok=True)
        for name, node in wanted.items():
            if name not in self.running:
                folders = [x for f in ("objects", "ir", "reports") for x in (f"--{f}", str(self.folder / f))]
                options = ["--backend", self.backend.value, "--established", self.established, "--accept", self.accept]
                options += ["--guard", self.guard, "--cni-results", str(cni_results.folder(node.netns))]
                options += [part for cidr in node.cidrs for part in ("--pod-cidr", str(cidr))]
                self._start(name, node.netns, ["agent", "--node", node.name, *folders, *options])

    def _start(self, name: str, netns: str, arguments: list[str]) -> None:
        env = {**os.environ, **lock_of(netns)}
        self.processes.start(name, [sys.executable, "-m", "npctl", *arguments], netns, env)

    def pid(self, name: str) -> int | None:
        """The process's id in the lab's own pid namespace; None when it does not run."""
        return self.processes.pid(name)

    def report(self, node: str) -> dict[str, Any]:
        """The node's last report; empty when there is none."""
        try:
            content = json.loads((self.folder / "reports" / f"{node}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def lagging(self, objects_revision: int) -> dict[str, str]:
        """Who has not yet caught up with that revision of the objects, and why. Empty: all is in force."""
        ir = read_revision(self.folder / "ir")
        if self.pid(OPERATOR) is None:
            return {OPERATOR: f"has ended{self.processes.tail(OPERATOR)}"}
        if int(ir.get("objects_revision", 0)) < objects_revision:
            return {OPERATOR: f"has published objects revision {ir.get('objects_revision', 'none')} of {objects_revision}"}
        found: dict[str, str] = {}
        for name in self.running:
            if name != OPERATOR:
                why = self._agent_lag(name, int(ir["revision"]), objects_revision)
                if why:
                    found[name] = why
        return found

    def _agent_lag(self, name: str, ir_revision: int, objects_revision: int) -> str:
        if self.pid(name) is None:
            return f"has ended{self.processes.tail(name)}"
        report = self.report(name.removeprefix("agent-"))
        if not report:
            return f"has not reported yet{self.processes.tail(name)}"
        if int(report.get("ir_revision") or 0) < ir_revision or int(report.get("objects_revision") or 0) < objects_revision:
            return (
                f"has IR revision {report.get('ir_revision')} of {ir_revision}, "
                f"objects revision {report.get('objects_revision')} of {objects_revision}"
            )
        failures = report.get("failures") or []
        if failures:
            first = failures[0]
            return f"could not program {first.get('what', '?')}: {first.get('error', '?')} ({first.get('text', '')})"
        return "" if report.get("in_sync") else "is not in sync yet"

    def wait(self, objects_revision: int, limit: float) -> None:
        """Return when that revision is in force everywhere. Raises LabTimeout that says who lags, and why."""
        if not self.running:
            return
        deadline = time.monotonic() + limit
        while lag := self.lagging(objects_revision):
            dead = [n for n in lag if self.pid(n) is None]
            if dead or time.monotonic() > deadline:
                words = "; ".join(f"{name} {why}" for name, why in lag.items())
                raise LabTimeout(f"not in force{'' if dead else f' within {limit:g} s'}: {words}")
            time.sleep(POLL_SECONDS)
