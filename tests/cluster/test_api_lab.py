"""`npctl lab up --api`: a real API server inside the lab, reached from this machine by one loopback port and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cluster_api import Cluster, nodes
from host import host_sockets_of, host_state, is_zombie, processes_of
from netpol_kube.credentials import Credentials, from_kubeconfig
from netpol_lab.client import LabClient
from netpol_lab.errors import LabError, LabLacksPrograms, LabTimeout

MANY = 50
BIG = 800_000
"""Characters of a ConfigMap that the API server still takes."""


def credentials(cluster: Cluster) -> Credentials:
    return from_kubeconfig(cluster.kubeconfig)


def connection(cluster: Cluster) -> http.client.HTTPSConnection:
    """An open connection to the API server, as a program of this machine has it."""
    found = credentials(cluster)
    host, port = found.server.removeprefix("https://").split(":")
    made = http.client.HTTPSConnection(host, int(port), timeout=30, context=ssl.create_default_context(cadata=found.ca))
    made.connect()
    return made


def asked(made: http.client.HTTPSConnection, cluster: Cluster, path: str) -> tuple[int, bytes]:
    made.request("GET", path, headers={"Authorization": f"Bearer {credentials(cluster).token}"})
    answer = made.getresponse()
    return answer.status, answer.read()


def configmap(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


@pytest.fixture
def maps(bare: Cluster) -> Iterator[Cluster]:
    """The lab, without the ConfigMaps that a test leaves behind, and with all programs running."""
    yield bare
    for program in ("etcd", "apiserver"):
        bare.client.control(program, "start")
    bare.kubectl("delete", "configmap", "-l", "!nothing", "--field-selector=metadata.name!=kube-root-ca.crt")


# -- the door ------------------------------------------------------------------------------------------


def test_kubectl_sees_the_labs_nodes_with_their_addresses(bare: Cluster) -> None:
    seen = {n["metadata"]["name"]: n for n in bare.items("nodes")}
    assert set(seen) == {"172.31.7.111", "172.31.7.112"}
    node = seen["172.31.7.111"]
    assert {"type": "InternalIP", "address": "172.31.7.111"} in node["status"]["addresses"]
    assert node["spec"]["podCIDR"] == "10.200.111.0/24"
    assert node["metadata"]["labels"]["kubernetes.io/os"] == "linux"


def test_fifty_connections_at_once_and_each_of_them_again_and_again(bare: Cluster) -> None:
    opened = [connection(bare) for _ in range(MANY)]
    try:
        with ThreadPoolExecutor(MANY) as pool:
            for path in ("/api/v1/nodes", "/version", "/api/v1/namespaces"):
                answers = list(pool.map(lambda made, path=path: asked(made, bare, path), opened))
                assert {status for status, _ in answers} == {200}
                assert len({body for _, body in answers}) == 1
    finally:
        for made in opened:
            made.close()


def test_big_bodies_come_through_in_both_directions(maps: Cluster) -> None:
    text = "0123456789abcdef" * (BIG // 16)
    maps.kubectl("create", "-f", "-", stdin=json.dumps(configmap("big", text=text)))
    assert maps.get("configmap", "big")["data"]["text"] == text


def test_a_client_that_ends_its_half_still_gets_the_answer(bare: Cluster) -> None:
    """Without TLS the API server answers an error and closes; our end has been closed for writing all the while."""
    port = int(credentials(bare).server.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        plain.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: plain.recv(4096), b""))
    assert received.startswith(b"HTTP/1.0 400")


def test_the_door_asks_for_a_token(bare: Cluster) -> None:
    made = connection(bare)
    made.request("GET", "/api/v1/nodes")
    assert made.getresponse().status == 403
    made.close()
    assert bare.kubeconfig.stat().st_mode & 0o077 == 0


def test_the_host_has_one_loopback_port_more_and_nothing_else(start_api: Callable[..., Cluster]) -> None:
    before = host_state()
    cluster = start_api()
    processes = processes_of(cluster.client.folder)
    own = host_sockets_of(processes)
    assert own == [("127.0.0.1", int(credentials(cluster).server.rpartition(":")[2]))]
    assert host_state() == before
    cluster.client.down()
    assert host_state() == before
    cluster.wait_for(lambda: all(is_zombie(p) for p in processes), 10, "the lab's processes are gone")
    assert not cluster.client.folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(own[0], timeout=5)


# -- the API server comes and goes ---------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stop", "hold", "kill"])
def test_an_api_server_that_was_away_serves_the_same_data_at_the_same_place(maps: Cluster, way: str) -> None:
    server = credentials(maps).server
    maps.kubectl("create", "-f", "-", stdin=json.dumps(configmap("kept", way=way)))
    before = maps.get("configmap", "kept")
    assert maps.client.control("apiserver", way)["pid"] is None
    refused = maps.run("get", "configmap", "kept", "--request-timeout=5s")
    assert refused.returncode != 0
    assert maps.client.status()["api"]["ready"] is False
    assert maps.client.control("apiserver", "start")["pid"]
    assert maps.get("configmap", "kept") == before
    assert credentials(maps).server == server


def test_etcd_that_was_killed_has_forgotten_nothing(maps: Cluster) -> None:
    maps.kubectl("create", "-f", "-", stdin=json.dumps(configmap("kept", a="b")))
    maps.client.control("etcd", "kill")
    maps.client.control("etcd", "start")
    assert maps.get("configmap", "kept")["data"] == {"a": "b"}


def test_a_paused_api_server_answers_when_it_goes_on(bare: Cluster) -> None:
    bare.client.control("apiserver", "pause")
    answers: list[tuple[int, bytes]] = []
    thread = threading.Thread(target=lambda: answers.append(asked(connection(bare), bare, "/version")))
    thread.start()
    assert answers == []
    bare.client.control("apiserver", "resume")
    thread.join(30)
    assert [status for status, _ in answers] == [200]


def test_after_a_compaction_an_old_watch_is_gone(maps: Cluster) -> None:
    old = json.loads(maps.kubectl("get", "--raw", "/api/v1/configmaps"))["metadata"]["resourceVersion"]
    maps.kubectl("create", "-f", "-", stdin=json.dumps(configmap("one")))
    maps.client.control("apiserver", "stop")
    assert maps.client.compact() > int(old)
    assert maps.client.compact() > int(old), "a second time is no error"
    maps.client.control("apiserver", "start")
    watch = f"/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=10&resourceVersion={old}"
    made = connection(maps)
    _, body = asked(made, maps, watch)
    made.close()
    event = json.loads(body.splitlines()[0])
    # The server says so in its answer or in the first event.
    assert 410 in (event.get("code"), event.get("object", {}).get("code"))


def test_an_unknown_program_or_action_is_refused_with_the_known_ones(bare: Cluster) -> None:
    with pytest.raises(LabError, match="apiserver, etcd"):
        bare.client.control("scheduler", "stop")
    with pytest.raises(LabError, match="pause, resume"):
        bare.client.control("etcd", "dance")


# -- the lab's verbs -----------------------------------------------------------------------------------


def test_the_labs_verbs_go_to_the_api_server(maps: Cluster) -> None:
    lab = maps.client
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "shut", "namespace": "verbs"},
        "spec": {"podSelector": {}},
    }
    assert {"kind": "NetworkPolicy", "namespace": "verbs", "name": "shut", "action": "created"} in lab.apply([policy])
    assert [a["action"] for a in lab.apply([policy])] == ["unchanged"]
    assert maps.get("networkpolicy", "shut", "-n", "verbs")["spec"]["policyTypes"] == ["Ingress"]
    lab.label("Namespace", "verbs", {"team": "a"})
    assert maps.get("namespace", "verbs")["metadata"]["labels"]["team"] == "a"
    lab.label("Namespace", "verbs", {"team": None})
    assert "team" not in maps.get("namespace", "verbs")["metadata"]["labels"]
    assert [o["metadata"]["name"] for o in lab.get("NetworkPolicy", "verbs")] == ["shut"]
    assert [a["action"] for a in lab.delete([policy])] == ["deleted"]
    assert [a["action"] for a in lab.delete([policy])] == ["missing"]
    lab.delete([{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "verbs"}}])
    assert maps.run("get", "namespace", "verbs").returncode != 0


def test_what_the_api_server_refuses_is_said_with_the_objects_name(bare: Cluster) -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": {"ports": []}}
    with pytest.raises(LabError, match=r"Service default/s: the API server says: .*spec\.ports"):
        bare.client.apply([wrong])
    with pytest.raises(LabError, match="no Namespace nobody"):
        bare.client.label("Namespace", "nobody", {"a": "b"})
    with pytest.raises(LabError, match="knows no Teapot of v1"):
        bare.client.apply([{"apiVersion": "v1", "kind": "Teapot", "metadata": {"name": "t"}}])


def test_nodes_that_could_not_reach_the_api_server_are_refused(bare: Cluster) -> None:
    far = nodes(1)[0]
    far["status"]["addresses"][0]["address"] = "192.168.1.1"
    with pytest.raises(LabError, match="is not in the network of this lab's API server"):
        bare.client.apply([far])
    with pytest.raises(LabError, match="is the address of host/api"):
        bare.client.apply(nodes(100))
    assert len(bare.items("nodes")) == 2


def test_a_lab_without_an_api_server_has_no_etcd_to_compact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCTL_LAB_DIR", str(tmp_path))
    lab = LabClient("plain")
    lab.up(nodes(111), agents=False)
    try:
        assert lab.status()["api"] is None
        with pytest.raises(LabError, match="npctl lab up --api"):
            lab.compact()
    finally:
        lab.down()


# -- with the chart's programs -------------------------------------------------------------------------


def _pod(namespace: str, name: str, node: int, **labels: str) -> dict[str, Any]:
    container = {"name": "c", "image": "c", "ports": [{"containerPort": 80}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": f"172.31.7.{node}", "containers": [container]},
    }


def _friends_only(namespace: str) -> dict[str, Any]:
    peers = [{"podSelector": {"matchLabels": {"friend": "yes"}}}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "friends-only", "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": peers}]},
    }


def test_the_labs_verbs_return_when_their_change_is_in_force(cluster: Cluster, namespace: str) -> None:
    lab = cluster.client

    def verdict() -> str:
        (row,) = lab.connect(f"{namespace}/client", f"{namespace}/server", "80/tcp")
        return str(row["verdict"])

    lab.apply([_pod(namespace, "server", 111, app="server"), _pod(namespace, "client", 112)])
    assert verdict() == "allowed"
    lab.apply([_friends_only(namespace)])
    assert verdict() == "refused"
    lab.label("Pod", "client", {"friend": "yes"}, namespace=namespace)
    assert verdict() == "allowed"
    lab.label("Pod", "client", {"friend": None}, namespace=namespace)
    assert verdict() == "refused"
    lab.delete([_friends_only(namespace)])
    assert verdict() == "allowed"
    assert lab.status()["in_force"] is True


def test_the_charts_programs_are_pods_and_can_be_held_back(cluster: Cluster) -> None:
    pods = cluster.items("pods", "-n", "npctl-system")
    operators = [p for p in pods if p["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"]
    agents = [p for p in pods if p["metadata"]["labels"]["app.kubernetes.io/component"] == "agent"]
    assert len(operators) == 2
    assert {p["spec"]["nodeName"] for p in agents} == {f"172.31.7.{n}" for n in (111, 112, 113)}
    programs = cluster.client.status()["programs"]
    names = {f"npctl-system/{p['metadata']['name']}" for p in pods}
    assert names <= set(programs)
    name = f"npctl-system/{agents[0]['metadata']['name']}"
    before = programs[name]
    assert cluster.client.control(name, "hold")["pid"] is None
    assert cluster.client.status()["in_force"] is False
    cluster.client.control(name, "start")
    after = cluster.wait_for(lambda: cluster.client.status()["programs"][name], 20, f"{name} runs again")
    assert after != before
    cluster.client.wait(limit=30)


def test_a_node_may_come_and_go_and_nothing_of_it_stays(cluster: Cluster) -> None:
    lab = cluster.client
    assert {"kind": "Node", "namespace": "", "name": "172.31.7.114", "action": "created"} in lab.apply(nodes(114), limit=60)
    try:
        assert cluster.get("nodereport", "172.31.7.114")["status"]["inSync"] is True
        (agent,) = [p for p in cluster.items("pods", "-n", "npctl-system") if p["spec"]["nodeName"] == "172.31.7.114"]
    finally:
        lab.delete(nodes(114), limit=60)
    cluster.wait_for(lambda: cluster.run("get", "nodereport", "172.31.7.114").returncode, 20, "its report is gone")
    assert cluster.run("get", "pod", "-n", "npctl-system", agent["metadata"]["name"]).returncode != 0
    assert "172.31.7.114" not in {n["name"] for n in lab.status()["nodes"]}
    assert f"npctl-system/{agent['metadata']['name']}" not in lab.status()["programs"]


def test_what_the_lab_cannot_run_is_said_with_the_reason(cluster: Cluster, namespace: str) -> None:
    container = {"name": "c", "image": "c"}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"nodeName": "172.31.7.99", "containers": [container]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "nowhere", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template},
    }
    cluster.client.apply([deployment], wait=False)

    def said() -> bool:
        return any("nowhere" in p and "there is no node '172.31.7.99'" in p for p in cluster.client.status()["problems"])

    cluster.wait_for(said, 10, "the reason, with the object's name")
    cluster.client.delete([deployment])
    cluster.wait_for(lambda: not said(), 10, "nothing is said of what is gone")


# -- families, and the chart ---------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "start"), [("ipv6", ["fd00:"]), ("dual", ["172.31.7.", "fd00:"])])
def test_labs_of_other_families(start_api: Callable[..., Cluster], family: str, start: list[str]) -> None:
    cluster = start_api(family=family)
    for node in cluster.items("nodes"):
        addresses = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
        assert len(addresses) == len(start)
        assert all(a.startswith(s) for a, s in zip(addresses, start, strict=True))
    service = cluster.get("service", "kubernetes", "-n", "default")
    assert (":" in service["spec"]["clusterIP"]) == (family == "ipv6")
    assert (":" in cluster.get("endpoints", "kubernetes", "-n", "default")["subsets"][0]["addresses"][0]["ip"]) == (
        family == "ipv6"
    )


def test_without_programs_there_are_the_definitions_and_the_rights(bare: Cluster) -> None:
    definitions = {d["metadata"]["name"] for d in bare.items("crd")}
    assert definitions == {"addresssets.npctl.dev", "compiledpolicies.npctl.dev", "nodereports.npctl.dev"}
    accounts = {a["metadata"]["name"] for a in bare.items("serviceaccounts", "-n", "npctl-system")}
    assert {"npctl-operator", "npctl-agent"} <= accounts
    assert bare.items("deployments,daemonsets,pods", "-A") == []
    assert set(bare.client.status()["programs"]) == {"etcd", "apiserver"}


def test_tokens_of_service_accounts_are_made_and_taken(bare: Cluster) -> None:
    token = bare.kubectl("create", "token", "npctl-agent", "-n", "npctl-system").strip()
    made = connection(bare)
    made.request("GET", "/apis/npctl.dev/v1alpha1/compiledpolicies", headers={"Authorization": f"Bearer {token}"})
    assert made.getresponse().status == 200
    made.close()


# -- what goes wrong -----------------------------------------------------------------------------------


def _npctl(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "npctl", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False)


def test_the_command_prints_the_line_to_copy(start_api: Callable[..., Cluster], tmp_path: Path) -> None:
    (tmp_path / "nodes.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes(111)}))
    folder = {"NPCTL_LAB_DIR": str(tmp_path)}
    up = _npctl("lab", "up", "--api", "--no-agents", "-f", str(tmp_path / "nodes.json"), "--name", "said", **folder)
    try:
        assert up.returncode == 0, up.stderr
        assert f"export KUBECONFIG={tmp_path}/said/kubeconfig" in up.stdout.splitlines()
        assert len(up.stderr.splitlines()) == 1 and "kubectl" in up.stderr
        status = _npctl("lab", "status", "--name", "said", **folder)
        assert "API server https://127.0.0.1:" in status.stdout and ", ready;" in status.stdout
        data = json.loads(_npctl("lab", "status", "--name", "said", "-o", "json", **folder).stdout)
        assert data["api"]["inside"] == "https://172.31.7.100:6443"
    finally:
        assert _npctl("lab", "down", "--name", "said", **folder).returncode == 0


def test_missing_programs_of_kubernetes_are_exit_code_3_with_the_remedy(tmp_path: Path) -> None:
    folder = {"NPCTL_LAB_DIR": str(tmp_path), "NPCTL_KUBERNETES_BIN": str(tmp_path)}
    done = _npctl("lab", "up", "--api", "--name", "nothing", **folder)
    assert done.returncode == 3
    assert "etcd, kube-apiserver" in done.stderr and "./dev cluster" in done.stderr
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("script", "limit", "kind", "words"),
    [
        ("echo no room on this disk; exit 1", 30, LabError, "etcd has ended:\n    no room on this disk"),
        ("echo thinking; exec sleep 100", 0.5, LabTimeout, "the API server is not ready within 0.5 s"),
    ],
)
def test_a_control_plane_that_does_not_start_says_why(
    bare: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, limit: float, kind: type[LabError], words: str
) -> None:
    from netpol_lab.control import kubernetes_bin

    good = kubernetes_bin.find()
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in (good.kube_apiserver, good.kubectl, good.helm):
        (folder / program.name).symlink_to(program)
    (folder / "etcd").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "etcd").chmod(0o755)
    monkeypatch.setenv("NPCTL_KUBERNETES_BIN", str(folder))
    monkeypatch.setenv("NPCTL_LAB_DIR", str(tmp_path))
    lab = LabClient("broken")
    with pytest.raises(kind, match=words):
        lab.up(nodes(111), api=True, agents=False, limit=limit)
    assert not lab.folder.exists()
    Cluster(lab).wait_for(lambda: all(is_zombie(p) for p in processes_of(lab.folder)), 10, "nothing of it runs")


def test_a_killed_supervisor_takes_the_control_plane_along(start_api: Callable[..., Cluster]) -> None:
    cluster = start_api()
    processes = processes_of(cluster.client.folder)
    assert len(processes) >= 3
    os.kill(int((cluster.client.folder / "pid").read_text()), 9)
    cluster.wait_for(lambda: all(is_zombie(p) for p in processes), 10, "etcd and the API server are gone")


def test_lacking_openssl_is_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from netpol_lab import machine

    monkeypatch.setattr(machine, "_which", lambda program: None if program == "openssl" else f"/bin/{program}")
    with pytest.raises(LabLacksPrograms, match="openssl"):
        machine.require_programs(api=True)
    machine.require_programs()
