"""`npctl trace --simulate` on the walkthrough's files: verdicts, ways, forms, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from netpol_compiler.policy.verdict import Judge
from netpol_compiler.witnesses import oracle
from npctl.answers.probes import try_places
from npctl.answers.trace import Trace, Tracer
from npctl.endpoints.endpoints import find_place, parse_port, pod_place
from npctl.inputs.state import State, load

Case = Callable[[int], tuple[str, ...]]

PORTS = ("80", "443", "8080", "3306", "53", "53/udp", "8080/udp", "icmp")
PLACES = ("node/172.31.7.112", "172.31.7.109", "172.31.7.106", "203.0.113.10")
TOMCAT, NGINX = "deploy/python-tomcat-app1-deployment", "deploy/python-nginx-deployment"

TWO_FAMILIES = """\
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x, labels: {app: a}}
spec: {nodeName: one, containers: [{name: main, image: none, ports: [{containerPort: 80}]}]}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: x, labels: {app: b}}
spec: {nodeName: one, containers: [{name: main, image: none, ports: [{containerPort: 80}]}]}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-four, namespace: x}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}
"""


def state_of(options: tuple[str, ...]) -> State:
    return load([word for word in options if word != "-f"], quiet=True)


def every_trace(state: State) -> Iterator[Trace]:
    """All pods and some places outside, in every direction in which there is one, on all of PORTS."""
    tracer = Tracer(state)
    pods = [pod_place(p) for p in state.cluster.pods.values()]
    outside = [find_place(state, text, "default") for text in PLACES]
    pairs = [(a, b) for a in (*pods, *outside) for b in (*pods, *outside) if a.pod or b.pod]
    for source, target in pairs:
        for port in PORTS:
            for attempt in try_places(state, source, target, parse_port(port)):
                yield tracer.trace(attempt)


@pytest.mark.parametrize("number", range(1, 10))
def test_every_pair_and_port_of_the_nine_cases_has_the_oracles_verdict(case: Case, number: int) -> None:
    state = state_of(case(number))
    wrong, refused, count = [], 0, 0
    for trace in every_trace(state):
        connection = trace.attempt.connection
        count += 1
        refused += not trace.allowed
        if trace.allowed != oracle.judge(state.cluster, connection).allowed or not trace.agrees:
            wrong.append(connection)
    assert wrong == []
    assert 0 < refused < count and count == len(PORTS) * (7 * 7 + 2 * 7 * len(PLACES))


@pytest.mark.parametrize(
    ("number", "source", "target", "port", "code"),
    [
        (1, NGINX, TOMCAT, "8080", 1),
        (2, NGINX, TOMCAT, "8080", 0),
        (2, NGINX, "svc/python-tomcat-app1-service", "80", 0),
        (2, NGINX, TOMCAT, "80", 1),
        (3, "pod/net-test-centos-pod1", TOMCAT, "3306", 0),
        (4, "172.31.7.109", NGINX, "443", 1),
        (5, "default/net-test", TOMCAT, "8080", 0),
        (6, "default/net-test", TOMCAT, "8080", 1),
        (7, TOMCAT, "172.31.7.106", "53/udp", 0),
        (8, NGINX, "203.0.113.10", "443", 1),
        (9, NGINX, "linux/linux-tomcat", "8080", 0),
    ],
)
def test_the_exit_code_is_the_verdict(cli: Any, case: Case, number: int, source: str, target: str, port: str, code: int) -> None:
    result = cli("trace", "--simulate", source, target, "--port", port, "-n", "python", *case(number))
    assert result.code == code and result.err == ""
    assert result.out.startswith("refused (simulated" if code else "allowed (simulated")


def one(cli: Any, *words: str) -> dict[str, Any]:
    (trace,) = cli("trace", "--simulate", *words, "-n", "python", "-o", "json").data["traces"]
    return trace  # type: ignore[no-any-return]  # JSON


def test_both_ends_are_judged_on_their_own_node_and_the_reply_comes_back_the_same_way(cli: Any, case: Case) -> None:
    trace = one(cli, NGINX, TOMCAT, "--port", "8080", *case(2))
    assert [(s["node"], [j["direction"] for j in s["judges"]], s["state"]) for s in trace["first"]] == [
        ("172.31.7.112", ["egress"], "NEW"),
        ("172.31.7.113", ["ingress"], "NEW"),
    ]
    assert [(s["node"], s["judges"], s["state"]) for s in trace["reply"]] == [
        ("172.31.7.113", [], "ESTABLISHED"),
        ("172.31.7.112", [], "ESTABLISHED"),
    ]
    reply = trace["reply"][0]
    assert (reply["source"], reply["sport"], reply["destination"]) == ("10.200.166.2", 8080, "10.200.36.67")
    assert trace["first"][1]["why"] == "allowed by python/tomcat-access--networkpolicy ingress[0]"
    assert [m["words"] for m in trace["first"][1]["path"] if m["words"]] == ["python/tomcat-access--networkpolicy ingress[0]"]


def test_pods_of_one_node_are_judged_there_once_for_both_ends(cli: Any, case: Case) -> None:
    trace = one(cli, "linux/net-test", TOMCAT, "--port", "8080", *case(5))
    (stop,) = trace["first"]
    assert [j["direction"] for j in stop["judges"]] == ["egress", "ingress"]


def test_a_refused_packet_ends_at_the_node_that_refuses_it_and_has_no_reply(cli: Any, case: Case) -> None:
    trace = one(cli, NGINX, "203.0.113.10", "--port", "443", *case(8))
    (stop,) = trace["first"]
    assert not stop["accepted"] and trace["reply"] == []
    assert "is isolated for egress and nothing allows this" in stop["why"] and stop["path"][-1]["effect"] == "DROP"


def test_each_rule_is_the_line_of_the_text_that_compile_prints(cli: Any, case: Case) -> None:
    trace = one(cli, NGINX, TOMCAT, "--port", "8080", *case(2))
    for stop in (*trace["first"], *trace["reply"]):
        text = cli("compile", "--node", stop["node"], *case(2), "-o", "json").data["iptables"]["4"].splitlines()
        rules = [m for m in stop["path"] if m["line"]]
        assert rules and all(text[m["line"] - 1] == m["rule"] for m in rules)
        assert stop["path"][-1]["rule"] == "policy ACCEPT"


def test_a_nodes_own_packets_meet_no_rules_there(cli: Any, case: Case) -> None:
    trace = one(cli, "node/172.31.7.113", TOMCAT, "--port", "8080", *case(1))
    assert trace["allowed"] and [(s["filtered"], s["path"]) for s in trace["first"]] == [(False, [])]
    other = one(cli, "node/172.31.7.112", TOMCAT, "--port", "8080", *case(1))
    assert [(s["node"], s["filtered"], s["accepted"]) for s in other["first"]] == [
        ("172.31.7.112", False, True),
        ("172.31.7.113", True, False),
    ]


def test_a_pod_reaches_itself_without_a_node_and_through_its_service_by_its_own_rule(cli: Any, case: Case) -> None:
    direct = one(cli, TOMCAT, TOMCAT, *case(1))
    assert direct["allowed"] and direct["first"] == []
    hairpin = one(cli, TOMCAT, "svc/python-tomcat-app1-service", *case(1))
    assert hairpin["allowed"] and hairpin["first"][0]["why"] == "allowed by the pod itself" and hairpin["via"]
    assert "No node forwards it" in cli("trace", "--simulate", TOMCAT, TOMCAT, "-n", "python", *case(1)).out


def test_each_family_is_walked_through_its_own_rules(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(TWO_FAMILIES)
    result = cli("trace", "--simulate", "a", "b", "-n", "x", "-f", "x.yaml", "-o", "json")
    traces = result.data["traces"]
    assert [(t["to"]["address"], t["allowed"]) for t in traces] == [("10.0.0.2", True), ("fd00::2", False)]
    assert result.code == 1, "one of the two is refused"


def test_data_has_the_documented_form_in_json_and_yaml(cli: Any, case: Case) -> None:
    words = ("trace", "--simulate", NGINX, TOMCAT, "-n", "python", *case(2), "-o")
    data = cli(*words, "json").data
    assert yaml.safe_load(cli(*words, "yaml").out) == data
    assert set(data) == {"simulated", "traces"} and data["simulated"] is True
    trace = data["traces"][0]
    assert list(trace) == ["from", "to", "protocol", "port", "via", "allowed", "first", "reply", "policies", "agrees"]
    stop_keys = "node source destination protocol sport dport state judges filtered accepted why path"
    assert all(" ".join(stop) == stop_keys for stop in (*trace["first"], *trace["reply"]))
    assert list(trace["first"][0]["path"][0]) == ["chain", "number", "line", "rule", "words", "effect"]
    assert trace["agrees"] and trace["policies"]["allowed"] and trace["policies"]["egress"]["reason"] == "not-isolated"


def test_icmp_has_no_ports(cli: Any, case: Case) -> None:
    trace = one(cli, NGINX, TOMCAT, "--port", "icmp", *case(2))
    assert (trace["protocol"], trace["port"], trace["allowed"]) == ("ICMP", None, False)
    assert (trace["first"][0]["protocol"], trace["first"][0]["dport"]) == ("icmp", None)


def test_without_simulate_it_says_so_and_does_nothing(cli: Any, case: Case) -> None:
    result = cli("trace", NGINX, TOMCAT, "-n", "python", *case(2))
    assert result.code == 2 and result.out == ""
    assert result.err.splitlines()[0] == "error: npctl trace only simulates: say so with --simulate"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nobody", TOMCAT), "no pod python/nobody"),
        ((NGINX, "svc/nothing"), "no Service python/nothing"),
        ((NGINX, "node/nowhere"), "no node nowhere"),
        ((NGINX, "203.0.113.10"), "which port of 203.0.113.10?"),
        ((NGINX, TOMCAT, "--port", "8080/xtp"), "must be tcp, udp or sctp"),
        ((NGINX, TOMCAT, "--port", "0"), "a port is 1 to 65535"),
        ((NGINX, "fd00::1", "--port", "80"), "share no address family"),
        ((NGINX, TOMCAT, "--context", "mine"), "-f means files alone"),
    ],
)
def test_what_cannot_be_traced_is_bad_input_in_words(cli: Any, case: Case, words: tuple[str, ...], said: str) -> None:
    result = cli("trace", "--simulate", *words, "-n", "python", *case(2))
    assert result.code == 2 and said in result.err and result.out == ""


def test_bad_files_are_told_with_their_lines(cli: Any, case: Case, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: python}\n"
        "spec:\n  podSelector: {}\n  ingress:\n  - ports:\n    - {port: 70000}\n"
    )
    result = cli("trace", "--simulate", NGINX, TOMCAT, "-n", "python", *case(2), "-f", "p.yaml")
    assert result.code == 2 and "p.yaml:8: " in result.err and result.out == ""


def test_a_verdict_that_the_compiled_policies_do_not_share_is_said_aloud(
    cli: Any, case: Case, monkeypatch: pytest.MonkeyPatch, environment: tuple[str, ...]
) -> None:
    """The two cannot differ unless npctl has a fault: here the policies are asked about a world without any."""
    open_world = state_of(environment)
    monkeypatch.setattr(State, "judge", property(lambda state: Judge(open_world.ir, open_world.cluster)))
    result = cli("trace", "--simulate", NGINX, TOMCAT, "-n", "python", *case(1), "-o", "json")
    trace = json.loads(result.out)["traces"][0]
    assert (trace["allowed"], trace["policies"]["allowed"], trace["agrees"], result.code) == (False, True, False, 1)
    assert "warning: " in result.err and "a fault of npctl" in result.err
