"""npctl diff on files: what a change opens and shuts, in words and as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import address, network
from netpol_compiler.model.kinds import Family, Protocol
from netpol_compiler.model.objects import PortRange
from npctl.endpoints import port_spans
from npctl.endpoints.external_blocks import parts

TOMCAT = "python/python-tomcat-app1-deployment-vp52s9ps8m-5k47c"
NGINX = "python/python-nginx-deployment-tpftzkq2st-hg6bk"
WALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wall, namespace: python}
spec:
  podSelector: {}
  policyTypes: [Ingress]
"""


def base(options: tuple[str, ...]) -> tuple[str, ...]:
    """The -f options of what there is now, as --base."""
    return tuple("--base" if word == "-f" else word for word in options)


def case_file(options: tuple[str, ...]) -> str:
    return options[-1]


def test_a_new_policy_shuts_and_its_rule_keeps_open(cli: Any, environment: Any, case: Any) -> None:
    result = cli("diff", *base(environment), "-f", case_file(case(2)))
    assert result.code == 1 and "NetworkPolicy python/tomcat-access--networkpolicy would be created" in result.out
    rows = {tuple(part.strip() for part in line.split("   ") if part.strip()) for line in result.out.splitlines()}
    shut = ("all but 8080/tcp", "allowed", "refused", "default deny, ingress: python/tomcat-access--networkpolicy")
    assert (NGINX, TOMCAT, *shut) in rows
    assert "0 would be opened, " in result.out


def test_deleting_it_opens_again(cli: Any, environment: Any, case: Any) -> None:
    data = cli("diff", *base(case(2)), "--delete", "-f", case_file(case(2)), "-o", "json").data
    assert data["changes"][0]["action"] == "delete" and data["summary"]["shut"] == 0
    assert {c["then"] for c in data["connections"]} == {True} and {c["to"] for c in data["connections"]} == {TOMCAT}
    row = next(c for c in data["connections"] if c["from"] == NGINX)
    assert row["port"] == "all but 8080/tcp"
    ranges = [(p["protocol"], p["first"], p["last"]) for p in row["ports"]]
    assert ranges == [
        ("TCP", 0, 8079), ("TCP", 8081, 65535), ("UDP", 0, 65535), ("SCTP", 0, 65535), ("ICMP", None, None),
    ]  # fmt: skip
    assert row["decidedNow"]["reason"] == "default-deny" and row["decidedNow"]["chain"].startswith("npc-pi-")
    assert row["decidedThen"]["reason"] == "not-isolated"


def test_nothing_differs_is_exit_code_0(cli: Any, case: Any) -> None:
    result = cli("diff", *base(case(5)), "-f", case_file(case(5)))
    assert result.code == 0 and "stays as it is" in result.out and "No connection would be opened or shut." in result.out


def test_a_change_behind_another_policy_that_refuses_is_no_difference(cli: Any, environment: Any, tmp_path: Path) -> None:
    (tmp_path / "wall.yaml").write_text(WALL)
    (tmp_path / "second.yaml").write_text(WALL.replace("wall", "second"))
    assert cli("diff", *base(environment), "--base", "wall.yaml", "-f", "second.yaml").code == 0


def test_rows_speak_of_many_pods_and_wide_of_each(cli: Any, environment: Any, tmp_path: Path) -> None:
    (tmp_path / "wall.yaml").write_text(WALL)
    table = cli("diff", *base(environment), "-f", "wall.yaml")
    assert "everybody" in table.out and "all 3 pods of python" in table.out
    wide = cli("diff", *base(environment), "-f", "wall.yaml", "-o", "wide")
    data = cli("diff", *base(environment), "-f", "wall.yaml", "-o", "json").data
    # Each of 7 pods and the world outside towards each of 3, but no pod towards itself.
    assert len(data["connections"]) == data["summary"]["shut"] == (7 + 1) * 3 - 3
    assert sum(line.count("refused") > 0 for line in wide.out.splitlines()) == len(data["connections"])


def test_the_world_outside_is_told_by_the_blocks_that_rules_name(cli: Any, environment: Any, tmp_path: Path) -> None:
    rule = "  ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]}]\n"
    (tmp_path / "wall.yaml").write_text(WALL + rule)
    data = cli("diff", *base(environment), "-f", "wall.yaml", "-o", "json").data
    outside = {c["from"] for c in data["connections"] if not c["from"].partition("/")[0].isalpha()}
    assert outside == {"192.0.2.128/25", "anywhere else outside"}


def test_labels_of_a_namespace_open_what_a_selector_admits(cli: Any, environment: Any, case: Any, tmp_path: Path) -> None:
    rule = "  ingress: [{from: [{namespaceSelector: {matchLabels: {trusted: 'yes'}}}]}]\n"
    (tmp_path / "wall.yaml").write_text(WALL + rule)
    (tmp_path / "label.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: linux, labels: {trusted: 'yes'}}\n")
    data = cli("diff", *base(environment), "--base", "wall.yaml", "-f", "label.yaml", "-o", "json").data
    assert {c["from"].partition("/")[0] for c in data["connections"]} == {"linux"}
    assert {c["then"] for c in data["connections"]} == {True} and data["summary"]["opened"] == 9


def test_workloads_are_passed_over_and_said_so(cli: Any, environment: Any) -> None:
    result = cli("diff", *base(environment), "-f", environment[-1])
    assert result.code == 0 and "Deployment python/python-nginx-deployment is passed over" in result.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--base", "wall.yaml"), "which change?"),
        (("--base", "wall.yaml", "-f", "bad.yaml"), "70000 is out of range"),
        (("--base", "bad.yaml", "-f", "wall.yaml"), "70000 is out of range"),
        (("--base", "wall.yaml", "-f", "gadget.yaml"), "kind Gadget of x.dev/v1 is not known"),
        (("--base", "wall.yaml", "--context", "x", "-f", "wall.yaml"), "--kubeconfig and --context have no place beside it"),
    ],
)
def test_wrong_input_is_exit_code_2(cli: Any, tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    (tmp_path / "wall.yaml").write_text(WALL)
    (tmp_path / "bad.yaml").write_text(WALL + "  ingress: [{ports: [{port: 70000}]}]\n")
    (tmp_path / "gadget.yaml").write_text("apiVersion: x.dev/v1\nkind: Gadget\nmetadata: {name: g}\n")
    result = cli("diff", *words)
    assert result.code == 2 and reason in result.err and not result.out


# -- ports and the world outside -----------------------------------------------------------------------


def test_spans_are_cut_where_a_rule_names_a_border() -> None:
    tcp = Protocol.TCP
    every = port_spans.spans([PortRange(tcp, 80, 80), PortRange(tcp, 8000, 65535)])
    assert every == [port_spans.REST, (tcp, 0, 79), (tcp, 80, 80), (tcp, 81, 7999), (tcp, 8000, 65535)]
    assert [port_spans.port_of(s) for s in every[:3]] == [(None, None), (tcp, 1), (tcp, 80)]


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ([0, 1, 2, 3], "all"),
        ([2], "80/tcp"),
        ([0, 1, 3], "all but 80/tcp"),
        ([1, 2, 3], "tcp"),
        ([0], "all but tcp"),
        ([1], "0-79/tcp"),
        ([2, 3], "80-65535/tcp"),
    ],
)
def test_spans_in_words(chosen: list[int], text: str) -> None:
    every = port_spans.spans([PortRange(Protocol.TCP, 80, 80)])
    assert port_spans.words([every[i] for i in chosen], every) == text


def test_parts_of_the_world_are_blocks_without_the_blocks_inside() -> None:
    blocks = [network(t) for t in ("10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/30", "192.0.2.7/32")]
    found = {p.label: p.address.text for p in parts(blocks, [network("10.1.0.0/30")], [address("192.0.2.7")], [Family.V4])}
    assert found == {
        "anywhere else outside": "1.0.0.1",
        "the rest of 10.0.0.0/8": "10.0.0.1",
        "the rest of 10.1.0.0/16": "10.1.0.4",
    }  # the /30 is the pods' own, and the only address of the /32 a pod's


def test_both_families_have_an_outside() -> None:
    found = parts([network("fd00::/16")], [], [], [Family.V4, Family.V6])
    assert [p.label for p in found] == ["anywhere outside, IPv4", "anywhere else outside, IPv6", "fd00::/16, IPv6"]
