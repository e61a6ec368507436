"""A scenario file: what `npctl lab run FOLDER/` applies and what must be seen, as frozen values.

In: the text of FOLDER/expected.scenario (YAML; its form is in examples/README.md). Out: a `Scenario` with every list of
sources, targets and ports multiplied out, or ScenarioError with file, line and field. Excluded: the objects' files
themselves, and running anything (`cases`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from netpol_compiler.model.kinds import Protocol
from netpol_compiler.model.objects import Rejected
from netpol_lab.errors import LabError
from netpol_manifests.documents import Document, decode, parse_yaml

SCENARIO_FILE = "expected.scenario"
API_VERSION, KIND = "lab.npctl.dev/v1", "Scenario"
ALLOWED, REFUSED = "allowed", "refused"
FieldPath = tuple[str | int, ...]


class ScenarioError(LabError):
    """The scenario file is wrong; `rejected` says where and why, and the text is its words."""

    def __init__(self, *rejected: Rejected) -> None:
        super().__init__("\n".join(r.words for r in rejected))
        self.rejected = rejected


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a connection: `name` as the scenario calls it, `where` as the lab understands it."""

    name: str
    where: str


@dataclass(frozen=True, slots=True)
class Check:
    """One connection and what must be seen of it.

    `protocol` and `port` are None for ICMP. `resolve` is a name to look up at the DNS server; then `target` is that
    name, and `protocol` and `port` are DNS's. `expect` is "allowed" or "refused".
    """

    source: Place
    target: Place
    protocol: Protocol | None
    port: int | None
    expect: str
    note: str = ""
    resolve: str = ""

    @property
    def port_text(self) -> str:
        """`8080`, `53/udp` or `icmp`; `dns` for a lookup."""
        if self.resolve:
            return "dns"
        if self.protocol is None:
            return "icmp"
        return str(self.port) if self.protocol is Protocol.TCP else f"{self.port}/{self.protocol.value.lower()}"


@dataclass(frozen=True, slots=True)
class LabelChange:
    """Labels to set on one pod; a value of None removes the label."""

    pod: Place
    labels: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Patch:
    """A JSON patch of one object that the case applied; `target` is KIND/NAMESPACE/NAME."""

    target: str
    operations: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What is done, in the order of the fields, and what must be seen afterwards. `apply` and `delete` are file names."""

    title: str
    apply: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    labels: tuple[LabelChange, ...] = ()
    patches: tuple[Patch, ...] = ()
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    title: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`folder` holds every file that is named; `environment` is applied before the first case."""

    folder: Path
    environment: tuple[str, ...]
    cases: tuple[Case, ...]


def read_scenario(folder: Path) -> Scenario:
    """Read FOLDER/expected.scenario. Raises ScenarioError with file, line, field and reason for anything wrong."""
    path = folder / SCENARIO_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"{error.strerror}; a folder to run holds {SCENARIO_FILE}, see examples/README.md"
        raise ScenarioError(Rejected("file", "", SCENARIO_FILE, (), reason, str(path))) from error
    text = decode(content, str(path))
    if isinstance(text, Rejected):
        raise ScenarioError(text)
    documents, rejected = parse_yaml(text, str(path))
    if rejected:
        raise ScenarioError(*rejected)
    if len(documents) != 1:
        raise ScenarioError(Rejected("file", "", SCENARIO_FILE, (), f"holds {len(documents)} documents; expected 1", str(path)))
    return _Reader(documents[0], folder).scenario()


class _Reader:
    """Reads one document; every method takes the value with its path, for the message."""

    def __init__(self, document: Document, folder: Path) -> None:
        self._document = document
        self._folder = folder
        self._names: dict[str, str] = {}

    def scenario(self) -> Scenario:
        data = self._document.data
        self._only(data, (), {"apiVersion", "kind", "metadata", "environment", "names", "cases"})
        if (data["apiVersion"], data["kind"]) != (API_VERSION, KIND):
            self._fail(("kind",), f"expected {API_VERSION} {KIND}")
        names = self._mapping(data.get("names", {}), ("names",))
        self._names = {str(k): self._text(v, ("names", str(k))) for k, v in names.items()}
        environment = self._files(data.get("environment", []), ("environment",))
        cases = tuple(self._case(c, ("cases", i)) for i, c in enumerate(self._list(data.get("cases"), ("cases",))))
        return Scenario(self._folder, environment, cases)

    def _case(self, value: Any, path: FieldPath) -> Case:
        data = self._only(self._mapping(value, path), path, {"case", "steps"})
        steps = self._list(data.get("steps"), (*path, "steps"))
        title = self._text(data.get("case"), (*path, "case"))
        return Case(title, tuple(self._step(s, (*path, "steps", i)) for i, s in enumerate(steps)))

    def _step(self, value: Any, path: FieldPath) -> Step:
        data = self._only(self._mapping(value, path), path, {"step", "apply", "delete", "label", "patch", "checks"})
        checks = self._list(data.get("checks", []), (*path, "checks"))
        return Step(
            title=self._text(data.get("step"), (*path, "step")),
            apply=self._files(data.get("apply", []), (*path, "apply")),
            delete=self._files(data.get("delete", []), (*path, "delete")),
            labels=tuple(self._label(v, p) for v, p in self._one_or_many(data, "label", path)),
            patches=tuple(self._patch(v, p) for v, p in self._one_or_many(data, "patch", path)),
            checks=tuple(c for i, v in enumerate(checks) for c in self._checks(v, (*path, "checks", i))),
        )

    def _label(self, value: Any, path: FieldPath) -> LabelChange:
        data = self._only(self._mapping(value, path), path, {"pod", "labels"})
        labels = self._mapping(data.get("labels"), (*path, "labels"))
        return LabelChange(self._place(data.get("pod"), (*path, "pod")), dict(labels))

    def _patch(self, value: Any, path: FieldPath) -> Patch:
        data = self._only(self._mapping(value, path), path, {"object", "ops"})
        operations = self._list(data.get("ops"), (*path, "ops"))
        target = self._text(data.get("object"), (*path, "object"))
        if target.count("/") != 2:
            self._fail((*path, "object"), f"expected KIND/NAMESPACE/NAME, got {target!r}")
        return Patch(target, tuple(self._mapping(o, (*path, "ops", i)) for i, o in enumerate(operations)))

    def _checks(self, value: Any, path: FieldPath) -> Iterator[Check]:
        data = self._only(self._mapping(value, path), path, {"from", "to", "port", "resolve", "expect", "note"})
        expect, note = str(data.get("expect")), str(data.get("note", ""))
        if expect not in (ALLOWED, REFUSED):
            self._fail((*path, "expect"), f"expected {ALLOWED} or {REFUSED}, got {expect!r}")
        sources = [self._place(v, (*path, "from")) for v in _many(data.get("from"))]
        if "resolve" in data:
            if {"to", "port"} & set(data):
                self._fail((*path, "resolve"), "stands in place of to and port; write a second check")
            for source, name in product(sources, _many(data["resolve"])):
                text = self._text(name, (*path, "resolve"))
                yield Check(source, Place(text, text), Protocol.UDP, 53, expect, note, resolve=text)
            return
        targets = [self._place(v, (*path, "to")) for v in _many(data.get("to"))]
        ports = [self._port(v, (*path, "port")) for v in _many(data.get("port"))]
        for source, target, (protocol, port) in product(sources, targets, ports):
            yield Check(source, target, protocol, port, expect, note)

    def _place(self, value: Any, path: FieldPath) -> Place:
        text = self._text(value, path)
        where = self._names.get(text, text)
        if "/" not in where and "." not in where and ":" not in where:
            self._fail(path, f"{text!r} is none of the names: {', '.join(sorted(self._names)) or 'there are none'}")
        return Place(text, where)

    def _port(self, value: Any, path: FieldPath) -> tuple[Protocol | None, int | None]:
        number, _, protocol = str(value).partition("/")
        if value == "icmp":
            return None, None
        known = {p.value.lower(): p for p in Protocol}
        if not number.isdigit() or not 0 < int(number) < 65536 or (protocol or "tcp") not in known:
            self._fail(path, f"expected a port such as 8080, 53/udp or icmp, got {value!r}")
        return known[protocol or "tcp"], int(number)

    def _files(self, value: Any, path: FieldPath) -> tuple[str, ...]:
        names = tuple(self._text(v, path) for v in _many(value))
        for name in names:
            if not (self._folder / name).is_file():
                self._fail(path, f"{name} is not a file of {self._folder}")
        return names

    def _one_or_many(self, data: Mapping[str, Any], key: str, path: FieldPath) -> list[tuple[Any, FieldPath]]:
        value = data.get(key, [])
        if isinstance(value, list):
            return [(v, (*path, key, i)) for i, v in enumerate(value)]
        return [(value, (*path, key))]

    def _mapping(self, value: Any, path: FieldPath) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            self._fail(path, f"expected a mapping, got {value!r}")
        return value

    def _list(self, value: Any, path: FieldPath) -> list[Any]:
        if not isinstance(value, list):
            self._fail(path, f"expected a list, got {value!r}")
        return value

    def _text(self, value: Any, path: FieldPath) -> str:
        if not isinstance(value, str) or not value:
            self._fail(path, f"expected text, got {value!r}")
        return value

    def _only(self, data: Mapping[str, Any], path: FieldPath, known: set[str]) -> Mapping[str, Any]:
        for key in data:
            if key not in known:
                self._fail((*path, key), f"is not known here; known are {', '.join(sorted(known))}")
        return data

    def _fail(self, path: FieldPath, reason: str) -> NoReturn:
        document = self._document
        raise ScenarioError(Rejected(KIND, "", document.name, path, reason, document.file, document.line_of(path)))


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
