"""A lab without an API server: its own store of objects, an operator and agents on folders. The other kind is `ApiLab`.

    apply, delete, label ──▶ ApiServer (what follows from it) ──▶ change (the network) ──▶ LAB/objects ──▶ operator, agents

Both kinds have the same methods, so that `Lab` need not ask which one it has. Safe to call from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from netpol_lab.errors import LabError
from netpol_lab.offline.agents import FolderPrograms
from netpol_lab.offline.objects import ApiServer, LabState, Object
from netpol_lab.options import Options
from netpol_lab.processes import Processes
from netpol_lab.topology.model import Families, Topology
from netpol_manifests.world import ObjectId

Tell = Callable[[str], None]


class FolderLab:
    """Objects, operator and agents of one lab. `change` makes a new state's network real."""

    def __init__(
        self, folder: Path, processes: Processes, families: Families, options: Options, change: Callable[[LabState], None]
    ) -> None:
        for name in ("objects", "ir", "reports"):
            (folder / name).mkdir(exist_ok=True)
        self._api = ApiServer(folder / "objects", families)
        self._programs = FolderPrograms(folder, processes, options.backend, options.established, options.accept, options.guard)
        self._agents = options.agents
        self._processes = processes
        self._change = change
        self._planned = LabState()
        self._lock = threading.RLock()

    @property
    def revision(self) -> int:
        """That of the objects, as the operator and the agents count it."""
        return self._api.revision

    def plan(self, objects: list[Object]) -> Topology:
        """What is to be built. Raises LabError for objects that are wrong, before anything is."""
        self._planned, _ = self._api.with_applied(objects)
        return self._planned.topology

    def start(self, tell: Tell, limit: float) -> None:
        """Build what was planned and start the programs; returns when it is in force."""
        if self._agents:
            self._programs.start_operator()
        with self._lock:
            self._make(self._planned)
        tell("waiting for the agents")
        self.wait(limit)

    def _make(self, state: LabState) -> None:
        """The network first, for a pod has its network before anybody hears of it."""
        self._change(state)
        self._api.commit(state)
        if self._agents:
            self._programs.set_nodes(state.topology.nodes)

    def apply(self, objects: list[Object], tell: Tell) -> list[dict[str, str]]:
        with self._lock:
            state, actions = self._api.with_applied(objects)
            for words in state.problems:
                tell(words)
            self._make(state)
            return actions

    def delete(self, objects: list[Object], limit: float) -> list[dict[str, str]]:
        with self._lock:
            state, actions = self._api.with_deleted(objects)
            self._make(state)
            return actions

    def label(self, oid: ObjectId, labels: Mapping[str, str | None]) -> Object:
        with self._lock:
            self._make(self._api.with_labels(oid, labels))
            return self._api.state.objects[oid]

    def get(self, kind: str | None, namespace: str | None, name: str | None) -> list[Object]:
        return self._api.get(kind, namespace, name)

    def wait(self, limit: float) -> None:
        self._programs.wait(self._api.revision, limit)

    def lagging(self) -> dict[str, str]:
        return self._programs.lagging(self._api.revision) if self._programs.running else {}

    @property
    def problems(self) -> tuple[str, ...]:
        return self._api.state.problems

    def control(self, program: str, action: str, limit: float) -> int | None:
        with self._lock:
            return self._processes.control(program, action)

    def compact(self) -> int:
        raise LabError("this lab has no API server, so there is no etcd: `npctl lab up --api` starts one with both")

    def report(self, node: str) -> dict[str, Any]:
        return self._programs.report(node)

    def status(self) -> dict[str, Any] | None:
        """There is no API server."""
        return None


__all__ = ["FolderLab"]
