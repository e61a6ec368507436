"""npctl explain, trace, matrix, lint, compile and diff on a live API server: the same answers as on the same objects in files."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from cluster_api import Cluster
from netpol_kube import credentials
from npctl.cluster.api import Access, Refused, connect
from published import NODES, compile_policy, npctl, pod, policy, report

HERE = "npctl-reads"
OTHER = "npctl-reads-other"
WEB = f"{HERE}/web"


@pytest.fixture(scope="module")
def town(bare: Cluster) -> Iterator[Cluster]:
    """Two namespaces: web, client and db in one, a stranger in the other; only client may reach web, on 8080."""
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n, "labels": {"team": n}}} for n in (HERE, OTHER)]
    bare.apply(spaces)
    pod(bare, HERE, "web", NODES[0], app="web")
    pod(bare, HERE, "client", NODES[1], app="client")
    pod(bare, HERE, "db", NODES[1], app="db")
    pod(bare, OTHER, "stranger", NODES[0], app="stranger")
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": "web"}]}
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]}
    bare.apply(
        [
            policy(HERE, "web-access", {"app": "web"}, ingress=[rule]),
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": HERE}, "spec": service},
        ]
    )
    yield bare
    for name in ("web", "client", "db"):
        bare.kubectl("delete", "pod", name, "-n", HERE, "--grace-period=0", "--force")
    bare.kubectl("delete", "pod", "stranger", "-n", OTHER, "--grace-period=0", "--force")
    bare.kubectl("delete", "namespace", HERE, OTHER)
    bare.run("delete", "nodereport", *NODES, "--ignore-not-found")


@pytest.fixture(scope="module")
def dump(town: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What kubectl holds of it, as a file."""
    path = tmp_path_factory.mktemp("dump") / "all.yaml"
    path.write_text(town.kubectl("get", "nodes,namespaces,pods,services,networkpolicies", "-A", "-o", "yaml"))
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        ("matrix", "-n", HERE),
        ("matrix", "-A", "--to", "192.0.2.1", "--from", f"node/{NODES[0]}", "--port", "8080"),
        ("explain", "pod/web", "-n", HERE, "--from", "pod/client", "--from", f"{OTHER}/stranger", "--to", "svc/web"),
        ("explain", f"{OTHER}/stranger", "--to", f"svc/{HERE}/web"),
        ("trace", "--simulate", "pod/client", "svc/web", "-n", HERE),
        ("trace", "--simulate", f"{OTHER}/stranger", f"{HERE}/web"),
        ("lint", "-n", HERE),
        ("compile", "--node", NODES[0]),
    ],
)
def test_a_cluster_and_its_dump_give_the_same_answers(town: Cluster, dump: str, words: tuple[str, ...]) -> None:
    live, files = npctl(town, *words, "-o", "json"), npctl(town, *words, "-f", dump, "-o", "json")
    assert live.code == files.code and live.code in (0, 1), live.err + files.err
    found = live.data
    if isinstance(found, dict):
        assert ("enforced" in found) == (words[0] == "explain")  # what is in force, only a cluster can say
        found.pop("enforced", None)
        for finding in (*found.get("findings", ()), *files.data.get("findings", ())):
            finding["file"] = finding["line"] = None
    expected = files.data
    for finding in expected.get("findings", ()):
        finding["file"] = finding["line"] = None
    assert found == expected


def test_files_ask_no_cluster(town: Cluster, dump: str) -> None:
    assert npctl(town, "matrix", "-f", dump, KUBECONFIG="/none/such").code == 0
    both = npctl(town, "matrix", "-f", dump, "--context", "x")
    assert both.code == 2 and "-f means files alone" in both.err


def test_a_verdict_names_policy_rule_and_chain(town: Cluster) -> None:
    allowed = npctl(town, "explain", "pod/web", "-n", HERE, "--from", "pod/client", "-o", "json")
    decided = allowed.data["verdicts"][0]["decided"]
    assert allowed.code == 0 and decided["policy"] == f"{HERE}/web-access" and decided["rule"] == "spec.ingress[0]"
    assert decided["chain"].startswith("npc-pi-")
    refused = npctl(town, "explain", "pod/web", "-n", HERE, "--from", f"{OTHER}/stranger")
    assert refused.code == 1 and f"is isolated by {HERE}/web-access" in refused.out and "[chain npc-pi-" in refused.out


def with_context(lab: Cluster, folder: Path, **change: Any) -> str:
    """A kubeconfig like the lab's, with other settings of its context or its cluster, or another user altogether."""
    config = yaml.safe_load(lab.kubeconfig.read_text())
    for section, kind in (("contexts", "context"), ("clusters", "cluster"), ("users", "user")):
        for entry in config[section]:
            entry[kind] = {**(entry[kind] if kind != "user" or kind not in change else {}), **change.get(kind, {})}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_the_contexts_namespace_is_the_default_and_n_and_capital_a_override(town: Cluster, tmp_path: Path) -> None:
    config = with_context(town, tmp_path, context={"namespace": HERE})
    rows = {c["from"] for c in npctl(town, "matrix", "--kubeconfig", config, "-o", "json").data["connections"]}
    assert rows == {WEB, f"{HERE}/client", f"{HERE}/db"}
    assert npctl(town, "explain", "web", KUBECONFIG=config).code == 0
    everywhere = npctl(town, "matrix", "-A", "--kubeconfig", config, "-o", "json").data["connections"]
    assert f"{OTHER}/stranger" in {c["from"] for c in everywhere}
    only = npctl(town, "explain", "stranger", "-n", OTHER, "--kubeconfig", config)
    assert only.code == 0 and f"Pod {OTHER}/stranger" in only.out


def test_several_kubeconfigs_are_merged_as_kubectl_does(town: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "contexts": [], "clusters": [], "users": []}))
    assert npctl(town, "matrix", "-n", HERE, KUBECONFIG=f"{other}:{town.kubeconfig}:/none/such").code == 0


def test_a_proxy_of_the_environment_is_not_for_this_machine(town: Cluster) -> None:
    assert npctl(town, "matrix", "-n", HERE, HTTPS_PROXY="http://127.0.0.1:1", https_proxy="http://127.0.0.1:1").code == 0


def test_in_a_pod_its_service_account_is_used(town: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no kubeconfig: the files that a kubelet mounts, here in another folder."""
    config = yaml.safe_load(town.kubeconfig.read_text())
    (ca,) = [e["cluster"]["certificate-authority-data"] for e in config["clusters"]]
    (tmp_path / "ca.crt").write_bytes(base64.b64decode(ca))
    (tmp_path / "token").write_text(town.kubectl("create", "token", "default", "-n", HERE).strip())
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(server.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    api = connect(Access())
    assert api.where == "this pod's cluster" and api.get("/version")["major"] == "1"
    with pytest.raises(Refused, match=f"system:serviceaccount:{HERE}:default"):
        api.listed("/api/v1/pods")


def plugin(folder: Path, *lines: str) -> dict[str, Any]:
    """A user of a kubeconfig whose token a program gives."""
    path = folder / "plugin"
    path.write_text("\n".join([f"#!{sys.executable}", "import json, sys", *lines]))
    path.chmod(0o755)
    return {"exec": {"command": str(path), "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}}


def test_a_plugin_of_the_kubeconfig_gives_the_token(town: Cluster, tmp_path: Path) -> None:
    (token,) = [e["user"]["token"] for e in yaml.safe_load(town.kubeconfig.read_text())["users"]]
    kind = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    user = plugin(tmp_path, f"print(json.dumps({kind!r}))")
    answer = npctl(town, "matrix", "-n", HERE, "--kubeconfig", with_context(town, tmp_path, user=user))
    assert answer.code == 0 and answer.err == "", answer.err


def test_a_plugin_that_fails_is_wrong_input_in_its_own_words(town: Cluster, tmp_path: Path) -> None:
    user = plugin(tmp_path, "sys.exit('log in at the portal first')")
    answer = npctl(town, "matrix", "--kubeconfig", with_context(town, tmp_path, user=user))
    assert answer.code == 2 and "its plugin gave no credentials" in answer.err and "log in at the portal first" in answer.err


# -- what cannot be reached ----------------------------------------------------------------------------


def test_wrong_credentials_are_told_as_such(town: Cluster, tmp_path: Path) -> None:
    answer = npctl(town, "matrix", "--kubeconfig", with_context(town, tmp_path, user={"token": "wrong"}))
    assert answer.code == 3 and "does not accept these credentials (401)" in answer.err and "hint: log in again" in answer.err


def test_nobody_answers(town: Cluster, tmp_path: Path) -> None:
    config = with_context(town, tmp_path, cluster={"server": "https://127.0.0.1:1"})
    answer = npctl(town, "explain", "web", "--kubeconfig", config)
    assert answer.code == 3 and len(answer.err.splitlines()) == 2
    assert "cannot reach the API server of context" in answer.err and "connection refused" in answer.err


def test_a_certificate_of_somebody_else_is_not_trusted(town: Cluster, tmp_path: Path) -> None:
    config = yaml.safe_load(town.kubeconfig.read_text())
    for entry in config["clusters"]:
        entry["cluster"].pop("certificate-authority", None)
        entry["cluster"].pop("certificate-authority-data", None)
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    answer = npctl(town, "status", "--kubeconfig", str(path))
    assert answer.code == 3 and "its certificate is not trusted" in answer.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--context", "nowhere"), "there is no context 'nowhere'"),
        (("--kubeconfig", "/none/such"), "no such kubeconfig"),
    ],
)
def test_what_is_named_and_not_there_is_wrong_input(town: Cluster, words: tuple[str, ...], reason: str) -> None:
    answer = npctl(town, "matrix", *words)
    assert answer.code == 2 and reason in answer.err and "hint: " in answer.err


def test_a_kubeconfig_that_is_none(town: Cluster, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a: [1\n")
    answer = npctl(town, "matrix", "--kubeconfig", str(tmp_path / "config"))
    assert answer.code == 2 and "Traceback" not in answer.err


def test_a_broken_kubeconfig_is_told_without_its_secrets(town: Cluster, tmp_path: Path) -> None:
    user = {"token": "very-secret", "client-certificate-data": None}
    answer = npctl(town, "matrix", "--kubeconfig", with_context(town, tmp_path, user=user))
    assert answer.code == 2 and "kubeconfig" in answer.err and "very-secret" not in answer.err


def test_a_missing_right_is_named(town: Cluster, tmp_path: Path) -> None:
    town.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": HERE}}])
    token = town.kubectl("create", "token", "reader", "-n", HERE).strip()
    answer = npctl(town, "explain", "web", "--kubeconfig", with_context(town, tmp_path, user={"token": token}))
    assert answer.code == 3 and "cannot list resource" in answer.err and "kubectl auth can-i list" in answer.err


# -- what the API holds and npctl cannot read ----------------------------------------------------------


def etcd(cluster: Cluster, path: str, body: dict[str, Any]) -> Any:
    """Ask etcd behind the API server's back, from the API server's own machine."""
    script = (
        "import sys,urllib.request as u;"
        "print(u.urlopen(u.Request('http://127.0.0.1:2379'+sys.argv[1],sys.argv[2].encode())).read().decode())"
    )
    with (cluster.client.folder / "etcd.json").open("w+") as answer:
        files = (0, answer.fileno(), 2)
        assert cluster.client.exec("host/api", ["python3", "-c", script, path, json.dumps(body)], files=files) == 0
        answer.seek(0)
        return json.load(answer)


def test_a_part_that_cannot_be_read_is_a_warning_and_isolates_all_the_same(town: Cluster) -> None:
    """The API server of today refuses such an address; one that it took years ago is still in etcd."""
    peer = {"ipBlock": {"cidr": "110.0.0.0/8"}}
    town.apply([policy(HERE, "old", {"app": "db"}, ingress=[{"from": [peer]}])])
    key = base64.b64encode(f"/registry/networkpolicies/{HERE}/old".encode()).decode()
    stored = base64.b64decode(etcd(town, "/v3/kv/range", {"key": key})["kvs"][0]["value"])
    value = base64.b64encode(stored.replace(b"110.0.0.0/8", b"010.0.0.0/8")).decode()
    etcd(town, "/v3/kv/put", {"key": key, "value": value})
    town.wait_for(lambda: "010.0.0.0/8" in json.dumps(town.get("networkpolicy", "old", "-n", HERE)), 10, "the old address")
    answer = npctl(town, "explain", "db", "-n", HERE, "--from", "client")
    assert answer.code == 1 and f"isolated by {HERE}/old" in answer.out
    assert "not-understood" in answer.out and "isolates this pod all the same" in answer.out
    assert "warning: not understood: NetworkPolicy" in answer.err and "spec.ingress[0].from[0].ipBlock.cidr" in answer.err
    assert npctl(town, "lint", "-n", HERE, "-o", "json").code == 1
    town.kubectl("delete", "networkpolicy", "old", "-n", HERE)


# -- whether it is in force ----------------------------------------------------------------------------


def test_explain_says_whether_it_is_in_force_and_what_is_missing(town: Cluster) -> None:
    words = ("explain", "web", "-n", HERE)
    first = npctl(town, *words)
    assert first.code == 0 and f"NOT in force for {WEB}" in first.out and "operator: not compiled yet" in first.out
    digest = compile_policy(town, HERE, "web-access")
    assert f"node {NODES[0]}: no agent has reported" in npctl(town, *words).out
    report(town, NODES[0], {f"{HERE}/web-access": "older"}, inSync=False, problems=["ipset is not installed"])
    assert "it has an earlier version in force (ipset is not installed)" in npctl(town, *words).out
    report(town, NODES[0], {f"{HERE}/web-access": digest})
    last = npctl(town, *words)
    assert f"In force for {WEB} on node {NODES[0]}: all of it (1 policy, reported" in last.out
    data = npctl(town, *words, "--from", "client", "-o", "json").data["enforced"]
    assert [(e["pod"], e["inForce"]) for e in data] == [(WEB, True)]


def test_a_policy_that_is_deleted_and_still_in_force_is_told(town: Cluster) -> None:
    report(town, NODES[1], {f"{HERE}/gone": "digest"})
    answer = npctl(town, "explain", "client", "-n", HERE)
    assert f"{HERE}/gone is deleted, and still in force on the node" in answer.out


def test_rules_without_an_agent_to_ask_is_an_error_that_names_node_and_reason(town: Cluster) -> None:
    report(town, NODES[1])
    answer = npctl(town, "explain", "client", "-n", HERE, "--rules")
    assert answer.code == 3 and f"node {NODES[1]}" in answer.err and "names no agent's pod" in answer.err
    report(town, NODES[1], agent={"namespace": HERE, "pod": "no-such-agent", "port": 9436})
    answer = npctl(town, "explain", "client", "-n", HERE, "--rules")
    assert answer.code == 3 and f"its agent {HERE}/no-such-agent is no longer there" in answer.err
    report(town, NODES[1], agent={"namespace": HERE, "pod": "db", "port": 9436})
    answer = npctl(town, "explain", "client", "-n", HERE, "--rules")
    assert answer.code == 3 and f"its agent {HERE}/db does not answer" in answer.err


# -- diff ----------------------------------------------------------------------------------------------


def test_diff_says_what_would_open_and_shut(town: Cluster, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "db"}}}]}
    new.write_text(yaml.safe_dump(policy(HERE, "web-access", {"app": "web"}, ingress=[rule])))
    answer = npctl(town, "diff", "-f", str(new), "-o", "json")
    found = {(c["from"], c["to"], c["port"], c["now"], c["then"]) for c in answer.data["connections"]}
    assert answer.code == 1
    assert found == {(f"{HERE}/client", WEB, "8080/tcp", True, False), (f"{HERE}/db", WEB, "all", False, True)}
    assert answer.data["changes"] == [{"kind": "NetworkPolicy", "namespace": HERE, "name": "web-access", "action": "change"}]
    opened = next(c for c in answer.data["connections"] if c["then"])
    assert opened["decidedThen"]["rule"] == "spec.ingress[0]" and opened["decidedNow"]["isolating"] == [f"{HERE}/web-access"]


def test_diff_of_what_is_there_is_nothing(town: Cluster, dump: str) -> None:
    answer = npctl(town, "diff", "-f", dump)
    assert answer.code == 0 and "No connection would be opened or shut." in answer.out


def test_diff_of_a_deletion(town: Cluster, tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(yaml.safe_dump({**policy(HERE, "web-access", {}), "metadata": {"name": "web-access"}}))
    answer = npctl(town, "diff", "--delete", "-f", str(old), "-n", HERE, "-o", "json")
    assert answer.code == 1 and {c["then"] for c in answer.data["connections"]} == {True}
    assert {c["from"] for c in answer.data["connections"]} >= {f"{OTHER}/stranger", f"{HERE}/db", "anywhere outside"}


def test_diff_of_labels_as_kubectl_apply_would_merge_them(town: Cluster, tmp_path: Path) -> None:
    """db takes over client's label: `apply` removes what it wrote last time, and leaves what others wrote."""
    town.kubectl("label", "pod", "db", "-n", HERE, "by-hand=yes", "--overwrite")
    change = tmp_path / "labels.yaml"
    metadata = {"name": "db", "namespace": HERE, "labels": {"app": "client"}}
    change.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}))
    answer = npctl(town, "diff", "-f", str(change), "-o", "json")
    assert [(c["from"], c["to"], c["port"], c["then"]) for c in answer.data["connections"]] == [
        (f"{HERE}/db", WEB, "8080/tcp", True)
    ]


def test_diff_of_files_with_a_mistake_changes_its_mind_about_nothing(town: Cluster, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(policy(HERE, "x", {}, ingress=[{"ports": [{"port": 70000}]}])))
    answer = npctl(town, "diff", "-f", str(tmp_path / "bad.yaml"))
    assert answer.code == 2 and "bad.yaml:" in answer.err and "out of range" in answer.err
