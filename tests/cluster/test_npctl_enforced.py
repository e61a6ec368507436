"""npctl beside the real operator and agents: what is in force is what packets meet, and --rules is what the kernel holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster_api import Cluster
from published import npctl, pod, policy

CLIENT_NODE, WEB_NODE = "172.31.7.111", "172.31.7.112"
CLIENT_RULE = {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 8080}]}


@pytest.fixture
def web(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A namespace with the pods client and web, on two nodes; web listens on 8080."""
    pod(cluster, namespace, "client", CLIENT_NODE, app="client")
    pod(cluster, namespace, "web", WEB_NODE, app="web")
    cluster.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-n", namespace, "--timeout=60s", limit=90)
    yield namespace
    cluster.kubectl("delete", "networkpolicy", "--all", "-n", namespace)


def passes(cluster: Cluster, namespace: str, port: str = "8080") -> bool:
    """Whether packets of client reach web now."""
    seen = cluster.client.connect(f"{namespace}/client", f"{namespace}/web", port)
    return all(s["verdict"] == "allowed" for s in seen)


def test_when_wait_returns_packets_are_refused_and_when_it_is_gone_they_pass(cluster: Cluster, web: str) -> None:
    assert passes(cluster, web)
    cluster.apply([policy(web, "deny", {"app": "web"})])
    waited = npctl(cluster, "wait", "networkpolicy/deny", "-n", web)
    assert waited.code == 0 and f"networkpolicy {web}/deny is in force on 1 node (" in waited.out
    assert not passes(cluster, web)
    cluster.apply([policy(web, "deny", {"app": "web"}, ingress=[CLIENT_RULE])])
    assert npctl(cluster, "wait", "netpol/deny", "-n", web).code == 0
    assert passes(cluster, web)
    cluster.apply([policy(web, "deny", {"app": "web"})])
    assert npctl(cluster, "wait", "--all", "-n", web).code == 0
    assert not passes(cluster, web)
    cluster.kubectl("delete", "networkpolicy", "deny", "-n", web)
    gone = npctl(cluster, "wait", "netpol/deny", "-n", web, "--for=delete")
    assert gone.code == 0, gone.err
    assert passes(cluster, web)


def test_what_diff_foretells_is_what_happens(cluster: Cluster, web: str, tmp_path: Path) -> None:
    path = tmp_path / "deny.yaml"
    path.write_text(yaml.safe_dump(policy(web, "deny", {"app": "web"})))
    words = ("diff", "-f", str(path), "-n", web, "-o", "json")
    shut = {(c["from"], c["to"]): c["then"] for c in npctl(cluster, *words).data["connections"]}
    assert shut[f"{web}/client", f"{web}/web"] is False and passes(cluster, web)
    cluster.kubectl("apply", "-f", str(path))
    assert npctl(cluster, "wait", "-f", str(path)).code == 0
    assert not passes(cluster, web)
    assert npctl(cluster, *words).code == 0
    opened = npctl(cluster, "diff", "--delete", "-f", str(path), "-o", "json").data["connections"]
    assert (f"{web}/client", f"{web}/web", True) in {(c["from"], c["to"], c["then"]) for c in opened}


def test_rules_are_the_kernels_and_their_counters_count(cluster: Cluster, web: str) -> None:
    cluster.apply([policy(web, "access", {"app": "web"}, ingress=[CLIENT_RULE])])
    assert npctl(cluster, "wait", "netpol/access", "-n", web).code == 0
    words = ("explain", "web", "-n", web, "--rules", "-o", "json")
    before = npctl(cluster, *words).data
    assert passes(cluster, web)
    after = npctl(cluster, *words).data

    def packets(answer: dict[str, object]) -> int:
        chains = answer["programmed"]["chains"]["4"]  # type: ignore[index]
        rules = [r for rules in chains.values() for r in rules if f"{web}/access ingress[0]" in r["rule"]]
        assert len(rules) == 1 and "--dport 8080" in rules[0]["rule"]
        return int(rules[0]["packets"])

    assert packets(after) > packets(before)
    programmed = after["programmed"]
    assert programmed["node"] == WEB_NODE and programmed["isolated"] == ["ingress"] and programmed["differences"] == []
    address = cluster.get("pod", "client", "-n", web)["status"]["podIP"]
    assert [s["members"] for s in programmed["sets"].values()] == [[address]]
    assert after["ingress"]["chain"] in programmed["chains"]["4"]
    assert [e["inForce"] for e in after["enforced"]] == [True]
    text = npctl(cluster, "explain", "web", "-n", web, "--rules").out
    assert f"The kernel of node {WEB_NODE} holds what was compiled." in text and f"In force for {web}/web on node" in text


def test_a_kernel_that_differs_is_told_loudly(cluster: Cluster, web: str) -> None:
    """Somebody empties the pod's set again and again, faster than the agent puts it right."""
    cluster.apply([policy(web, "access", {"app": "web"}, ingress=[CLIENT_RULE])])
    assert npctl(cluster, "wait", "netpol/access", "-n", web).code == 0
    (name,) = npctl(cluster, "explain", "web", "-n", web, "--rules", "-o", "json").data["programmed"]["sets"]
    over = cluster.client.folder / "vandal-over"
    script = f"while ! [ -e {over} ]; do ipset flush {name} || exit 0; done"
    vandal = threading.Thread(target=cluster.client.exec, args=(f"node/{WEB_NODE}", ["sh", "-c", script]))
    vandal.start()
    try:
        told = cluster.wait_for(lambda: _differing(cluster, web), 30, "a difference that npctl sees")
    finally:
        over.touch()
        vandal.join(10)
        over.unlink()
    assert "THE KERNEL DIFFERS from what was compiled" in told and name in told
    cluster.wait_for(lambda: not _differing(cluster, web), 15, "the agent to put it right")


def _differing(cluster: Cluster, web: str) -> str:
    """What npctl says while the kernel differs; the exit code stays that of the verdicts."""
    answer = npctl(cluster, "explain", "web", "-n", web, "--rules")
    assert answer.code == 0, answer.err
    return answer.out if "DIFFERS" in answer.out else ""


def test_status_of_a_cluster_that_is_well(cluster: Cluster, web: str) -> None:
    cluster.apply([policy(web, "deny", {"app": "web"})])
    assert npctl(cluster, "wait", "netpol/deny", "-n", web).code == 0
    answer = cluster.wait_for(lambda: (a := npctl(cluster, "status", "-o", "json")).code == 0 and a, 20, "all to be in force")
    nodes = {n["node"]: n for n in answer.data["nodes"]}
    assert set(nodes) == {"172.31.7.111", "172.31.7.112", "172.31.7.113"}
    assert all(n["inSync"] and not n["troubles"] and n["version"] for n in nodes.values())
    operator = answer.data["operator"]
    assert operator["leader"] and [r["ready"] for r in operator["replicas"]] == [True, True]


def test_the_charts_viewer_may_ask_everything_and_its_proxy_role_the_agents(cluster: Cluster, web: str, tmp_path: Path) -> None:
    cluster.apply(
        [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "person", "namespace": web}},
            binding("ClusterRoleBinding", web, "ClusterRole", "npctl-viewer"),
        ]
    )
    config = kubeconfig(cluster, tmp_path, cluster.kubectl("create", "token", "person", "-n", web).strip())
    try:
        cluster.apply([policy(web, "deny", {"app": "web"})])
        for words in (("wait", "netpol/deny", "-n", web), ("explain", "web", "-n", web), ("lint", "-A"), ("matrix", "-n", web)):
            answer = npctl(cluster, *words, KUBECONFIG=config)
            assert answer.code == 0 and not answer.err, (words, answer.err)
        assert "leads" in npctl(cluster, "status", KUBECONFIG=config).out
        refused = npctl(cluster, "explain", "web", "-n", web, "--rules", KUBECONFIG=config)
        assert refused.code == 3 and "pods/proxy" in refused.err and "npctl-viewer-proxy" in refused.err
        cluster.apply([binding("RoleBinding", web, "Role", "npctl-viewer-proxy", "npctl-system")])
        allowed = npctl(cluster, "explain", "web", "-n", web, "--rules", KUBECONFIG=config)
        assert allowed.code == 0 and f"Chains in the kernel of node {WEB_NODE}" in allowed.out
    finally:
        cluster.run("delete", "clusterrolebinding", web)
        cluster.run("delete", "rolebinding", web, "-n", "npctl-system")


def binding(kind: str, name: str, role_kind: str, role: str, namespace: str = "") -> dict[str, object]:
    """What gives `role` to the person of the namespace `name`."""
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": kind,
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "roleRef": {"apiGroup": group, "kind": role_kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "person", "namespace": name}],
    }


def kubeconfig(cluster: Cluster, folder: Path, token: str) -> str:
    """The lab's, with another user."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    for entry in config["users"]:
        entry["user"] = {"token": token}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return str(path)
