"""Kubernetes' own tests, run against a real cluster: which specs, what became of each.

In: a cluster, ginkgo's regular expression for the specs. Out: `Result`s, one line of progress for each while it goes on. The
program is e2e.test, unmodified; it runs beside the API server, as an administrator's machine would.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import build_kubernetes
from netpol_lab.errors import LabError, LabLacksPrograms
from netpol_realcluster import plan
from netpol_realcluster.client import RealCluster

PROGRAM = "e2e.test"
NETWORK_POLICIES = "Netpol"
"""In the name of every spec that is about them."""
WITHOUT_SCTP_SOCKETS = r"\[Feature:SCTPConnectivity\]"
"""Specs that open SCTP sockets, which not every kernel has."""
_REPORT = "e2e.json"
_LIMIT_MINUTES = 60
_SPEC = re.compile(r"^\[sig-[\w-]+\] ")
_ENDED = re.compile(r"^(?:•|S|P).*\[([\d.]+) seconds\]")
_BRACKETS = re.compile(r"\s*\[[^\]]*\]")


@dataclass(frozen=True, slots=True)
class Result:
    """One spec. `state`: ginkgo's word, such as passed, failed, timedout; `message`: why it failed, else empty."""

    name: str
    state: str
    seconds: float
    message: str = ""

    @property
    def passed(self) -> bool:
        return self.state == "passed"


def program() -> Path:
    """Where the suite is. Raises LabLacksPrograms when it is not built."""
    found = build_kubernetes.folder_of(build_kubernetes.E2E) / PROGRAM
    if not found.exists():
        raise LabLacksPrograms("Kubernetes' own tests are not built: `./dev conformance` does it, or `./dev test` as root")
    return found


def run(cluster: RealCluster, focus: str, skip: str, log: Path, tell: Callable[[str], None] = lambda _: None) -> list[Result]:
    """Run the specs whose names match `focus` and not `skip`. What the program prints goes to `log`, a line for each to `tell`.

    Raises LabError when the program is not built or ends without a report.
    """
    report = cluster.folder / _REPORT
    report.unlink(missing_ok=True)
    options = [
        f"--kubeconfig={plan.FOLDER / 'kubeconfig-inside'}", "--provider=skeleton", f"--ginkgo.focus={focus}",
        f"--ginkgo.skip={skip}", "--ginkgo.v", "--ginkgo.no-color", f"--ginkgo.timeout={_LIMIT_MINUTES}m",
        f"--ginkgo.json-report={plan.FOLDER / _REPORT}",
    ]  # fmt: skip
    command = [*cluster.inside("api"), str(program()), *options]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file, _started(command, cluster) as child:
        assert child.stdout is not None  # it was asked for
        spec = ""
        for line in child.stdout:
            file.write(line)
            if _SPEC.match(line):
                spec = plain(line)
            elif ended := _ENDED.match(line):
                tell(f"{'FAILED' if '[FAILED]' in line else 'ok':>6} {float(ended[1]):6.1f} s  {spec}")
    if not report.exists():
        raise LabError(f"{PROGRAM} ended with {child.returncode} and without a report; what it said is in {log}")
    return results(json.loads(report.read_text(encoding="utf-8")))


def _started(command: Sequence[str], cluster: RealCluster) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=dict(cluster.environment),
    )  # fmt: skip


def results(report: Any) -> list[Result]:
    """Of ginkgo's JSON report: the specs that ran, and what beside the specs failed, in the order in which they ran."""
    found = []
    for suite in report:
        for spec in suite["SpecReports"]:
            state, is_spec = spec["State"], spec["LeafNodeType"] == "It"
            if state in ("skipped", "pending") or not (is_spec or state != "passed"):
                continue
            words = [*(spec.get("ContainerHierarchyTexts") or ()), spec.get("LeafNodeText") or spec["LeafNodeType"]]
            message = str((spec.get("Failure") or {}).get("Message") or "")
            found.append(Result(plain(" ".join(words)), state, spec["RunTime"] / 1e9, message))
    return found


def plain(name: str) -> str:
    """A spec's name without the labels in brackets."""
    return _BRACKETS.sub("", name).strip()
