"""What a check is, what it looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key, Pod, Policy, Rejected
from netpol_compiler.reading.fields import Path
from netpol_manifests.documents import Document
from npctl.inputs.state import State


class Severity(str, Enum):
    """ERROR: part of the policy is not in force as written. WARNING: probably not what was meant. INFO: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found, with its place in the file and what to do about it."""

    code: str
    severity: Severity
    file: str
    line: int
    object: str
    field: str
    message: str
    remedy: str

    @property
    def namespace(self) -> str:
        return self.object.partition(" ")[2].partition("/")[0]

    @property
    def where(self) -> str:
        return f"{self.field}: " if self.field else ""

    @property
    def data(self) -> dict[str, Any]:
        names = ("code", "file", "line", "object", "field", "message", "remedy")
        return {"severity": self.severity.value, **{n: getattr(self, n) for n in names}}


@dataclass(frozen=True, slots=True)
class Subject:
    """One policy as written (`document`), as parsed, and the state in which it counts."""

    state: State
    document: Document
    policy: Policy

    @property
    def key(self) -> Key:
        return self.policy.key

    def selected(self) -> list[Pod]:
        """The pods that the policy selects now."""
        mine = [p for p in self.state.cluster.pods.values() if p.is_endpoint and p.key.namespace == self.key.namespace]
        return [p for p in mine if self.policy.pod_selector.matches(p.labels)]

    def rules(self, direction: Direction) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rules as written that are mappings, with their index."""
        spec = self.document.data.get("spec")
        rules = spec.get(direction.value) if isinstance(spec, dict) else None
        for index, rule in enumerate(rules if isinstance(rules, list) else ()):
            if isinstance(rule, dict):
                yield index, rule


Hit = tuple[Path, str, str]
"""What a check yields: the field's path, the message, the remedy."""

Find = Callable[[Subject], Iterator[Hit]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `find` yields a `Hit` for each finding."""

    code: str
    severity: Severity
    title: str
    find: Find

    def run(self, subject: Subject) -> Iterator[Finding]:
        for path, message, remedy in self.find(subject):
            document = subject.document
            field = Rejected("", "", "", path, "").field
            place = (document.file, document.line_of(path), f"NetworkPolicy {subject.key}")
            yield Finding(self.code, self.severity, *place, field, message, remedy)


CHECKS: dict[str, Check] = {}
"""Every check by its code, in the order of definition."""


def check(code: str, severity: Severity, title: str) -> Callable[[Find], Find]:
    """Register a check; `title` is what it finds, for `npctl lint --codes` and docs/cli.md."""

    def register(find: Find) -> Find:
        CHECKS[code] = Check(code, severity, title, find)
        return find

    return register
