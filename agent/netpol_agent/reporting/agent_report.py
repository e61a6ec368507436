"""What is in force on this node, for people and programs. `npctl wait` and `npctl status` read it.

In: the values of one moment. Out: a file, reports/<node>.json, replaced atomically and only when something changed; on the
Kubernetes API `node_report` writes the same values as a NodeReport.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.errors import Failure
from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.values import Ruleset
from netpol_store.folder import FolderWriter

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class AgentReport:
    """One node's state. The revisions are those whose content is programmed; `in_sync` says that all of it is.

    `complete`: all inputs are here. `policies`: those in force that select pods of this node, `namespace/name` -> digest.
    `revisions`: the API server's, where it is the source."""

    node: str
    ir_revision: int
    objects_revision: int
    backend: BackendKind
    families: tuple[Family, ...]
    in_sync: bool
    failures: tuple[Failure, ...]
    problems: tuple[str, ...]
    sizes: dict[str, Any]
    syncs: int
    repairs: int
    cut: int
    complete: bool = False
    policies: Mapping[str, str] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema": SCHEMA,
            "node": self.node,
            "ir_revision": self.ir_revision,
            "objects_revision": self.objects_revision,
            "backend": self.backend.value,
            "families": [int(f) for f in self.families],
            "in_sync": self.in_sync,
            "failures": [{"what": f.what, "text": f.text, "error": f.error} for f in self.failures],
            "problems": list(self.problems),
            "sizes": self.sizes,
            "syncs": self.syncs,
            "repairs": self.repairs,
            "connections_cut": self.cut,
        }


def sizes(ruleset: Ruleset) -> dict[str, Any]:
    """How much is programmed: chains and rules per family, sets and their members."""
    return {
        "chains": {str(int(f)): len(c) for f, c in ruleset.chains.items()},
        "rules": {str(int(f)): sum(map(len, c.values())) for f, c in ruleset.chains.items()},
        "sets": len(ruleset.sets),
        "members": sum(len(s.members) for s in ruleset.sets.values()),
    }


class Reporter(Protocol):
    """Where an agent reports how it stands. Called after every step, so it must be quick when nothing changed."""

    def write(self, report: AgentReport) -> bool:
        """Returns whether anything is new."""
        ...


class FolderReporter:
    """Writes one node's report to a folder."""

    def __init__(self, folder: Path, node: str) -> None:
        self._writer = FolderWriter(folder)
        """Writes what changed."""
        self._name = f"{node}.json"
        """The node's file."""

    def write(self, report: AgentReport) -> bool:
        """Returns whether the file changed."""
        return self._writer.write(self._name, json.dumps(report.document(), sort_keys=True).encode())
