"""`./dev conformance`: npctl, by its chart on a cluster with real nodes, under Kubernetes' own tests of NetworkPolicies.

In: the pod network, the specs, npctl's image. Out: a line for each spec on stderr, the sum on stdout; with --record its row
and the specs in docs/conformance.md. Exit code 0 when specs ran and all passed, 1 when not. Nothing of the cluster is left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import build_kubernetes
from netpol_lab.errors import LabError
from netpol_realcluster.client import RealCluster
from netpol_realcluster.networks.choice import DEFAULT, NETWORKS
from netpol_realcluster.trials import upstream
from netpol_realcluster.trials.release import Release
from netpol_realcluster.trials.upstream import Result
from steps import TOP

BASICS = "between server and client should (" + "|".join((
    "support a 'default-deny-ingress'",
    "enforce policy based on PodSelector (and|or) NamespaceSelector",
    "enforce policy based on Multiple PodSelectors and NamespaceSelectors",
    "enforce policy based on Ports",
    "allow ingress access on one named port",
    "allow egress access to server in CIDR block",
    "enforce except clause while egress access to server in CIDR block",
)) + ")"  # fmt: skip
"""One spec of each kind of rule: enough to tell whether a pod network and the rules go together."""
FOCUSES = {"all": upstream.NETWORK_POLICIES, "basics": BASICS}
PAGE = TOP / "docs" / "conformance.md"
_ROW_MARK, _LIST_MARK = "<!-- networks -->", "<!-- specs -->"


@dataclass(frozen=True, slots=True)
class Run:
    """What was run, and what came of it. `seconds`: of the specs alone."""

    network: str
    kubernetes: str
    commit: str
    results: Sequence[Result]
    seconds: float

    @property
    def failed(self) -> list[Result]:
        return [r for r in self.results if not r.passed]

    @property
    def words(self) -> str:
        passed = len(self.results) - len(self.failed)
        where = f"{self.network}, Kubernetes {self.kubernetes}, npctl at {self.commit}"
        return f"{passed} passed, {len(self.failed)} failed in {self.seconds:.0f} s ({where})"


def main() -> int:
    arguments = _parser().parse_args()
    arguments.focus = FOCUSES.get(arguments.focus, arguments.focus)
    try:
        run = _run(arguments)
    except LabError as error:
        print(f"./dev: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for result in run.failed:
        print(f"FAILED {result.name}: {result.message}")
    print(run.words if run.results else f"no spec's name matches {arguments.focus!r}")
    if arguments.record and run.results:
        PAGE.write_text(recorded(PAGE.read_text(encoding="utf-8"), run), encoding="utf-8")
    return int(bool(run.failed) or not run.results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev conformance", description="Kubernetes' own tests of NetworkPolicies.")
    add = parser.add_argument
    add("--network", choices=list(NETWORKS), default=DEFAULT, help=f"how pods of other nodes are reached ({DEFAULT})")
    add("--focus", default="all", metavar="REGEX", help=f"which specs, by their names; or {', '.join(FOCUSES)} (all)")
    add("--skip", default=upstream.WITHOUT_SCTP_SOCKETS, metavar="REGEX", help="which not (those with SCTP sockets)")
    add("--nodes", type=int, default=2, help="how many (2)")
    add("--record", action="store_true", help="keep the result in docs/conformance.md")
    add("--image", type=Path, required=True, help=argparse.SUPPRESS)
    add("--logs", type=Path, required=True, help=argparse.SUPPRESS)
    return parser


def _run(arguments: argparse.Namespace) -> Run:
    begin, commit = time.monotonic(), _commit()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {text}", file=sys.stderr, flush=True)

    options = {"nodes": arguments.nodes, "network": arguments.network, "logs": arguments.logs / "programs", "progress": tell}
    with (
        tempfile.TemporaryDirectory(prefix="npctl-conformance-") as folder,
        RealCluster(Path(folder) / "cluster", **options) as cluster,
    ):
        tell("installing npctl")
        Release(cluster).install(arguments.image)
        tell(f"Kubernetes' own tests: {arguments.focus}")
        started = time.monotonic()
        results = upstream.run(cluster, arguments.focus, arguments.skip, arguments.logs / "e2e.log", tell)
        seconds = time.monotonic() - started
    return Run(arguments.network, build_kubernetes.read_pins().versions["k8s.io/kubernetes"], commit, results, seconds)


def _commit() -> str:
    """The commit that is checked out, with a plus sign when something but the documentation was changed since."""
    commit, changed = (_git(*words) for words in (("describe", "--always"), ("diff", "--name-only", "HEAD", "--", ".", ":!docs")))
    return f"{commit}{'+' if changed else ''}" if commit else "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=TOP, capture_output=True, text=True, check=False).stdout.strip()


# ---- docs/conformance.md ---------------------------------------------------------------------------------------------


def recorded(page: str, run: Run) -> str:
    """The page with this run's row in the table of networks, in the place of the network's last one; and, when it was a run of
    all specs on the default network, with the list of them. Raises LabError when the page has no place for it."""
    passed = len(run.results) - len(run.failed)
    row = f"| {run.network} | {passed} | {len(run.failed)} | {run.seconds:.0f} s | {run.kubernetes} | {run.commit} |"
    rows = [line for line in _between(page, _ROW_MARK) if not line.startswith(f"| {run.network} |")]
    page = _replaced(page, _ROW_MARK, [*rows, row])
    if run.network == DEFAULT and len(run.results) >= len(_between(page, _LIST_MARK)):
        specs = sorted(run.results, key=lambda r: r.name)
        page = _replaced(page, _LIST_MARK, [f"| {r.name} | {r.state} | {r.seconds:.0f} s |" for r in specs])
    return page


def _between(page: str, mark: str) -> list[str]:
    parts = page.split(mark)
    if len(parts) != 3:
        raise LabError(f"{PAGE.name} must have the line {mark} twice: before and after a table's rows")
    return [line for line in parts[1].splitlines() if line]


def _replaced(page: str, mark: str, lines: Sequence[str]) -> str:
    before, _, after = page.split(mark)
    return "".join((before, mark, "\n", *(f"{line}\n" for line in lines), mark, after))


if __name__ == "__main__":
    sys.exit(main())
