"""`./dev cluster VERB`: words around `client`.

In: a command line. Out: results on stdout, progress and errors on stderr, an exit code. What a verb does is in `client`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from netpol_lab.control import kubernetes_bin
from netpol_lab.errors import LabError
from netpol_realcluster import plan
from netpol_realcluster.client import RealCluster
from netpol_realcluster.networks.choice import DEFAULT, NETWORKS
from netpol_realcluster.trials import upstream


def main(words: list[str]) -> int:
    """Returns the exit code."""
    try:
        if words and words[0] in _PASSED_ON:
            return _PASSED_ON[words[0]](RealCluster(), words[1:])
        arguments = _parser().parse_args(words)
        arguments.do(RealCluster(), arguments)
    except LabError as error:
        print(f"./dev: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


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
    load = verbs.add_parser("load", help="let pods run the images of Docker archives")
    load.add_argument("archives", type=Path, nargs="+")
    load.set_defaults(do=_load)
    # All that comes behind these is somebody else's; here they are only for the help.
    verbs.add_parser("kubectl", help="kubectl as its administrator")
    verbs.add_parser("run", help="PLACE COMMAND...: a command on a machine of it: a node, api, outside")
    verbs.add_parser("e2e", help="Kubernetes' own tests against it; arguments are theirs")
    return parser


def _up(cluster: RealCluster, arguments: argparse.Namespace) -> None:
    begin = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - begin:5.1f} s  {text}", file=sys.stderr)

    options = {"nodes": arguments.nodes, "network": arguments.network}
    cluster.up(**options, images=arguments.image, logs=arguments.logs, progress=tell)
    cluster.let_go()
    tell(f"{arguments.nodes} node{'s are' if arguments.nodes > 1 else ' is'} Ready, and DNS answers")
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def _down(cluster: RealCluster, _: argparse.Namespace) -> None:
    cluster.down()


def _load(cluster: RealCluster, arguments: argparse.Namespace) -> None:
    for archive in arguments.archives:
        cluster.load(archive)


def _kubectl(cluster: RealCluster, words: list[str]) -> int:
    cluster.guardian_pid()
    return _become(cluster, [str(kubernetes_bin.find().kubectl), *words])


def _run(cluster: RealCluster, words: list[str]) -> int:
    if len(words) < 2:
        raise LabError("usage: ./dev cluster run PLACE COMMAND..., where PLACE is a node's name, api or outside")
    return _become(cluster, [*cluster.inside(words[0]), *words[1:]])


def _e2e(cluster: RealCluster, words: list[str]) -> int:
    options = [f"--kubeconfig={plan.FOLDER / 'kubeconfig-inside'}", "--provider=skeleton"]
    return _become(cluster, [*cluster.inside(plan.API), str(upstream.program()), *options, *words])


def _become(cluster: RealCluster, command: list[str]) -> NoReturn:
    """Run a command in our place."""
    sys.stdout.flush()
    os.execvpe(command[0], command, dict(cluster.environment))


_PASSED_ON = {"kubectl": _kubectl, "run": _run, "e2e": _e2e}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
