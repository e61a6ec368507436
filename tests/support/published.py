"""What operator and agents publish, written by a test's own hand where none of them runs; and npctl as people start it.

The CompiledPolicy is what the compiler makes of the NetworkPolicy in the API; a NodeReport says what the test wants it to say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster_api import Cluster
from netpol_api.compiled_policy import compiled_policy_object
from netpol_api.kinds import NODE_REPORT
from netpol_compiler.policy.translate import translate
from netpol_compiler.reading.objects import parse_policy

NODES = ("172.31.7.111", "172.31.7.112")


@dataclass(frozen=True)
class Answer:
    """How npctl ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


def start_npctl(cluster: Cluster, *words: str, **env: str) -> subprocess.Popen[str]:
    """npctl as a process of its own, towards `cluster`."""
    variables = {**cluster.environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "NO_COLOR": "1", **env}
    command = [sys.executable, "-m", "npctl", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)


def ended(process: subprocess.Popen[str], limit: float = 60) -> Answer:
    """Wait for its end."""
    out, err = process.communicate(timeout=limit)
    return Answer(process.returncode, out, err)


def npctl(cluster: Cluster, *words: str, **env: str) -> Answer:
    return ended(start_npctl(cluster, *words, **env))


def compile_policy(cluster: Cluster, namespace: str, name: str) -> str:
    """Write the CompiledPolicy of a policy as it is now; its digest."""
    item = cluster.get("networkpolicy", name, "-n", namespace)
    policy, _ = parse_policy(item)
    assert policy is not None
    compiled = translate(policy).policy
    body = compiled_policy_object(compiled, item["metadata"]["generation"], {})
    cluster.apply([body])
    return compiled.digest


def report(cluster: Cluster, node: str, policies: Mapping[str, str] | None = None, **status: Any) -> None:
    """Write a node's report: in sync, just now, with these policies' digests in force; `status` overrides."""
    policies = dict(policies or {})
    when = datetime.now(UTC) - timedelta(seconds=status.pop("seconds", 0))
    full = {
        "schema": 1,
        "node": node,
        "version": "0.0.test",
        "time": when.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "backend": "nft",
        "families": [4],
        "inSync": True,
        "complete": True,
        "revisions": {"pods": "1", "addressSets": "1", "compiledPolicies": "1"},
        "policies": policies,
        "policyCount": len(policies),
        "failures": [],
        "failureCount": len(status.get("failures", ())),
        "problems": [],
        "sizes": {"chains": {"4": 7}, "rules": {"4": 21}, "sets": 3, "members": 5},
        "syncs": 1,
        "repairs": 0,
        "connectionsCut": 0,
        **status,
    }
    body = {"apiVersion": NODE_REPORT.api_version, "kind": "NodeReport", "metadata": {"name": node}, "status": full}
    # A report is replaced as a whole: what `apply` merges would keep policies that are gone.
    cluster.run("delete", "nodereport", node, "--ignore-not-found")
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(body))


def pod(cluster: Cluster, namespace: str, name: str, node: str, **labels: str) -> str:
    """A pod that runs on `node` and declares the port web, 8080/TCP; its address."""
    ports = [{"name": "web", "containerPort": 8080}]
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none", "ports": ports}]},
    }
    cluster.apply([body])

    def address() -> str:
        return str(cluster.get("pod", name, "-n", namespace)["status"].get("podIP") or "")

    return cluster.wait_for(address, 30, f"an address for pod {namespace}/{name}")


def policy(namespace: str, name: str, select: Mapping[str, str], **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy; without more it denies all ingress to what it selects."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": dict(select)}, "policyTypes": ["Ingress"], **spec},
    }
