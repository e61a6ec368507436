"""`npctl matrix` and `npctl compile` on the walkthrough's files."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

Case = Callable[[int], tuple[str, ...]]

WALL = b"""\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: wall, namespace: python}
spec: {podSelector: {}}
"""


def pairs(data: Any, allowed: bool) -> set[tuple[str, str]]:
    """(from, to) by the first two words of each pod's name."""
    return {
        tuple(c[end].partition("-deployment")[0] for end in ("from", "to"))  # type: ignore[misc]  # two of them
        for c in data["connections"]
        if c["allowed"] is allowed
    }


def test_without_policies_everybody_reaches_everybody(cli: Any, environment: tuple[str, ...]) -> None:
    assert not pairs(cli("matrix", *environment, "-o", "json").data, allowed=False)


def test_case_4_refuses_everybody_outside_of_the_namespace(cli: Any, case: Case) -> None:
    refused = pairs(cli("matrix", *case(4), "-o", "json").data, allowed=False)
    assert {a.partition("/")[0] for a, _ in refused} == {"linux", "default"}
    assert {b.partition("/")[0] for _, b in refused} == {"python"}


def test_the_table_is_symbols_with_a_legend(cli: Any, case: Case) -> None:
    lines = cli("matrix", *case(4)).out.splitlines()
    nginx = next(line for line in lines if "linux/linux-nginx" in line)
    assert nginx.split()[2:] == [".", "-", ".", ".", "X", "X", "X"]
    assert ". all allowed" in lines[-1]


def test_namespaces_labels_ports_and_places_outside(cli: Any, case: Case) -> None:
    data = cli(
        "matrix",
        *case(2),
        "-n",
        "python",
        "-l",
        "app=python-tomcat-app1-selector",
        "--port",
        "8080",
        "--from",
        "172.31.7.109",
        "-o",
        "json",
    ).data
    assert [(c["from"], c["port"], c["allowed"]) for c in data["connections"]] == [("172.31.7.109", 8080, False)]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("project", {"python-nginx"}),
        ("project!=python,app", {"python-tomcat-app1"}),
        ("app in (python-nginx-selector, x)", {"python-nginx"}),
        ("!app", {"net-test"}),
    ],
)
def test_the_label_selector_is_kubectls(cli: Any, environment: tuple[str, ...], selector: str, names: set[str]) -> None:
    out = cli("matrix", *environment, "-n", "python", "-l", selector).out
    rows = [line for line in out.splitlines() if "python/" in line]
    assert len(rows) == len(names) and all(any(f"python/{n}" in row for row in rows) for n in names)


def test_each_refusal_of_the_data_says_why(cli: Any, case: Case) -> None:
    refused = [c for c in cli("matrix", *case(1), "-o", "json").data["connections"] if not c["allowed"]]
    assert refused and {c["decided"]["isolating"][0] for c in refused} == {"python/tomcat-access--networkpolicy"}


def test_compile_gives_both_families_and_the_sets(cli: Any, case: Case) -> None:
    data = cli("compile", "--node", "172.31.7.113", *case(2), "-o", "json").data
    assert set(data) == {"node", "ipset", "iptables", "sizes"} and set(data["iptables"]) == {"4", "6"}
    text = data["iptables"]["4"]
    assert text.startswith("*filter\n") and text.endswith("COMMIT\n") and "-I FORWARD 1 -j npc-forward" in text
    assert "--dport 8080" in text and "add npc4-" in data["ipset"] and "10.200.36.67" in data["ipset"]


def test_compile_knows_the_nodes(cli: Any, case: Case) -> None:
    result = cli("compile", "--node", "nowhere", *case(2))
    assert result.code == 2 and "172.31.7.111, 172.31.7.112, 172.31.7.113" in result.err


def test_a_node_without_isolated_pods_gets_no_pod_chain(cli: Any, case: Case) -> None:
    assert "npc-pi-" not in cli("compile", "--node", "172.31.7.111", *case(2)).out


def test_files_may_come_from_stdin(cli: Any, environment: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WALL)))
    out = cli("matrix", *environment, "-f", "-", "-n", "python").out
    assert [line.split()[2:] for line in out.splitlines() if "python/" in line] == [
        ["-", "X", "X"],
        ["X", "-", "X"],
        ["X", "X", "-"],
    ]


def test_a_service_is_no_place_of_a_matrix(cli: Any, environment: tuple[str, ...]) -> None:
    result = cli("matrix", *environment, "-n", "python", "--to", "svc/python-nginx-service")
    assert result.code == 2 and "choose those with -n and -l" in result.err
