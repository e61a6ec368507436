"""`npctl operator`: options in, the operator's functions out. Nothing is decided here."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path

from npctl.errors import CommandError, ExitCode, usage


def run(objects: Path | None, ir: Path | None, kubeconfig: Path | None, namespace: str, name: str, http: str) -> None:
    """Run until SIGTERM. Raises CommandError for options that do not go together, and without credentials."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if objects is not None or ir is not None:
        if objects is None or ir is None:
            raise usage("--objects and --ir go together", "name both folders, or neither for a cluster")
        if kubeconfig is not None or http:
            raise usage("--objects is for folders, --kubeconfig and --http are for a cluster", "leave out one of them")
        _on_folder(objects, ir)
        return
    address = host_and_port(http) if http else None
    _on_cluster(kubeconfig, namespace, name or f"{socket.gethostname()}-{os.getpid()}", address)


def _on_folder(objects: Path, ir: Path) -> None:
    from netpol_operator.folder import run_on_folder

    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    run_on_folder(objects, ir, lambda: stopping)


def _on_cluster(kubeconfig: Path | None, namespace: str, identity: str, http: tuple[str, int] | None) -> None:
    from netpol_kube.credentials import CredentialsError, find
    from netpol_operator.cluster import OperatorOptions, run_on_cluster

    try:
        run_on_cluster(OperatorOptions(find(kubeconfig), namespace, identity, http))
    except CredentialsError as error:
        raise CommandError(ExitCode.MISSING, str(error), error.remedy) from error


def host_and_port(text: str) -> tuple[str, int]:
    """`:9435` is every address. Raises CommandError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise usage(f"--http {text}: not [HOST]:PORT", "write :9435, 127.0.0.1:9435 or [::1]:9435")
    return host.strip("[]"), int(port)
