"""`npctl explain`: what it says about the walkthrough's cases, and the shape of its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Case = Callable[[int], tuple[str, ...]]
TOMCAT, NGINX = "deployment/python-tomcat-app1-deployment", "deployment/python-nginx-deployment"

WALL = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wall, namespace: python}
spec: {podSelector: {}}
"""


def explain(cli: Any, case: tuple[str, ...], target: str, *words: str) -> Any:
    return cli("explain", target, "-n", "python", *case, *words)


@pytest.mark.parametrize(
    ("number", "target", "peer", "ports"),
    [
        (1, TOMCAT, "pods project=pythonxx of namespace python (no pod now)", "all ports"),
        (2, TOMCAT, "pods project=python of namespace python (1 pod now)", "TCP 8080"),
        (3, TOMCAT, "all pods of namespace python (3 pods now)", "TCP 3306, TCP 6379, TCP 8080"),
        (4, NGINX, "all pods of namespace python (3 pods now)", "all ports"),
        (5, TOMCAT, "10.200.0.0/16 except 10.200.36.67/32, 10.200.219.0/24, 10.200.229.0/24", "TCP 3306, TCP 6379, TCP 8080"),
        (6, NGINX, "all pods of namespaces nsname=linux (3 pods now)", "TCP 3306, TCP 6379, TCP 8080"),
        (7, TOMCAT, "172.31.7.106/32", "TCP 53, TCP 80, UDP 53"),
        (8, NGINX, "pods app=python-tomcat-app1-selector of namespace python (1 pod now)", "TCP 53, TCP 8080, UDP 53"),
        (9, NGINX, "all pods of namespaces nsname=linux (3 pods now)", "TCP 53, TCP 8080, UDP 53"),
    ],
)
def test_each_case_in_words(cli: Any, case: Case, number: int, target: str, peer: str, ports: str) -> None:
    out = explain(cli, case(number), target).out
    direction, other = ("Ingress", "Egress") if number < 7 else ("Egress", "Ingress")
    assert f"{direction}: isolated by python/" in out and f"{other}: not isolated" in out
    assert peer in out and ports in out and f"spec.{direction.lower()}[0]" in out


def test_the_dns_trap_is_told(cli: Any, case: Case) -> None:
    assert "Note (dns-trap): " in explain(cli, case(8), NGINX).out
    assert "dns-" not in explain(cli, case(7), TOMCAT).out


def test_ip_blocks_and_node_ports_are_warned_about(cli: Any, case: Case) -> None:
    out = explain(cli, case(5), TOMCAT).out
    assert "Note (source-nat): " in out and "python/python-tomcat-app1-service" in out


def test_a_refusal_names_every_policy_that_isolates_and_exits_with_1(cli: Any, case: Case, tmp_path: Path) -> None:
    (tmp_path / "wall.yaml").write_text(WALL)
    result = explain(cli, (*case(2), "-f", "wall.yaml"), TOMCAT, "--from", "linux/net-test", "--port", "8080/tcp")
    assert result.code == 1 and result.out.startswith("refused: linux/net-test-centos-pod1 -> python/python-tomcat")
    assert (
        "isolated by python/tomcat-access--networkpolicy, python/wall, and no rule of theirs allows it [chain npc-pi-"
        in result.out
    )


def test_an_allowed_connection_names_policy_rule_and_chain(cli: Any, case: Case) -> None:
    result = explain(cli, case(2), TOMCAT, "--from", NGINX, "--port", "8080")
    assert result.code == 0 and result.out.startswith("allowed: ")
    assert "ingress allowed by python/tomcat-access--networkpolicy spec.ingress[0] [chain npc-pi-" in result.out
    assert "10.200.36.67 -> 10.200.166." in result.out


def test_a_service_stands_for_its_endpoints_on_their_own_port(cli: Any, case: Case) -> None:
    (verdict,) = explain(cli, case(8), NGINX, "--to", "svc/python-tomcat-app1-service", "-o", "json").data["verdicts"]
    assert (
        verdict["port"] == 8080 and verdict["via"] == "svc/python/python-tomcat-app1-service port 80/tcp" and verdict["allowed"]
    )
    result = explain(cli, case(8), NGINX, "--to", "svc/linux/linux-tomcat-app1-service")
    assert result.code == 1


def test_addresses_nodes_and_other_namespaces_are_places(cli: Any, case: Case) -> None:
    outside = explain(cli, case(4), TOMCAT, "--from", "172.31.7.109", "--port", "8080")
    own_node = explain(cli, case(4), TOMCAT, "--from", "node/172.31.7.113", "--port", "8080")
    other_node = explain(cli, case(4), TOMCAT, "--from", "172.31.7.111", "--port", "8080")
    assert [outside.code, own_node.code, other_node.code] == [1, 0, 1]
    assert "the node that runs it" in own_node.out


def test_without_a_port_every_port_that_is_listened_to_is_tried(cli: Any, case: Case) -> None:
    verdicts = explain(cli, case(6), NGINX, "--from", "linux/net-test", "-o", "json").data["verdicts"]
    assert [(v["port"], v["allowed"]) for v in verdicts] == [(80, False), (443, False)]


def test_a_place_without_known_ports_asks_for_one(cli: Any, case: Case) -> None:
    result = explain(cli, case(8), NGINX, "--to", "172.31.7.106")
    assert result.code == 2 and "--port" in result.err


def test_icmp_can_be_asked_for(cli: Any, case: Case) -> None:
    assert explain(cli, case(2), TOMCAT, "--from", NGINX, "--port", "icmp").code == 1
    assert explain(cli, case(4), TOMCAT, "--from", NGINX, "--port", "icmp").code == 0


def test_rules_shows_the_pods_chains_and_only_the_sets_they_name(cli: Any, case: Case) -> None:
    kernel = explain(cli, case(8), NGINX, "--rules", "-o", "json").data["kernel"]
    text = "\n".join(rule for rules in kernel["chains"]["4"].values() for rule in rules)
    assert any(name.startswith("npc-pe-") for name in kernel["chains"]["4"]) and "-j DROP" in text
    assert kernel["sets"] and all(f"--match-set {name} " in text for name in kernel["sets"])
    assert all(s["members"] == ["10.200.166.2"] for s in kernel["sets"].values())


def test_a_pod_may_be_named_by_a_beginning_that_only_it_has(cli: Any, case: Case) -> None:
    assert "Pod python/python-nginx-deployment-" in explain(cli, case(1), "pod/python-ng").out
    ambiguous = explain(cli, case(1), "pod/python")
    assert ambiguous.code == 2 and "is not one pod but" in ambiguous.err


def test_a_pod_of_another_namespace_is_pointed_out(cli: Any, case: Case) -> None:
    result = cli("explain", "pod/linux-nginx", *case(1))
    assert result.code == 2 and "add -n linux" in result.err


def test_the_shape_of_the_data(cli: Any, case: Case) -> None:
    data = explain(cli, case(5), TOMCAT, "-o", "json").data
    assert set(data) == {"pod", "ingress", "egress", "notes"}
    assert set(data["pod"]) == {"namespace", "name", "node", "addresses", "labels", "hostNetwork", "phase"}
    assert data["egress"] == {"isolated": False, "policies": [], "rules": [], "chain": None}
    (rule,) = data["ingress"]["rules"]
    assert {k: rule[k] for k in ("policy", "rule", "index")} == {
        "policy": "python/tomcat-access--networkpolicy",
        "rule": "spec.ingress[0]",
        "index": 0,
    }
    (peer,) = rule["peers"]
    assert peer["kind"] == "ipBlock" and peer["cidr"] == "10.200.0.0/16"
    assert peer["except"] == ["10.200.36.67/32", "10.200.219.0/24", "10.200.229.0/24"]
    assert rule["ports"][0] == {"protocol": "TCP", "words": "TCP 3306", "port": 3306, "endPort": 3306}


def test_the_shape_of_a_verdict(cli: Any, case: Case) -> None:
    (verdict,) = explain(cli, case(8), NGINX, "--to", "linux/net-test", "--port", "80", "-o", "json").data["verdicts"]
    assert set(verdict) == {"from", "to", "protocol", "port", "via", "allowed", "decided", "egress", "ingress"}
    side = verdict["decided"]
    assert side["reason"] == "default-deny" and side["isolating"] == ["python/egress-access-networkpolicy"]
    assert side["direction"] == "egress" and side["chain"].startswith("npc-pe-") and side["policy"] is None
    assert verdict["ingress"]["reason"] == "not-isolated"


def test_a_folder_with_one_name_twice_takes_the_last_and_says_so(cli: Any) -> None:
    examples = str(Path(__file__).parents[2] / "examples")
    result = explain(cli, ("-f", examples), TOMCAT)
    assert result.code == 0 and "nsname=linux" in result.out  # case 6 is the last of that name
    (line,) = [x for x in result.err.splitlines() if "tomcat-access--networkpolicy" in x]
    assert "case6-" in line and "case1-" in line and "case5-" in line and "the last one counts" in line


def test_yaml_is_the_same_data(cli: Any, case: Case) -> None:
    import yaml

    assert yaml.safe_load(explain(cli, case(8), NGINX, "-o", "yaml").out) == explain(cli, case(8), NGINX, "-o", "json").data


NAMED = """\
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: a}}
spec: {nodeName: one, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: shop}
spec: {nodeName: one, hostNetwork: true, containers: [{name: c}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: http}, {port: sql}, {port: 9000, endPort: 9010}]}]
  egress: [{to: [{podSelector: {}}], ports: [{port: http}]}]
"""


def test_named_ports_are_told_with_the_number_they_mean(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(NAMED)
    out = cli("explain", "pod/a", "-n", "shop", "-f", "x.yaml").out
    assert "TCP 9000-9010, TCP http (8080), TCP sql (this pod has no such port)" in out
    assert "all pods of namespace shop (1 pod now)" in out


def test_a_host_network_pod_is_said_to_be_beyond_policies(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(NAMED)
    result = cli("explain", "pod/host", "-n", "shop", "-f", "x.yaml")
    assert "Note (host-network): " in result.out and "Ingress: not isolated" in result.out
