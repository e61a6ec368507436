"""NodeReport, the custom resource: what is in force on one node. One module for who writes it and who reads it. Pure.

    /apis/npctl.dev/v1alpha1/nodereports/NODE

    agent:                     NodeReport --node_report_object--> object
    operator, npctl, lab:      object --report_of--> NodeReport

`report_of` raises nothing: a field of the wrong type counts as missing and is named in `unreadable`, so that one bad report does
not hide the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from netpol_api.api_objects import Json, JsonView
from netpol_api.kinds import NODE, NODE_REPORT

SCHEMA = 1
"""Of a NodeReport's status. A number of its own: reports stay readable when the IR's (wire.SCHEMA) rises."""
MOST_ENTRIES = 30
"""Failures and problems in one report at most; `failureCount` counts them all."""
LONGEST_TEXT = 1000
"""Characters of one of them at most."""
_LONGEST_KEY, _LONGEST_DIGEST = 63 + 1 + 253, 128
"""Characters of a policy's `namespace/name`, and of a digest."""
_REVISIONS = ("pods", "addressSets", "compiledPolicies")
_WORDS: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number"}
T = TypeVar("T")


class AgentPod(NamedTuple):
    """Where the agent can be asked for what its kernel has, through the API server's proxy."""

    namespace: str
    pod: str
    port: int


class Failure(NamedTuple):
    """What the kernel refused: the chain or set, the line, the kernel's words."""

    what: str
    text: str
    error: str


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node's state. `policies`: `namespace/name` -> digest, of those in force that select pods of the node.

    `time`: when it was written, RFC 3339. `complete`: all inputs were read. `unreadable`: what `report_of` passed over.
    """

    node: str
    policies: Mapping[str, str] = field(default_factory=dict)
    in_sync: bool = False
    complete: bool = True
    schema: int = SCHEMA
    time: str = ""
    version: str = ""
    backend: str = ""
    families: tuple[int, ...] = ()
    revisions: Mapping[str, str] = field(default_factory=dict)
    agent: AgentPod | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    failure_count: int = 0
    problems: tuple[str, ...] = ()
    syncs: int = 0
    repairs: int = 0
    connections_cut: int = 0
    unreadable: tuple[str, ...] = ()

    @property
    def in_force(self) -> Mapping[str, str]:
        """`policies`, if their schema is the one that we read."""
        return self.policies if self.schema == SCHEMA else {}

    @property
    def misunderstood(self) -> str:
        """Why the report, or a part of it, cannot be read; empty when all of it can."""
        if self.schema != SCHEMA:
            return f"its report has schema {self.schema}, and this npctl reads schema {SCHEMA}"
        return f"its report is not understood: {self.unreadable[0]}" if self.unreadable else ""

    @property
    def hides_policies(self) -> bool:
        """Whether it may name policies that we cannot read in it."""
        return self.schema != SCHEMA or any(field.startswith("status.policies") for field in self.unreadable)

    @property
    def trouble(self) -> str:
        """The first thing that is wrong on the node, in words; empty when it is in sync."""
        if self.misunderstood:
            return self.misunderstood
        if self.failures:
            return f"{self.failures[0].what}: {self.failures[0].error}"
        if self.problems:
            return self.problems[0]
        if not self.complete:
            return "its agent has not read everything yet"
        return "" if self.in_sync else "not in sync"

    def count(self, what: str) -> int:
        """How many rules, sets and so on are programmed, of all families."""
        found = self.sizes.get(what)
        return sum(n for n in (found.values() if isinstance(found, Mapping) else (found,)) if type(n) is int)


def node_report_path(node: str) -> str:
    return NODE_REPORT.path(name=node)


# -- writing -------------------------------------------------------------------------------------------


def node_report_object(report: NodeReport, owner_uid: str) -> Json:
    """The object, owned by its Node (whose uid this is), so that it goes when the Node goes."""
    metadata = {"name": report.node, "ownerReferences": [owner_reference(report.node, owner_uid)]}
    return {"apiVersion": NODE_REPORT.api_version, "kind": NODE_REPORT.kind, "metadata": metadata, "status": status_of(report)}


def owner_reference(node: str, uid: str) -> Json:
    return {"apiVersion": NODE.api_version, "kind": NODE.kind, "name": node, "uid": uid}


def status_of(report: NodeReport) -> Json:
    """The object's `status`; of failures and problems the first, each cut to what a report may hold."""
    failures = report.failures[:MOST_ENTRIES]
    problems = [p[:LONGEST_TEXT] for p in report.problems[:MOST_ENTRIES]]
    if len(report.problems) > MOST_ENTRIES:
        problems.append(f"and {len(report.problems) - MOST_ENTRIES} problems more")
    return {
        "schema": report.schema,
        "node": report.node,
        "version": report.version,
        "time": report.time,
        **({"agent": report.agent._asdict()} if report.agent else {}),
        "backend": report.backend,
        "families": list(report.families),
        "inSync": report.in_sync,
        "complete": report.complete,
        "revisions": {kind: report.revisions.get(kind, "") for kind in _REVISIONS},
        "policies": dict(report.policies),
        "policyCount": len(report.policies),
        "failures": [{**f._asdict(), "text": f.text[:LONGEST_TEXT], "error": f.error[:LONGEST_TEXT]} for f in failures],
        "failureCount": report.failure_count,
        "problems": problems,
        "sizes": dict(report.sizes),
        "syncs": report.syncs,
        "repairs": report.repairs,
        "connectionsCut": report.connections_cut,
    }


# -- reading -------------------------------------------------------------------------------------------


def report_of(item: JsonView) -> NodeReport:
    """What an object says, whose metadata the client has checked. One without a status is a report of schema 0, so of nothing."""
    faults: list[str] = []
    status = _Fields("status", _Fields("", item, faults).take("status", dict), faults)
    failures = _failures(status)
    return NodeReport(
        node=item["metadata"]["name"],
        policies=_policies(status),
        in_sync=status.take("inSync", bool),
        complete=status.take("complete", bool, default=True),
        schema=status.take("schema", int),
        time=status.text("time"),
        version=status.text("version"),
        backend=status.text("backend"),
        families=tuple(status.each("families", int)),
        revisions={k: v for k, v in status.take("revisions", dict).items() if isinstance(v, str)},
        agent=_agent(status),
        sizes=status.take("sizes", dict),
        failures=failures,
        failure_count=status.take("failureCount", int) or len(failures),
        problems=tuple(p[:LONGEST_TEXT] for p in status.each("problems", str)),
        syncs=status.take("syncs", int),
        repairs=status.take("repairs", int),
        connections_cut=status.take("connectionsCut", int),
        unreadable=tuple(faults),
    )


class _Fields(NamedTuple):
    """The fields of one object. What is there and of the wrong type is named in `faults`."""

    place: str
    data: JsonView
    faults: list[str]

    def take(self, name: str, wanted: type[T], default: T | None = None) -> T:
        value = self.data.get(name)
        if type(value) is wanted:
            return value
        if value is not None:
            self.fault(name, f"{type(value).__name__} in place of {_WORDS[wanted]}")
        return wanted() if default is None else default

    def text(self, name: str) -> str:
        return self.take(name, str)[:LONGEST_TEXT]

    def each(self, name: str, wanted: type[T]) -> list[T]:
        """The first entries of a list (one more than failures and problems may be: the last says how many are left out)."""
        entries = self.take(name, list)[: MOST_ENTRIES + 1]
        return [_Fields(self.place, {f"{name}[{i}]": e}, self.faults).take(f"{name}[{i}]", wanted) for i, e in enumerate(entries)]

    def fault(self, name: str, reason: str) -> None:
        self.faults.append(f"{self.place}.{name}: {reason}".removeprefix("."))


def _policies(status: _Fields) -> Mapping[str, str]:
    found = status.take("policies", dict)
    good = {key: digest for key, digest in found.items() if _is_entry(key, digest)}
    if len(good) < len(found):
        odd = min(found.keys() - good.keys())
        status.fault("policies", f"{len(found) - len(good)} entries are not NAMESPACE/NAME with a digest, such as {odd!r:.80}")
    return good


def _is_entry(key: str, digest: object) -> bool:
    namespace, _, name = key.partition("/")
    ok = namespace and name and "/" not in name and len(key) <= _LONGEST_KEY
    return bool(ok) and isinstance(digest, str) and 0 < len(digest) <= _LONGEST_DIGEST


def _failures(status: _Fields) -> tuple[Failure, ...]:
    entries = enumerate(status.each("failures", dict))
    fields = (_Fields(f"status.failures[{i}]", e, status.faults) for i, e in entries)
    return tuple(Failure(f.text("what"), f.text("text"), f.text("error")) for f in fields)


def _agent(status: _Fields) -> AgentPod | None:
    agent = _Fields("status.agent", status.take("agent", dict), status.faults)
    found = AgentPod(agent.text("namespace"), agent.text("pod"), agent.take("port", int))
    return found if all(found) else None
