"""Bad input: a message with file, line and field, what to do about it, and exit code 2."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

GOOD = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: python}
spec:
  podSelector: {}
"""


def with_rule(text: str) -> str:
    return GOOD + "  ingress:\n" + textwrap.indent(textwrap.dedent(text), "    ")


BAD = [
    pytest.param("a: [1\nb: 2\n", 2, "not valid YAML", id="unparsable YAML"),
    pytest.param("a: 1\n\tb: 2\n", 2, "indent with spaces", id="a tab"),
    pytest.param(
        "apiVersion: x.dev/v1\nkind: Gadget\nmetadata: {name: g}\n", 2, "kind Gadget of x.dev/v1 is not known", id="unknown kind"
    ),
    pytest.param("just text\n", 1, "expected a Kubernetes object", id="no object"),
    pytest.param("apiVersion: v1\nkind: Pod\nmetadata: {}\n", 3, "metadata.name: is missing", id="no name"),
    pytest.param(GOOD.replace("{}", "[]"), 5, "spec.podSelector: expected a mapping", id="wrong type"),
    pytest.param(
        with_rule("- ports:\n  - port: 70000"), 8, "spec.ingress[0].ports[0].port: the number 70000 is out of range", id="port"
    ),
    pytest.param(
        with_rule("- ports:\n  - {port: 90, endPort: 80}"), 8, "spec.ingress[0].ports[0].endPort: 80 is below", id="endPort"
    ),
    pytest.param(
        with_rule("- ports:\n  - {port: 80, protocol: ICMP}"), 8, "ports[0].protocol: expected TCP, UDP or SCTP", id="protocol"
    ),
    pytest.param(with_rule("- from:\n  - ipBlock: {cidr: 10.0.0.0/33}"), 8, "from[0].ipBlock.cidr: ", id="prefix"),
    pytest.param(with_rule("- from:\n  - ipBlock: {cidr: 10.0.0.300/8}"), 8, "is not an IP address", id="address"),
    pytest.param(with_rule("- from:\n  - ipBlock: {cidr: 10.0.0.0}"), 8, "the prefix length is missing", id="no prefix"),
    pytest.param(with_rule("- from:\n  - podSelector: {matchLabels: {app: wéb}}"), 8, "only ASCII letters", id="non-ASCII label"),
    pytest.param(GOOD.replace("name: p", "name: " + "x" * 254), 3, "at most 253 characters", id="long name"),
    pytest.param(GOOD.replace("name: p", "name: Grand"), 3, "is not a valid name", id="capital letters"),
    pytest.param(GOOD + "  podselector: {}\n", 6, "spec.podselector: unknown field", id="unknown field"),
]


@pytest.mark.parametrize(("text", "line", "reason"), BAD)
def test_bad_input_is_told_with_file_line_and_reason(cli: Any, tmp_path: Path, text: str, line: int, reason: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    result = cli("matrix", "-f", "bad.yaml")
    assert result.code == 2 and not result.out
    assert f"error: bad.yaml:{line}: " in result.err and reason in result.err


def test_all_mistakes_of_all_files_are_told_at_once(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(with_rule("- ports:\n  - port: 0\n  - port: 99999"))
    (tmp_path / "b.yaml").write_text(GOOD.replace("{}", "7"))
    result = cli("matrix", "-f", "a.yaml", "-f", "b.yaml")
    assert result.code == 2 and result.err.count("error: ") == 3
    assert "a.yaml:8" in result.err and "a.yaml:9" in result.err and "b.yaml:5" in result.err


def test_an_error_names_the_object(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(with_rule("- ports:\n  - port: 0"))
    assert "a.yaml:8: NetworkPolicy python/p: spec.ingress[0].ports[0].port: " in cli("matrix", "-f", "a.yaml").err


def test_bytes_that_are_no_text(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\xfe\n")
    result = cli("matrix", "-f", "a.yaml")
    assert result.code == 2 and "a.yaml:1" in result.err and "UTF-8" in result.err


def test_5000_peers_in_one_policy_are_fine(cli: Any, tmp_path: Path) -> None:
    peers = "\n".join(f"  - ipBlock: {{cidr: 10.{i // 250}.{i % 250}.0/24}}" for i in range(5000))
    (tmp_path / "a.yaml").write_text(with_rule("- from:\n" + peers))
    assert cli("compile", "--node", "node", "-f", "a.yaml").code == 0


def test_names_at_their_longest_are_fine(cli: Any, tmp_path: Path) -> None:
    name = ".".join(["x" * 63] * 3 + ["y" * 61])
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {'n' * 63}}}\nspec: {{nodeName: one}}\n---\n"
    policy = GOOD.replace("name: p", f"name: {name}").replace("namespace: python", f"namespace: {'n' * 63}")
    (tmp_path / "a.yaml").write_text(pod + policy)
    result = cli("compile", "--node", "one", "-f", "a.yaml", "-o", "json")
    assert result.code == 0
    chains = [line.split()[0][1:] for line in result.data["iptables"]["4"].splitlines() if line.startswith(":")]
    assert max(map(len, chains)) <= 28


def test_a_policy_that_selects_nothing_is_legal_and_lint_says_so(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    assert cli("compile", "--node", "node", "-f", "a.yaml").code == 0
    assert "NP003" in cli("lint", "-f", "a.yaml").out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("matrix", "-f", "none.yaml"), "none.yaml: no such file"),
        (("matrix", "-f", "."), "no file in this folder"),
        (("matrix", "-f", "a.yaml", "--port", "99999"), "a port is 1 to 65535"),
        (("matrix", "-f", "a.yaml", "--port", "80/icmp"), "must be tcp, udp or sctp"),
        (("matrix", "-f", "a.yaml", "-l", "a in x"), "cannot understand"),
        (("explain", "pod/none", "-f", "a.yaml"), "no pod default/none"),
        (("explain", "pod/none", "-o", "xml"), "xml"),
        (("frobnicate",), "frobnicate"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_a_remedy(cli: Any, tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    if "a.yaml" in words:
        (tmp_path / "a.yaml").write_text(GOOD)
    result = cli(*words)
    assert result.code == 2 and reason in result.err
