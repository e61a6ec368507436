"""Under a default deny in every namespace, kubelets still do with their pods what they must: probes, exec, logs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kubectl import Kubectl
from netpol_realcluster.trials.in_force import InForce, policy
from netpol_realcluster.trials.workloads import PORT, Field, controlled, pod_spec, serving

LABELS = {"app": "probed"}
COPIES, ROUNDS = 3, 4


def _probe(word: str, **more: Any) -> dict[str, Any]:
    return {"httpGet": {"path": f"/echo?msg={word}", "port": PORT}, "periodSeconds": 1, "timeoutSeconds": 3, **more}


@pytest.fixture
def probed(field: Field) -> Iterator[Field]:
    """A Deployment with a pod on every node, whose probes would restart it after a few refused ones."""
    server = serving(readinessProbe=_probe("ready", failureThreshold=1), livenessProbe=_probe("live", failureThreshold=2))
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": LABELS}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    field.make(controlled("Deployment", "probed", pod_spec(server, affinity=affinity), LABELS, replicas=COPIES))
    field("rollout", "status", "deployment/probed", "--timeout=55s")
    yield field
    field("delete", "deployment", "probed")


def test_probes_exec_and_logs_work_under_a_default_deny_in_every_namespace(
    probed: Field, in_force: InForce, kubectl: Kubectl
) -> None:
    namespaces = [n["metadata"]["name"] for n in kubectl.items("namespaces")]
    in_force.put(*(policy("default-deny", name, ingress=[], egress=[]) for name in namespaces))
    names = [p["metadata"]["name"] for p in probed.items("pods")]
    assert len(names) == COPIES

    # The policies are in force: the pods, which serve, do not reach each other.
    places = [probed.place(name) for name in names]
    assert places[0].reaches(*(f"{p.address}:{PORT}" for p in places)) == [True, False, False]

    # From now on, that many more probes of each kind.
    before = {name: _probes(probed, name) for name in names}
    for name in names:
        wanted = [count + ROUNDS for count in before[name]]
        probed.kubectl.until(lambda n=name, w=wanted: all(map(int.__ge__, _probes(probed, n), w)), f"{ROUNDS} probes of {name}")
    assert probed.item("deployment", "probed")["status"]["readyReplicas"] == COPIES
    for item in probed.items("pods"):
        (status,) = item["status"]["containerStatuses"]
        assert (status["ready"], status["restartCount"]) == (True, 0)
        assert probed("exec", item["metadata"]["name"], "--", "hostname").strip() == item["metadata"]["name"]
    unhealthy = [e for e in probed.items("events") if e["reason"] == "Unhealthy" and "connection refused" not in e["message"]]
    assert unhealthy == []

    # The operator is not locked out by the policy of its own namespace: it hears that all of them are gone.
    in_force.drop()
    assert places[0].reaches(*(f"{p.address}:{PORT}" for p in places)) == [True, True, True]


def _probes(field: Field, name: str) -> list[int]:
    """How many times the pod was asked whether it is ready, and whether it lives, as its log tells."""
    log = field("logs", name)
    return [log.count(f"msg={word}") for word in ("ready", "live")]
