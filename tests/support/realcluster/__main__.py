"""`./dev cluster VERB`: words around `client`.

In: a command line. Out: results on stdout, progress and errors on stderr, an exit code. What a verb does is in `client`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import build_kubernetes
from netpol_lab import kubernetes_bin
from netpol_lab.errors import LabError, LabMissing
from realcluster import plan
from realcluster.client import RealCluster
from realcluster.network import DEFAULT, NETWORKS


def main() -> int:
    """Returns the exit code."""
    arguments = _parser().parse_args()
    try:
        done: int = arguments.do(RealCluster(), arguments)
    except LabError as error:
        print(f"./dev: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev cluster", description="A Kubernetes with real nodes, on this machine alone.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verbs.add_parser("build", help="build what it needs and is not built yet; print the folders")  # ./dev does it
    up = verbs.add_parser("up", help="start one; it stays until `down`")
    up.add_argument("--nodes", type=int, default=2, help="how many (2)")
    up.add_argument("--network", choices=list(NETWORKS), default=DEFAULT, help=f"how pods of other nodes are reached ({DEFAULT})")
    up.add_argument("--image", type=Path, action="append", default=[], metavar="ARCHIVE", help="what pods may run too (Docker)")
    up.add_argument("--logs", type=Path, help="where the programs' logs go when it ends")
    up.set_defaults(do=_up)
    verbs.add_parser("down", help="end it, with all that is of it").set_defaults(do=_down)
    kubectl = verbs.add_parser("kubectl", help="kubectl as its administrator", add_help=False)
    kubectl.add_argument("words", nargs=argparse.REMAINDER)
    kubectl.set_defaults(do=_kubectl)
    load = verbs.add_parser("load", help="let pods run the images of Docker archives")
    load.add_argument("archives", type=Path, nargs="+")
    load.set_defaults(do=_load)
    run = verbs.add_parser("run", help="a command on a machine of it: a node, api, outside")
    run.add_argument("place")
    run.add_argument("words", nargs=argparse.REMAINDER)
    run.set_defaults(do=_run)
    e2e = verbs.add_parser("e2e", help="Kubernetes' own tests against it; arguments are theirs", add_help=False)
    e2e.add_argument("words", nargs=argparse.REMAINDER)
    e2e.set_defaults(do=_e2e)
    return parser


def _up(cluster: RealCluster, arguments: argparse.Namespace) -> int:
    begin = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - begin:5.1f} s  {text}", file=sys.stderr)

    options = {"nodes": arguments.nodes, "network": arguments.network}
    cluster.up(**options, images=arguments.image, logs=arguments.logs, progress=tell)
    cluster.let_go()
    tell(f"{arguments.nodes} nodes are Ready, and DNS answers")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def _down(cluster: RealCluster, _: argparse.Namespace) -> int:
    cluster.down()
    return 0


def _kubectl(cluster: RealCluster, arguments: argparse.Namespace) -> int:
    return _become(cluster, [str(kubernetes_bin.find().kubectl), *arguments.words])


def _load(cluster: RealCluster, arguments: argparse.Namespace) -> int:
    for archive in arguments.archives:
        cluster.load(archive)
    return 0


def _run(cluster: RealCluster, arguments: argparse.Namespace) -> int:
    return _become(cluster, [*cluster.inside(arguments.place), *arguments.words])


def _e2e(cluster: RealCluster, arguments: argparse.Namespace) -> int:
    program = build_kubernetes.folder_of(build_kubernetes.E2E) / "e2e.test"
    inside = cluster.inside("api")
    options = [f"--kubeconfig={plan.FOLDER / 'kubeconfig-inside'}", "--provider=skeleton"]
    return _become(cluster, [*inside, str(program), *options, *arguments.words])


def _become(cluster: RealCluster, command: list[str]) -> int:
    """Run a command in our place."""
    if not cluster.is_up():
        raise LabMissing("no cluster is up; `./dev cluster up` starts one")
    sys.stdout.flush()
    os.execvpe(command[0], command, dict(cluster.environment))


if __name__ == "__main__":
    sys.exit(main())
