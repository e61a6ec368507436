"""Runs a scenario: applies each case in turn, sends every connection of a step at once, and compares.

In: a folder with an expected.scenario and a `Driver`. Out: one `Row` for each connection. Excluded: how packets are
sent or simulated (`drivers`), the scenario's form (`scenario`), and how rows are printed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from netpol_compiler.model.objects import Rejected
from netpol_lab.errors import LabError
from netpol_lab.scenarios.json_patch import patched
from netpol_lab.scenarios.scenario import Case, Check, Patch, Scenario, ScenarioError, Step, read_scenario
from netpol_manifests.documents import decode, parse_yaml

Manifest = Mapping[str, Any]
Identity = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one connection: `verdict` allowed, refused or error; `answer` data, reset or none (what the
    other end said); `decided` names the policy and rule, in words."""

    verdict: str
    answer: str = ""
    decided: str = ""


class Driver(Protocol):
    """A cluster to run a scenario on. Each change returns when it is in force on every node."""

    simulated: bool

    def apply(self, manifests: Sequence[Manifest]) -> None:
        """Create or replace objects."""

    def delete(self, manifests: Sequence[Manifest]) -> None:
        """Remove objects; those that are gone already are no error."""

    def label(self, pod: str, labels: Mapping[str, str | None]) -> None:
        """Set labels of one pod; None removes. `pod` as a scenario writes it: NAMESPACE/NAME."""

    def labels(self, pod: str) -> Mapping[str, str]:
        """The pod's labels now."""

    def connect(self, checks: Sequence[Check]) -> list[Seen]:
        """Send all connections at once; one result for each, in the same order."""


@dataclass(frozen=True, slots=True)
class Row:
    """One connection of the scenario: what was expected, what was seen, and which rule decided."""

    case: str
    step: str
    check: Check
    seen: Seen
    simulated: bool

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the expected one; an allowed lookup must also have been answered."""
        if self.check.resolve and self.seen.verdict == "allowed" and self.seen.answer != "data":
            return False
        return self.seen.verdict == self.check.expect

    @property
    def as_json(self) -> dict[str, Any]:
        """For -o json: texts and booleans only."""
        check, seen = self.check, self.seen
        return {
            "case": self.case,
            "step": self.step,
            "from": check.source.name,
            "to": check.target.name,
            "port": check.port_text,
            "expected": check.expect,
            "seen": seen.verdict,
            "answer": seen.answer,
            "as_expected": self.as_expected,
            "decided": seen.decided,
            "note": check.note,
            "simulated": self.simulated,
        }


Report = Callable[[str], None]
"""Told one line of progress whenever something is begun."""


def run_cases(folder: Path, driver: Driver, report: Report = lambda line: None) -> tuple[Row, ...]:
    """Run FOLDER/expected.scenario on an empty cluster.

    Raises ScenarioError for a wrong file, before anything is applied, and LabError where the driver fails.
    """
    scenario = read_scenario(folder)
    runner = _Runner(scenario, driver, report)
    return runner.run()


class _Runner:
    def __init__(self, scenario: Scenario, driver: Driver, report: Report) -> None:
        self._driver = driver
        self._report = report
        self._scenario = scenario
        names = {n for c in scenario.cases for s in c.steps for n in (*s.apply, *s.delete)} | set(scenario.environment)
        self._files = {name: read_manifests(scenario.folder / name) for name in sorted(names)}
        self._applied: dict[Identity, Manifest] = {}  # what the current case has put in force
        self._old_labels: dict[str, dict[str, str | None]] = {}

    def run(self) -> tuple[Row, ...]:
        self._report("bringing up the environment")
        self._driver.apply([m for name in self._scenario.environment for m in self._files[name]])
        rows: list[Row] = []
        for number, case in enumerate(self._scenario.cases, start=1):
            for step in case.steps:
                count = len(step.checks)
                self._report(f"[{number}/{len(self._scenario.cases)}] {case.title}: {step.title} ({count} connections)")
                rows += self._step(case, step)
            self._restore()
        return tuple(rows)

    def _step(self, case: Case, step: Step) -> list[Row]:
        self._apply([m for name in step.apply for m in self._files[name]])
        self._delete([m for name in step.delete for m in self._files[name]])
        for change in step.labels:
            now, where = self._driver.labels(change.pod.where), change.pod.where
            before = self._old_labels.setdefault(where, {})
            before.update({k: now.get(k) for k in change.labels if k not in before})
            self._driver.label(where, change.labels)
        self._apply([self._patched(p) for p in step.patches])
        seen = self._driver.connect(step.checks)
        pairs = zip(step.checks, seen, strict=True)
        return [Row(case.title, step.title, check, result, self._driver.simulated) for check, result in pairs]

    def _apply(self, manifests: Sequence[Manifest]) -> None:
        if manifests:
            self._applied |= {identity(m): m for m in manifests}
            self._driver.apply(manifests)

    def _delete(self, manifests: Sequence[Manifest]) -> None:
        if manifests:
            for manifest in manifests:
                self._applied.pop(identity(manifest), None)
            self._driver.delete(manifests)

    def _patched(self, patch: Patch) -> Manifest:
        kind, namespace, name = patch.target.split("/")
        manifest = self._applied.get((kind, namespace, name))
        if manifest is None:
            raise LabError(f"the patch of {patch.target}: this case has not applied such an object")
        result: Manifest = patched(manifest, patch.operations)
        return result

    def _restore(self) -> None:
        """Remove what the case applied and take its labels back."""
        self._delete(list(self._applied.values()))
        for pod, labels in self._old_labels.items():
            if any(self._driver.labels(pod).get(k) != v for k, v in labels.items()):
                self._driver.label(pod, labels)
        self._old_labels.clear()


def identity(manifest: Manifest) -> Identity:
    """Kind, namespace (`default` where none is written) and name."""
    metadata = manifest["metadata"]
    return str(manifest["kind"]), str(metadata.get("namespace") or "default"), str(metadata["name"])


def read_manifests(path: Path) -> tuple[Manifest, ...]:
    """The objects of one file. Raises ScenarioError with file and line."""
    text = decode(path.read_bytes(), str(path))
    if isinstance(text, Rejected):
        raise ScenarioError(text)
    documents, rejected = parse_yaml(text, str(path))
    if rejected:
        raise ScenarioError(*rejected)
    return tuple(d.data for d in documents)
