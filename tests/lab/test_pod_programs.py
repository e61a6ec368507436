"""What a pod's program is started as, and what is written into its pod's status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from netpol_compiler.model.addresses import parse_address
from netpol_lab.errors import LabError
from netpol_lab.kubelet import pod_status
from netpol_lab.kubelet.desired_state import PlacedPod
from netpol_lab.kubelet.pod_container import program_container, read_program
from netpol_lab.topology.model import LabNode

Json = dict[str, Any]
NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"


def _own() -> Json:
    container = {
        "name": "agent",
        "image": "npctl",
        "command": ["npctl"],
        "args": ["agent", "--node", "$(NODE)", "--pod", "$(NS)/$(POD)", "$$(NODE)", "$(MISSING)"],
        "env": [
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "KUBERNETES_SERVICE_HOST", "value": "192.0.2.1"},
        ],
        "ports": [{"name": "http", "containerPort": 9436}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5},
        "volumeMounts": [
            {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
            {"name": "lock", "mountPath": "/run/xtables.lock"},
        ],
    }
    volumes = [
        {"name": "lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
        {"name": "token", "projected": {}},
    ]
    spec = {
        "nodeName": "n1",
        "hostNetwork": True,
        "serviceAccountName": "npctl-agent",
        "containers": [container],
        "volumes": volumes,
    }
    return {"metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "x"}}, "spec": spec}


def test_a_program_as_its_pod_says() -> None:
    own = (parse_address("172.31.7.1"),)
    made = read_program(_own(), "node-n1", own, own, {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"})
    assert made.arguments == ("agent", "--node", "n1", "--pod", "ns/p", "$(NODE)", "$(MISSING)")
    assert made.env["KUBERNETES_SERVICE_HOST"] == "192.0.2.1" and made.env["KUBERNETES_SERVICE_PORT"] == "443"
    assert made.env["LABEL"] == "x" and made.account == "npctl-agent" and made.restart == "Always"
    assert made.readiness is not None and (made.readiness.port, made.readiness.path, made.readiness.period) == (
        9436,
        "/readyz",
        5.0,
    )
    assert [(h.path, h.mount, h.is_file) for h in made.host_paths] == [("/run/xtables.lock", "/run/xtables.lock", True)]


def test_other_containers_are_no_programs() -> None:
    assert program_container({"spec": {"containers": [{"name": "c", "image": "nginx"}]}}) is None
    assert program_container({"spec": {"containers": [{"name": "c", "command": ["sh", "-c", "npctl"]}]}}) is None


def test_a_status_that_is_written_is_not_written_again() -> None:
    placed = PlacedPod("u", LabNode("n1", (parse_address("172.31.7.1"),), ()), (parse_address("10.200.1.2"),))
    data = {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
    status = pod_status.pod_status(data, placed, pod_status.ALWAYS_READY, NOW)
    assert pod_status.differs(data.get("status"), status)
    written = {**data, "status": status}
    assert pod_status.pod_status(written, placed, pod_status.ALWAYS_READY, LATER) == status
    run = pod_status.ProgramStatus(running=False, ready=False, restarts=1, exit_code=1)
    crashed = pod_status.pod_status(written, placed, run, LATER)
    assert pod_status.differs(status, crashed) and not pod_status.is_ready({"status": crashed})
    assert crashed["containerStatuses"][0]["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
    ended = pod_status.pod_status(written, placed, replace(run, exit_code=0, ended=True), LATER)
    assert ended["phase"] == "Succeeded" and ended["containerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("envFrom", [{"configMapRef": {"name": "c"}}], "envFrom"),
        ("env", [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}], "env X: .* not secretKeyRef"),
        ("env", [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.nothing"}}}], "no field 'spec.nothing'"),
        ("readinessProbe", {"exec": {"command": ["true"]}}, "readinessProbe"),
        ("readinessProbe", {"httpGet": {"port": "nobody"}}, "no port 'nobody'"),
    ],
)
def test_what_the_lab_cannot_give_is_refused(field: str, value: Any, words: str) -> None:
    own, data = (parse_address("172.31.7.1"),), _own()
    data["spec"]["containers"][0][field] = value
    with pytest.raises(LabError, match=words):
        read_program(data, "node-n1", own, own, {})


def test_workloads_count_their_pods() -> None:
    ready = {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    pods = [ready, {"metadata": {}, "status": {}}, {**ready, "metadata": {"deletionTimestamp": NOW}}]
    deployment = {"metadata": {"generation": 3}}
    status = pod_status.workload_status("Deployment", deployment, 2, pods, NOW)
    assert (status["observedGeneration"], status["replicas"], status["readyReplicas"]) == (3, 2, 1)
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"Available": "False", "Progressing": "True"}
    again = pod_status.workload_status("Deployment", {**deployment, "status": status}, 2, pods, LATER)
    assert not pod_status.differs(status, again)
    agents = pod_status.workload_status("DaemonSet", deployment, 2, pods, NOW)
    assert (agents["desiredNumberScheduled"], agents["numberReady"], agents["numberUnavailable"]) == (2, 1, 1)
