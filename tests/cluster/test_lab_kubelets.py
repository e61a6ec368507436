"""The lab's kubelets, scheduler and controllers against the real API server: what people apply there becomes pods that answer."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cluster_api import Cluster, nodes
from netpol_lab.errors import LabError

LIMIT = 30


def pod(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A pod that listens on port 80; `annotations` and `labels` are its metadata."""
    metadata = {k: spec.pop(k) for k in ("annotations", "labels") if k in spec}
    container = {"name": "web", "image": "nginx", "ports": [{"containerPort": 80}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"containers": [container], **spec},
    }


def program(name: str, namespace: str, *arguments: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs npctl."""
    made = pod(name, namespace, **spec)
    made["spec"]["containers"] = [{"name": "npctl", "image": "npctl", "command": ["npctl"], "args": list(arguments)}]
    return made


def workload(kind: str, name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod("", "")["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **spec},
    }


@pytest.fixture
def place(bare: Cluster) -> Iterator[str]:
    """A namespace in `bare`."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    bare.kubectl("create", "namespace", name)
    yield name
    bare.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=60s", limit=90)


def running(lab: Cluster, namespace: str) -> dict[str, dict[str, Any]]:
    """The namespace's pods that run and are not being deleted, by name."""
    lab.client.wait(limit=LIMIT)
    pods = lab.items("pods", "-n", namespace)
    return {
        p["metadata"]["name"]: p for p in pods if p["status"]["phase"] == "Running" and not p["metadata"].get("deletionTimestamp")
    }


def answers(lab: Cluster, source: str, destination: str) -> str:
    """Who answers, as it says itself; empty when nobody does."""
    return str(lab.client.connect(source, destination, "80", limit=2)[0]["answered"] or "")


def ip(data: dict[str, Any]) -> str:
    return str(data["status"]["podIP"])


def test_pods_of_a_deployment_answer_and_follow_its_replicas(bare: Cluster, place: str) -> None:
    bare.apply([workload("Deployment", "web", place, replicas=3)])
    pods = running(bare, place)
    assert len(pods) == 3 and {p["spec"]["nodeName"] for p in pods.values()} == {"172.31.7.111", "172.31.7.112"}
    owner = bare.get("deployment", "web", "-n", place)["metadata"]["uid"]
    assert all(p["metadata"]["ownerReferences"][0]["uid"] == owner for p in pods.values())
    assert all(p["metadata"]["labels"]["app"] == "web" for p in pods.values())
    first, second, _ = (f"{place}/{name}" for name in pods)
    assert answers(bare, first, second) == second
    assert answers(bare, first, ip(pods[second.partition("/")[2]])) == second
    bare.kubectl("rollout", "status", "deployment/web", "-n", place, "--timeout=20s")

    bare.kubectl("scale", "deployment/web", "--replicas=1", "-n", place)
    bare.wait_for(lambda: len(bare.items("pods", "-n", place)) == 1, LIMIT, "one pod is left")
    bare.kubectl("delete", "deployment", "web", "-n", place)
    bare.wait_for(lambda: not bare.items("pods", "-n", place), LIMIT, "the pods are gone with their Deployment")


@pytest.mark.parametrize("cascade", ["foreground", "background"])
def test_a_workload_takes_its_pods_along(bare: Cluster, place: str, cascade: str) -> None:
    bare.apply([workload("StatefulSet", "db", place, replicas=2, serviceName="db")])
    assert set(running(bare, place)) == {"db-0", "db-1"}
    bare.kubectl("delete", "statefulset", "db", "-n", place, f"--cascade={cascade}", "--timeout=30s")
    bare.wait_for(lambda: not bare.items("pods", "-n", place), LIMIT, "its pods are gone")


def test_a_new_template_replaces_the_pods(bare: Cluster, place: str) -> None:
    bare.apply([workload(kind, kind.lower(), place) for kind in ("Deployment", "DaemonSet")])
    before = {p["metadata"]["uid"] for p in running(bare, place).values()}
    assert len(before) == 3
    bare.kubectl("rollout", "restart", "deployment/deployment", "daemonset/daemonset", "-n", place)

    def replaced() -> bool:
        now = running(bare, place)
        return len(now) == 3 and not before & {p["metadata"]["uid"] for p in now.values()}

    bare.wait_for(replaced, LIMIT, "three new pods")


def test_hand_made_pods_are_scheduled_and_get_a_status(bare: Cluster, place: str) -> None:
    bare.apply([pod("free", place), pod("bound", place, nodeName="172.31.7.112")])
    pods = running(bare, place)
    assert pods["bound"]["spec"]["nodeName"] == "172.31.7.112" and ip(pods["bound"]).startswith("10.200.112.")
    status = pods["free"]["status"]
    assert status["hostIP"] == pods["free"]["spec"]["nodeName"] and status["podIPs"] == [{"ip": status["podIP"]}]
    conditions = {c["type"]: c["status"] for c in status["conditions"]}
    assert {conditions[t] for t in ("PodScheduled", "Initialized", "ContainersReady", "Ready")} == {"True"}
    assert status["startTime"] and status["containerStatuses"][0]["ready"] and status["qosClass"] == "BestEffort"
    bare.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-n", place, "--timeout=10s")
    assert answers(bare, f"{place}/free", f"{place}/bound") == f"{place}/bound"
    assert answers(bare, "node/172.31.7.111", f"{place}/bound") == f"{place}/bound"


def test_labels_that_people_change_stay(bare: Cluster, place: str) -> None:
    bare.apply([workload("Deployment", "web", place)])
    (name,) = running(bare, place)
    bare.kubectl("label", "pod", name, "-n", place, "app=other", "--overwrite")
    bare.kubectl("scale", "deployment/web", "--replicas=2", "-n", place)
    bare.wait_for(lambda: len(running(bare, place)) == 2, LIMIT, "two pods")
    assert bare.get("pod", name, "-n", place)["metadata"]["labels"]["app"] == "other"


def test_an_address_goes_to_a_pod_of_another_name(bare: Cluster, place: str) -> None:
    wish = {"annotations": {"lab.npctl.dev/ip": "10.200.111.77"}}
    bare.apply([pod("one", place, **wish), pod("asking", place)])
    assert ip(running(bare, place)["one"]) == "10.200.111.77"
    bare.kubectl("delete", "pod", "one", "-n", place)
    bare.apply([pod("two", place, **wish)])
    assert ip(running(bare, place)["two"]) == "10.200.111.77"
    assert answers(bare, f"{place}/asking", "10.200.111.77") == f"{place}/two"


def test_an_address_that_is_taken_is_told_of_the_pod_that_asks_and_stops_nobody(bare: Cluster, place: str) -> None:
    wish = {"annotations": {"lab.npctl.dev/ip": "10.200.111.78"}}
    bare.apply(
        [
            pod("one", place, **wish),
            pod("two", place, **wish),
            pod("nobody", place, annotations={"lab.npctl.dev/ip": "224.0.0.1"}),
        ]
    )
    bare.apply([pod("three", place)])
    assert set(running(bare, place)) == {"one", "three"}

    def told() -> set[str]:
        return {e["involvedObject"]["name"] + ": " + e["message"] for e in bare.items("events", "-n", place)}

    bare.wait_for(lambda: f"two: 10.200.111.78 is the address of pod {place}/one" in told(), LIMIT, "an Event of pod two")
    bare.wait_for(lambda: "nobody: 224.0.0.1 cannot be a pod's address" in told(), LIMIT, "an Event of pod nobody")
    bare.kubectl("delete", "pod", "one", "-n", place)
    bare.wait_for(lambda: set(running(bare, place)) == {"two", "three"}, LIMIT, "the second one has the address")


def test_an_address_of_no_nodes_block_moves_from_node_to_node(bare: Cluster, place: str) -> None:
    wish = {"annotations": {"lab.npctl.dev/ip": "10.200.250.7"}}
    bare.apply([pod(f"asking-{n}", place, nodeName=f"172.31.7.{n}") for n in (111, 112)])
    for number in (111, 112):
        name = f"on-{number}"
        bare.apply([pod(name, place, nodeName=f"172.31.7.{number}", **wish)])
        assert ip(running(bare, place)[name]) == "10.200.250.7"
        for asking in (f"{place}/asking-111", f"{place}/asking-112", "node/172.31.7.111"):
            assert answers(bare, asking, "10.200.250.7") == f"{place}/{name}"
        bare.kubectl("delete", "pod", name, "-n", place)


def test_a_completed_pod_loses_its_network_and_its_address(bare: Cluster, place: str) -> None:
    bare.apply([pod("job", place, nodeName="172.31.7.111", restartPolicy="Never"), pod("asking", place)])
    address = ip(running(bare, place)["job"])
    done = json.dumps({"status": {"phase": "Succeeded"}})
    bare.kubectl("patch", "pod", "job", "-n", place, "--subresource=status", "--type=merge", "-p", done)
    assert set(running(bare, place)) == {"asking"}
    with pytest.raises(LabError, match=f"no running pod {place}/job"):
        bare.client.connect(f"{place}/job", f"{place}/asking", "80")
    bare.apply([pod("next", place, annotations={"lab.npctl.dev/ip": address})])
    assert ip(running(bare, place)["next"]) == address
    assert bare.get("pod", "job", "-n", place)["status"]["podIP"] == address


def test_a_pod_made_anew_under_its_name_is_another_one(bare: Cluster, place: str) -> None:
    bare.apply([pod("web", place, nodeName="172.31.7.111"), pod("asking", place)])
    before = running(bare, place)["web"]
    bare.kubectl(
        "replace", "--force", "--grace-period=0", "-f", "-", stdin=json.dumps(pod("web", place, nodeName="172.31.7.112"))
    )
    after = running(bare, place)["web"]
    assert after["metadata"]["uid"] != before["metadata"]["uid"] and ip(after).startswith("10.200.112.")
    assert answers(bare, f"{place}/asking", f"{place}/web") == f"{place}/web"


def test_a_namespace_goes_with_everything_in_it(bare: Cluster) -> None:
    name = f"t-{uuid.uuid4().hex[:8]}"
    bare.kubectl("create", "namespace", name)
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": name},
        "spec": {"podSelector": {}},
    }
    bare.apply([pod("one", name), workload("Deployment", "web", name, replicas=2), policy])
    bare.kubectl("create", "configmap", "c", "-n", name)
    assert len(running(bare, name)) == 3
    bare.kubectl("delete", "namespace", name, "--timeout=30s")
    assert not bare.items("pods,networkpolicies,configmaps,deployments", "-n", name)
    # The same name again: nothing of the old one is in it.
    bare.kubectl("create", "namespace", name)
    bare.apply([pod("one", name)])
    assert set(running(bare, name)) == {"one"}
    bare.kubectl("delete", "namespace", name, "--timeout=30s")


def test_nodes_come_and_go(bare: Cluster, place: str) -> None:
    bare.apply([workload("DaemonSet", "everywhere", place)])
    assert len(running(bare, place)) == 2
    bare.client.apply(nodes(114))
    bare.apply([pod("there", place, nodeName="172.31.7.114")])
    pods = running(bare, place)
    assert {p["spec"]["nodeName"] for n, p in pods.items() if n != "there"} == {f"172.31.7.{n}" for n in (111, 112, 114)}
    asking = next(f"{place}/{n}" for n, p in pods.items() if p["spec"]["nodeName"] == "172.31.7.111")
    assert answers(bare, asking, f"{place}/there") == f"{place}/there"
    bare.kubectl("wait", "--for=condition=Ready", "node/172.31.7.114", "--timeout=20s")
    bare.kubectl("delete", "node", "172.31.7.114")
    bare.wait_for(lambda: len(bare.items("pods", "-n", place)) == 2, LIMIT, "the pods of the node are gone")
    assert "172.31.7.114" not in bare.client.status()["nodes"]


def test_pods_of_a_node_that_a_test_plays_are_left_alone(bare: Cluster, place: str) -> None:
    (far,) = nodes(115)
    far["metadata"]["annotations"] = {"lab.npctl.dev/elsewhere": "yes"}
    bare.apply([far])
    try:
        bare.apply([pod("far", place, nodeName="172.31.7.115"), pod("near", place)])
        assert set(running(bare, place)) == {"near"}
        assert bare.get("pod", "far", "-n", place)["status"]["phase"] == "Pending"
        bare.kubectl("annotate", "node", "172.31.7.115", "lab.npctl.dev/elsewhere-")
        bare.wait_for(lambda: set(running(bare, place)) == {"near", "far"}, LIMIT, "the lab has the node now")
    finally:
        bare.kubectl("delete", "node", "172.31.7.115")


def test_a_stopped_api_server_changes_nothing_and_what_comes_after_is_done(bare: Cluster, place: str) -> None:
    bare.apply([pod("one", place), pod("two", place)])
    assert len(running(bare, place)) == 2
    bare.client.control("apiserver", "stop")
    try:
        assert answers(bare, f"{place}/one", f"{place}/two") == f"{place}/two"
    finally:
        bare.client.control("apiserver", "start")
    bare.apply([pod("three", place)])
    bare.kubectl("delete", "pod", "two", "-n", place)
    assert set(running(bare, place)) == {"one", "three"}
    assert answers(bare, f"{place}/one", f"{place}/three") == f"{place}/three"


def test_a_program_ends_and_its_pod_with_it(bare: Cluster, place: str) -> None:
    bare.apply(
        [
            program("well", place, "--version", restartPolicy="Never"),
            program("badly", place, "no-such-command", restartPolicy="Never"),
            program("again", place, "no-such-command"),
        ]
    )

    def phase(name: str) -> str:
        return str(bare.get("pod", name, "-n", place)["status"]["phase"])

    bare.wait_for(lambda: phase("well") == "Succeeded" and phase("badly") == "Failed", LIMIT, "both have ended")

    def restarts() -> int:
        status = bare.get("pod", "again", "-n", place)["status"]
        return int(status["containerStatuses"][0]["restartCount"])

    bare.wait_for(lambda: restarts() >= 2, LIMIT, "it was started again")
    assert phase("again") == "Running"
    assert "no-such-command" in (bare.client.folder / "logs" / f"{place}.again.log").read_text()


def test_what_the_lab_cannot_give_to_a_program_is_said(bare: Cluster, place: str) -> None:
    wrong = program("wrong", place, "--version")
    wrong["spec"]["containers"][0]["env"] = [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]
    bare.apply([wrong])

    def message() -> str:
        statuses = bare.get("pod", "wrong", "-n", place)["status"].get("containerStatuses") or [{}]
        return str(statuses[0].get("state", {}).get("waiting", {}).get("message", ""))

    bare.wait_for(lambda: "configMapKeyRef" in message(), LIMIT, "its status says why it waits")


def test_programs_of_the_chart_are_started_again_unless_held(cluster: Cluster) -> None:
    component = ("pods", "-n", "npctl-system", "-l", "app.kubernetes.io/component=agent")

    def ready() -> dict[str, tuple[bool, int]]:
        statuses = {p["metadata"]["name"]: p["status"]["containerStatuses"][0] for p in cluster.items(*component)}
        return {name: (bool(s["ready"]), int(s["restartCount"])) for name, s in statuses.items()}

    cluster.wait_for(lambda: len(ready()) == 3 and all(r for r, _ in ready().values()), LIMIT, "three agents are ready")
    name, (_, restarts) = next(iter(ready().items()))
    cluster.client.control(f"npctl-system/{name}", "kill")
    cluster.wait_for(lambda: ready()[name] == (True, restarts + 1), LIMIT, "it was started again, and is ready")
    cluster.client.control(f"npctl-system/{name}", "hold")
    try:
        cluster.wait_for(lambda: not ready()[name][0], LIMIT, "it is not ready")
    finally:
        cluster.client.control(f"npctl-system/{name}", "start")
    cluster.wait_for(lambda: ready()[name][0], LIMIT, "it is ready again")


def test_a_deleted_agent_is_made_again(cluster: Cluster) -> None:
    component = ("pods", "-n", "npctl-system", "-l", "app.kubernetes.io/component=agent")
    before = {p["metadata"]["name"]: p["metadata"]["uid"] for p in cluster.items(*component)}
    name = next(iter(before))
    cluster.kubectl("delete", "pod", name, "-n", "npctl-system")
    cluster.kubectl("rollout", "status", "daemonset/npctl-agent", "-n", "npctl-system", "--timeout=30s")
    cluster.kubectl("wait", "--for=condition=Ready", "pod", name, "-n", "npctl-system", "--timeout=30s")
    assert cluster.get("pod", name, "-n", "npctl-system")["metadata"]["uid"] != before[name]
