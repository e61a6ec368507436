"""`npctl lint`: every check finds what it is for, and is silent about the same policy put right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from npctl.lint import cluster_checks, rule_checks
from npctl.lint.model import CHECKS

assert cluster_checks and rule_checks  # importing them fills CHECKS

WEB = {"app": "web"}
DB = {"app": "db"}
DNS = {"port": 53, "protocol": "UDP"}
KUBE_DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}


def a_pod(name: str, labels: dict[str, str], *ports: tuple[str, int], namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    listed = [{"name": n, "containerPort": p} for n, p in ports]
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "c", "ports": listed}], **spec},
    }


PODS = [a_pod("web", WEB, ("http", 8080)), a_pod("db", DB, ("sql", 5432))]


def a_policy(name: str = "p", selector: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    pod_selector = {} if selector is None else {"matchLabels": selector}
    metadata = {"name": name, "namespace": "shop"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {"podSelector": pod_selector, **spec},
    }


def pods_like(labels: dict[str, str]) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": labels}}


Findings = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def findings(cli: Any, tmp_path: Path) -> Findings:
    """`findings("NP001", policy, ...)`: what lint says under that code about these policies, beside PODS."""

    def run(code: str, *objects: dict[str, Any]) -> list[dict[str, Any]]:
        (tmp_path / "x.yaml").write_text(yaml.safe_dump_all([*PODS, *objects]))
        result = cli("lint", "-f", "x.yaml", "-o", "json")
        return [f for f in result.data["findings"] if f["code"] == code]

    return run


def egress(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"policyTypes": ["Egress"], "egress": list(rules)}


def test_every_check_has_a_test_of_its_own() -> None:
    tested = {name.split("_")[1].upper() for name in globals() if name.startswith("test_np")}
    assert tested == set(CHECKS)


def test_np001_port_53_only_towards_pods_that_serve_no_names(findings: Findings) -> None:
    trap = a_policy(selector=WEB, **egress({"to": [pods_like(DB)], "ports": [{"port": 5432}, DNS]}))
    (found,) = findings("NP001", trap)
    assert found["field"] == "spec.egress[0]" and "kube-system" in found["message"] and "kube-dns" in found["remedy"]


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param({"to": [KUBE_DNS], "ports": [DNS]}, id="towards kube-dns"),
        pytest.param({"ports": [DNS]}, id="towards everybody"),
        pytest.param({"to": [{"ipBlock": {"cidr": "172.31.7.106/32"}}], "ports": [DNS]}, id="towards a server's address"),
        pytest.param({"to": [{"namespaceSelector": {}}]}, id="every port of every pod"),
    ],
)
def test_np001_is_silent_when_some_rule_reaches_a_dns_server(findings: Findings, rule: dict[str, Any]) -> None:
    trap = {"to": [pods_like(DB)], "ports": [DNS]}
    assert not findings("NP001", a_policy(selector=WEB, **egress(trap, rule)))


def test_np001_knows_a_dns_server_by_its_port(findings: Findings) -> None:
    server = a_pod("names", {"app": "names"})
    server["spec"]["containers"][0]["ports"] = [{"containerPort": 53, "protocol": "UDP"}]
    towards = a_policy(selector=WEB, **egress({"to": [pods_like({"app": "names"})], "ports": [DNS]}))
    past = a_policy(selector=WEB, **egress({"to": [KUBE_DNS, pods_like(DB)], "ports": [DNS]}))
    assert not findings("NP001", server, towards)
    assert findings("NP001", server, past)


def test_np001_is_silent_when_another_policy_of_the_pods_opens_dns(findings: Findings) -> None:
    trap = a_policy("trap", WEB, **egress({"to": [pods_like(DB)], "ports": [DNS]}))
    names = a_policy("names", **egress({"to": [KUBE_DNS], "ports": [DNS]}))
    assert not findings("NP001", trap, names)


def test_np002_egress_with_no_53_at_all(findings: Findings) -> None:
    assert findings("NP002", a_policy(selector=WEB, **egress({"to": [pods_like(DB)], "ports": [{"port": 5432}]})))


def test_np002_is_silent_about_ingress_and_about_a_deliberate_wall(findings: Findings) -> None:
    assert not findings("NP002", a_policy(selector=WEB, ingress=[{"from": [pods_like(DB)], "ports": [{"port": 8080}]}]))
    assert not findings("NP002", a_policy(selector=WEB, **egress()))


def test_np003_a_policy_that_selects_nothing(findings: Findings) -> None:
    (found,) = findings("NP003", a_policy(selector={"app": "wep"}, ingress=[{}]))
    assert found["remedy"] == "did you mean app=web?" and found["field"] == "spec.podSelector"
    assert not findings("NP003", a_policy(selector=WEB, ingress=[{}]))


def test_np004_a_peer_that_matches_no_pod_or_no_namespace(findings: Findings) -> None:
    nobody = {"from": [pods_like(DB), pods_like({"app": "dbb"}), {"namespaceSelector": {"matchLabels": {"team": "x"}}}]}
    found = findings("NP004", a_policy(selector=WEB, ingress=[nobody]))
    assert [f["field"] for f in found] == ["spec.ingress[0].from[1]", "spec.ingress[0].from[2].namespaceSelector"]
    assert not findings("NP004", a_policy(selector=WEB, ingress=[{"from": [pods_like(DB), {"namespaceSelector": {}}]}]))


def test_np005_a_port_that_none_of_the_selected_pods_listens_on(findings: Findings) -> None:
    ports = [{"port": 8080}, {"port": 80}, {"port": "http"}, {"port": "https"}, {"port": 8080, "protocol": "UDP"}]
    found = findings("NP005", a_policy(selector=WEB, ingress=[{"ports": ports}]))
    assert [f["field"] for f in found] == [f"spec.ingress[0].ports[{i}].port" for i in (1, 3, 4)]
    assert "8080/TCP (http)" in found[0]["message"]


def test_np005_looks_at_the_peers_for_egress_and_leaves_addresses_alone(findings: Findings) -> None:
    wrong = {"to": [pods_like(DB)], "ports": [{"port": 3306}]}
    right = {"to": [pods_like(DB)], "ports": [{"port": 5432}, DNS]}
    address = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 3306}]}
    assert len(findings("NP005", a_policy(selector=WEB, **egress(wrong, right, address)))) == 1


def test_np006_an_except_outside_of_its_cidr(findings: Findings) -> None:
    def block(exception: str) -> dict[str, Any]:
        return a_policy(selector=WEB, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [exception]}}]}])

    (found,) = findings("NP006", block("192.168.0.0/16"))
    assert found["severity"] == "error" and found["field"] == "spec.ingress[0].from[0].ipBlock.except[0]"
    assert not findings("NP006", block("10.1.0.0/16"))


def test_np007_a_field_that_is_not_understood(findings: Findings) -> None:
    (found,) = findings("NP007", a_policy(selector=WEB, ingress=[{"form": [pods_like(DB)]}]))
    assert found["severity"] == "error" and "did you mean from?" in found["message"]
    assert not findings("NP007", a_policy(selector=WEB, ingress=[{"from": [pods_like(DB)]}]))


def test_np008_host_bits_in_a_cidr(findings: Findings) -> None:
    def block(cidr: str) -> dict[str, Any]:
        return a_policy(selector=WEB, ingress=[{"from": [{"ipBlock": {"cidr": cidr}}]}])

    (found,) = findings("NP008", block("10.1.2.3/8"))
    assert "10.0.0.0/8" in found["message"] and "10.1.2.3/32" in found["remedy"]
    assert not findings("NP008", block("10.0.0.0/8"))


def test_np009_what_is_written_twice(findings: Findings) -> None:
    twice = {"from": [pods_like(DB), pods_like(DB)], "ports": [{"port": 8080}, {"port": 8080}]}
    found = findings("NP009", a_policy(selector=WEB, ingress=[twice, {"from": [pods_like(DB)]}, {"from": [pods_like(DB)]}]))
    assert {f["field"] for f in found} == {"spec.ingress[0].from[1]", "spec.ingress[0].ports[1]", "spec.ingress[2]"}
    assert not findings("NP009", a_policy(selector=WEB, ingress=[{"from": [pods_like(DB), pods_like(WEB)]}]))


def test_np010_a_rule_beside_one_that_allows_everything(findings: Findings) -> None:
    (found,) = findings("NP010", a_policy(selector=WEB, ingress=[{"from": [pods_like(DB)]}, {}]))
    assert found["field"] == "spec.ingress[0]"
    assert not findings("NP010", a_policy(selector=WEB, ingress=[{"from": [pods_like(DB)]}]))


def test_np010_a_policy_whose_pods_another_policy_opens(findings: Findings) -> None:
    narrow = a_policy("narrow", WEB, ingress=[{"from": [pods_like(DB)]}])
    assert findings("NP010", narrow, a_policy("wide", ingress=[{}]))
    assert not findings("NP010", narrow, a_policy("wide", DB, ingress=[{}]))


def test_np011_a_named_port_towards_addresses(findings: Findings) -> None:
    def rule(port: str | int) -> dict[str, Any]:
        return a_policy(selector=WEB, **egress({"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": port}]}))

    assert findings("NP011", rule("sql"))
    assert not findings("NP011", rule(5432))


def test_np012_a_wall(findings: Findings) -> None:
    (found,) = findings("NP012", a_policy(policyTypes=["Egress"]))
    assert found["severity"] == "info" and "egress" in found["message"]
    assert not findings("NP012", a_policy(ingress=[{"from": [pods_like(DB)]}]))


def test_np013_pods_of_the_hosts_network(findings: Findings) -> None:
    agent = a_pod("agent", {"app": "agent"}, hostNetwork=True)
    assert findings("NP013", agent, a_policy(selector={"app": "agent"}, ingress=[{}]))
    assert not findings("NP013", agent, a_policy(selector=WEB, ingress=[{}]))


def test_np014_the_same_name_twice(findings: Findings) -> None:
    (found,) = findings("NP014", a_policy(selector=WEB, ingress=[{}]), a_policy(selector=DB, ingress=[{}]))
    assert "replaced" in found["message"]
    assert not findings("NP014", a_policy("a", WEB, ingress=[{}]), a_policy("b", DB, ingress=[{}]))


def test_np015_rules_that_policy_types_leave_out(findings: Findings) -> None:
    assert findings("NP015", a_policy(policyTypes=["Ingress"], ingress=[{}], egress=[{}]))
    assert not findings("NP015", a_policy(policyTypes=["Ingress", "Egress"], ingress=[{}], egress=[{}]))


def test_a_replaced_policy_is_checked_as_if_it_counted(findings: Findings) -> None:
    trap = a_policy(selector=WEB, **egress({"to": [pods_like(DB)], "ports": [DNS]}))
    assert findings("NP001", trap, a_policy(selector=WEB, ingress=[{}]))


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--strict",), 1)])
def test_warnings_fail_only_when_strict(cli: Any, tmp_path: Path, options: tuple[str, ...], code: int) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump_all([*PODS, a_policy(selector={"app": "none"}, ingress=[{}])]))
    assert cli("lint", "-f", "x.yaml", *options).code == code


def test_errors_fail_and_name_file_and_line(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump_all([*PODS, a_policy(selector=WEB, ingress=[{"ports": [{"port": 70000}]}])]))
    result = cli("lint", "-f", "x.yaml")
    line = (tmp_path / "x.yaml").read_text().splitlines().index("    - port: 70000") + 1
    assert result.code == 1
    assert f"x.yaml:{line}: error NP007 NetworkPolicy shop/p: spec.ingress[0].ports[0].port: " in result.out


def test_the_walkthrough_shows_the_trap_in_cases_8_and_9_only(cli: Any, case: Callable[[int], tuple[str, ...]]) -> None:
    trapped = [n for n in range(1, 10) if any(f["code"] == "NP001" for f in cli("lint", *case(n), "-o", "json").data["findings"])]
    assert trapped == [8, 9]


def test_the_codes_can_be_listed(cli: Any) -> None:
    listed = [entry["code"] for entry in cli("lint", "--codes", "-o", "json").data]
    assert listed == sorted(CHECKS)


def test_every_code_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    assert [code for code in CHECKS if f"`{code}`" not in page] == []
