"""Applying, deleting and labelling while the lab runs: what follows is what a cluster would show."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lab_cluster import CLUSTER, meta, node, pod, service
from netpol_lab.client import LabClient
from netpol_lab.errors import LabError

pytestmark = pytest.mark.kernel

Start = Callable[..., LabClient]


def deployment(replicas: int) -> dict[str, Any]:
    labels = {"app": "web"}
    containers = [{"name": "c", "image": "c", "ports": [{"name": "http", "containerPort": 80}]}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("web", "linux"), "spec": spec}


def verdicts(lab: LabClient, source: str, destination: str, port: str) -> set[tuple[str, str]]:
    return {(r["verdict"], r["answered"]) for r in lab.connect(source, destination, port, limit=0.3)}


def test_a_scaled_deployment_keeps_its_pods_and_their_addresses(start: Start) -> None:
    lab = start(objects=[*CLUSTER, deployment(2)])
    before = {o["metadata"]["name"]: o["status"]["podIP"] for o in lab.get("Pod", "linux")}
    assert lab.apply([deployment(4)]) == [{"kind": "Deployment", "namespace": "linux", "name": "web", "action": "configured"}]
    after = {o["metadata"]["name"]: o["status"]["podIP"] for o in lab.get("Pod", "linux")}
    assert len(after) == len(before) + 2
    assert before.items() <= after.items()
    assert verdicts(lab, "python/lone", sorted(set(after) - set(before))[0].join(["linux/", ""]), "80/tcp") != {("refused", "")}
    lab.delete([deployment(4)])
    assert [o["metadata"]["name"] for o in lab.get("Pod", "linux")] == ["client", "hosty"]


def test_labels_of_an_expanded_pod_last_and_move_it_between_services(start: Start) -> None:
    lab = start(objects=[*CLUSTER, deployment(1)])
    name = next(o["metadata"]["name"] for o in lab.get("Pod", "linux") if o["metadata"]["name"].startswith("web"))
    lab.label("Pod", "web", {"project": "pythonxx", "app": None}, namespace="linux")
    lab.apply([deployment(1)])
    labels = lab.get("Pod", "linux", name)[0]["metadata"]["labels"]
    assert labels["project"] == "pythonxx"
    assert "app" not in labels
    lab.label("Pod", "tomcat-2", {"app": "other"}, namespace="python")
    tries = [{"source": "linux/client", "destination": "svc/python/tomcat", "port": "80/tcp"}] * 20
    assert {r["answered"] for rows in lab.connect_many(tries) for r in rows} == {"python/tomcat-1"}


def test_labels_of_namespaces_and_nodes_are_stored(start: Start) -> None:
    lab = start()
    lab.label("Namespace", "python", {"nsname": "python"})
    assert lab.label("Node", "172.31.7.111", {"zone": "a"})["metadata"]["labels"]["zone"] == "a"
    assert lab.get("Namespace", name="python")[0]["metadata"]["labels"]["nsname"] == "python"
    with pytest.raises(LabError, match="no Namespace nowhere"):
        lab.label("Namespace", "nowhere", {"a": "b"})


@pytest.mark.parametrize("network", ["host-gw", "vxlan", "routed"])
def test_a_node_and_its_pods_come_and_go(start: Start, network: str) -> None:
    lab = start(network=network, family="dual")
    late = [node(113, "10.200.38.0/24"), pod("python", "late", 113, ("TCP", 8080))]
    lab.apply(late)
    assert verdicts(lab, "linux/client", "python/late", "8080/tcp") == {("allowed", "python/late")}
    assert verdicts(lab, "host/outside", "node/172.31.7.113", "30016/tcp") == {("allowed", "python/lone")}
    lab.delete(late[::-1])
    with pytest.raises(LabError, match="no running pod python/late"):
        lab.connect("linux/client", "python/late", "8080/tcp")
    lab.apply(late)
    assert verdicts(lab, "linux/client", "python/late", "8080/tcp") == {("allowed", "python/late")}


def test_a_changed_service_and_a_deleted_one(start: Start) -> None:
    lab = start()
    lab.apply([service("lone", "tomcat", 30016)])
    assert verdicts(lab, "host/outside", "node/172.31.7.111", "30016/tcp") <= {
        ("allowed", "python/tomcat-1"), ("allowed", "python/tomcat-2")}  # fmt: skip
    lab.delete([service("lone", "tomcat", 30016)])
    assert {r["answer"] for r in lab.connect("host/outside", "node/172.31.7.111", "30016/tcp")} == {"reset"}


def test_a_pod_with_new_ports_listens_on_them(start: Start) -> None:
    lab = start()
    lab.apply([pod("python", "lone", 111, ("TCP", 9000))])
    assert verdicts(lab, "linux/client", "python/lone", "9000/tcp") == {("allowed", "python/lone")}
    assert {r["answer"] for r in lab.connect("linux/client", "python/lone", "8080/tcp")} == {"reset"}


def test_what_is_wrong_changes_nothing(start: Start) -> None:
    lab = start()
    before = lab.get()
    revision = lab.status()["revision"]
    twice = pod("python", "thief", 111, ("TCP", 80))
    taken = lab.get("Pod", "python", "lone")[0]["status"]["podIP"]
    twice["metadata"]["annotations"] = {"cni.projectcalico.org/ipAddrs": json.dumps([taken])}
    for bad in ([twice, {**twice, "metadata": {**twice["metadata"], "name": "thief2"}}], [{"kind": "Pod"}]):
        with pytest.raises(LabError):
            lab.apply(bad)
    assert lab.get() == before
    assert lab.status()["revision"] == revision
    assert {a["action"] for a in lab.apply(CLUSTER)} == {"unchanged"}
    assert lab.status()["revision"] == revision


def test_deleting_a_namespace_deletes_what_is_in_it(start: Start) -> None:
    lab = start()
    lab.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": meta("python")}])
    lab.delete([{"kind": "Namespace", "metadata": {"name": "python"}}])
    assert lab.get("Pod", "python") == []
    assert lab.get("Service", "python") == []


def test_exec_runs_in_the_pod_and_passes_the_exit_code(start: Start, tmp_path: Any) -> None:
    lab = start()
    with open(tmp_path / "out", "w+b") as out, open("/dev/null", "rb") as nothing:
        files = (nothing.fileno(), out.fileno(), out.fileno())
        script = "cat /proc/sys/kernel/hostname /etc/resolv.conf; ip -o -4 address show dev eth0; exit 7"
        assert lab.exec("python/lone", ["sh", "-c", script], files=files) == 7
        out.seek(0)
        words = out.read().decode()
    assert words.startswith("lone\n")
    assert "nameserver 172.31.7.106" in words
    assert "search python.svc.magedu.local svc.magedu.local magedu.local" in words
    assert lab.get("Pod", "python", "lone")[0]["status"]["podIP"] in words
    with pytest.raises(LabError, match="no-such-program"):
        lab.exec("python/lone", ["no-such-program"])


def test_web_servers_pass_requests_on_to_a_service(start: Start) -> None:
    front = pod("python", "front", 112, ("TCP", 80))
    front["metadata"]["annotations"] = {"lab.npctl.dev/proxy": "/app=http://lone:80"}
    lab = start(objects=[*CLUSTER, front])
    rows = lab.connect("linux/client", "python/front", "80/tcp", path="/app/index.html")
    assert [r["answered"] for r in rows] == ["python/lone"]
    assert [r["answered"] for r in lab.connect("linux/client", "python/front", "80/tcp")] == ["python/front"]


@pytest.mark.parametrize(
    ("source", "destination", "port", "words"),
    [
        ("python/nobody", "python/lone", None, "no running pod python/nobody"),
        ("python/tom", "python/lone", None, "could be any of"),
        ("svc/python/lone", "python/lone", None, "cannot be a source"),
        ("python/lone", "node/9.9.9.9", "80", "no node"),
        ("python/lone", "svc/python/none", "80", "no service"),
        ("python/lone", "172.31.7.111", None, "say which with --port"),
        ("python/lone", "linux/client", "80/xyz", "is not a port"),
        ("python/lone", "linux/client", "0/tcp", "is not a port"),
    ],
)
def test_unclear_words_are_told_and_not_guessed(
    cluster_lab: LabClient, source: str, destination: str, port: str, words: str
) -> None:
    with pytest.raises(LabError, match=words):
        cluster_lab.connect(source, destination, port)
