"""Policies of a real cluster, as a user puts them there: kubectl, then `npctl wait`.

In: manifests. Out: policies that are in force on every node that needs them, or gone from all of them, when a call returns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubectl import Kubectl
from netpol_api.kinds import NETWORK_POLICY
from netpol_lab.errors import LabError
from netpol_realcluster.client import RealCluster

Manifest = Mapping[str, Any]
Rules = Sequence[Mapping[str, Any]] | None
"""None: that direction is left open. Empty: shut."""
_LIMIT = 90.0


def policy(
    name: str, namespace: str, labels: Mapping[str, str] | None = None, *, ingress: Rules = None, egress: Rules = None
) -> Manifest:
    """A policy for the pods with these labels; without labels for every pod of the namespace."""
    rules = {"ingress": ingress, "egress": egress}
    given = {direction: list(value) for direction, value in rules.items() if value is not None}
    types = [direction.capitalize() for direction in given]
    spec = {"podSelector": {"matchLabels": dict(labels or {})}, "policyTypes": types, **given}
    return {
        "apiVersion": NETWORK_POLICY.api_version,
        "kind": NETWORK_POLICY.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def pods_with(**labels: str) -> Manifest:
    """A peer: the pods with these labels, in the policy's own namespace."""
    return {"podSelector": {"matchLabels": labels}}


def block(cidr: str) -> Manifest:
    """A peer: addresses; one address may stand for itself."""
    return {"ipBlock": {"cidr": cidr if "/" in cidr else f"{cidr}/32"}}


class InForce:
    """The policies that one test puts on a cluster."""

    def __init__(self, real: RealCluster, kubectl: Kubectl) -> None:
        self._real = real
        self._kubectl = kubectl
        self._there: dict[tuple[str, str], Manifest] = {}

    def put(self, *policies: Manifest) -> None:
        """Raises LabError when they are not in force within a minute or so."""
        self.send(*policies)
        self._wait(policies)

    def send(self, *policies: Manifest) -> None:
        """`put` without the waiting."""
        self._kubectl("apply", "-f", "-", objects=map(dict, policies))
        self._there |= {_key(p): p for p in policies}

    def drop(self, *policies: Manifest) -> None:
        """These; without arguments all that were put."""
        gone = policies or tuple(self._there.values())
        if not gone:
            return
        self._kubectl("delete", "--ignore-not-found", "-f", "-", objects=map(dict, gone))
        for one in gone:
            self._there.pop(_key(one), None)
        self._wait(gone, "--for=delete")

    def forget(self) -> None:
        """Remove what was put, where nobody is left who could say that it is in force no more."""
        self._kubectl("delete", "--ignore-not-found", "-f", "-", objects=map(dict, self._there.values()))
        self._there.clear()

    def _wait(self, policies: Iterable[Manifest], *options: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"apiVersion": "v1", "kind": "List", "items": list(policies)}, file)
            file.flush()
            npctl(self._real, "wait", "-f", file.name, "--timeout=60s", *options)


def npctl(real: RealCluster, *arguments: str) -> str:
    """What npctl prints, beside this Python. Raises LabError with its complaint."""
    command = [str(Path(sys.executable).with_name("npctl")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, env=dict(real.environment), check=False)
    if done.returncode:
        raise LabError(f"npctl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _key(manifest: Manifest) -> tuple[str, str]:
    return str(manifest["metadata"]["namespace"]), str(manifest["metadata"]["name"])
