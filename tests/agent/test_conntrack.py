"""A tighter policy cuts exactly the connections that it refuses (SEMANTICS 12), on entries of a real conntrack table."""

from __future__ import annotations

import itertools
import subprocess

import pytest

from builders import allow, block, cluster, conn, pod, pods, policy, port
from isolated import isolated
from netpol_agent.connections.conntrack import Flow, cut_refused
from netpol_agent.connections.conntrack_cutter import ConntrackCutter
from netpol_agent.connections.refused_flows import NodeJudge
from netpol_compiler.model.kinds import FAMILIES
from netpol_compiler.model.objects import Cluster
from netpol_compiler.node import NodeCompiler
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.policy.verdict import judge

pytestmark = pytest.mark.kernel

WEB = pod("shop", "web", ["10.0.0.1", "fd00::1"], app="web", ports=["http:8080"])
FRIEND = pod("shop", "friend", ["10.0.0.2", "fd00::2"], app="friend")
STRANGER = pod("shop", "stranger", ["10.0.0.3", "fd00::3"], app="stranger", node="n2")
POLICY = policy(
    "shop",
    "p",
    {"app": "web"},
    ingress=[allow(pods(app="friend"), ports=[port("http")]), allow(block("192.0.2.0/24"))],
    egress=[allow(ports=[port(53, protocol="UDP")])],
)


def node(state: Cluster) -> NodeCompiler:
    compiler, ir = NodeCompiler("n1"), compile_cluster(state)
    for value in state.pods.values():
        if value.node == "n1":
            compiler.set_pod(value)
    for address_set in ir.sets.values():
        compiler.set_address_set(address_set)
    for compiled in ir.policies.values():
        compiler.set_policy(compiled)
    compiler.flush()
    return compiler


SOURCE_PORTS = itertools.count(40000)


def connect(source: str, destination: str, port: int, protocol: str = "tcp", reached: str = "", reached_port: int = 0) -> None:
    """Put an entry into the table; `reached` is where DNAT leads."""
    state = {"udp": []}.get(protocol, ["--state", "ESTABLISHED"])
    command = ["conntrack", "-I", "-p", protocol, *state, "--timeout", "1000", "-s", source, "-d", destination]
    own = str(next(SOURCE_PORTS))
    command += ["--sport", own, "--dport", str(port), "-r", reached or destination, "-q", source]
    command += ["--reply-port-src", str(reached_port or port), "--reply-port-dst", own]
    command += ["--orig-vtag", "1", "--reply-vtag", "2"] if protocol == "sctp" else []
    subprocess.run(command, check=True, capture_output=True)


def table() -> set[str]:
    """What is left, as `source>destination:port` of the original direction."""
    found = set()
    for family in ("ipv4", "ipv6"):
        done = subprocess.run(["conntrack", "-L", "-f", family], check=True, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            words = dict(w.split("=", 1) for w in reversed(line.split()) if "=" in w)
            found.add(f"{words['src']}>{words['dst']}:{words.get('dport', words.get('type'))}")
    return found


@isolated
def test_exactly_the_refused_entries_are_deleted_in_both_families() -> None:
    stay = [
        ("10.0.0.2", "10.0.0.1", 8080),
        ("192.0.2.7", "10.0.0.1", 1),
        ("10.0.0.3", "10.0.0.2", 8080),
        ("10.0.0.1", "10.0.0.1", 9999),
        ("203.0.113.1", "203.0.113.2", 80),
        ("fd00::2", "fd00::1", 8080),
    ]
    go = [
        ("10.0.0.3", "10.0.0.1", 8080),
        ("10.0.0.2", "10.0.0.1", 9999),
        ("10.0.0.1", "10.0.0.3", 443),
        ("fd00::3", "fd00::1", 8080),
    ]
    for entry in (*stay, *go):
        connect(*entry)
    connect("10.0.0.1", "10.0.0.3", 53, "udp")
    connect("10.0.0.2", "10.0.0.1", 8080, "sctp")
    connect("10.0.0.2", "10.96.0.1", 80, reached="10.0.0.1", reached_port=8080)
    connect("10.0.0.3", "10.96.0.1", 80, reached="10.0.0.1", reached_port=8080)
    judgement = NodeJudge(node(cluster(WEB, FRIEND, STRANGER, POLICY)))
    cut = cut_refused(FAMILIES, judgement.isolated, judgement.refused)
    assert (cut.problem, cut.deleted) == ("", len(go) + 2)
    kept = {f"{s}>{d}:{p}" for s, d, p in stay} | {"10.0.0.1>10.0.0.3:53", "10.0.0.2>10.96.0.1:80"}
    # In these words the friend's SCTP entry looks like its TCP one, which stays: so by its protocol.
    assert table() == kept
    assert "sctp" not in subprocess.run(["conntrack", "-L"], check=True, capture_output=True, text=True).stdout


@isolated
def test_what_begins_or_ends_on_the_node_itself_is_left_alone() -> None:
    subprocess.run(["ip", "address", "add", "10.0.0.254/24", "dev", "lo"], check=True)
    connect("10.0.0.254", "10.0.0.1", 9999)
    connect("10.0.0.1", "10.0.0.254", 9999)
    connect("10.0.0.253", "10.0.0.1", 9999)
    judgement = NodeJudge(node(cluster(WEB, POLICY)))
    assert cut_refused(FAMILIES, judgement.isolated, judgement.refused).deleted == 1
    assert table() == {"10.0.0.254>10.0.0.1:9999", "10.0.0.1>10.0.0.254:9999"}


@isolated
def test_a_request_is_followed_by_two_passes_and_then_rest() -> None:
    now = [100.0]
    cutter = ConntrackCutter(node(cluster(WEB, POLICY)), FAMILIES, lambda: now[0])
    connect("10.0.0.3", "10.0.0.1", 8080)
    cutter.step()
    assert cutter.due is None
    cutter.request()
    cutter.step()
    assert cutter.deleted == 1
    assert cutter.due is not None
    connect("10.0.0.3", "10.0.0.1", 8081)
    now[0] = cutter.due
    cutter.step()
    assert (cutter.deleted, cutter.due) == (2, None)


def test_the_judge_agrees_with_the_verdict_for_what_this_node_decides() -> None:
    state = cluster(WEB, FRIEND, STRANGER, POLICY)
    judgement, ir = NodeJudge(node(state)), compile_cluster(state)
    numbers = {"TCP": 6, "UDP": 17, None: 1}
    for source in (WEB, FRIEND, STRANGER, "192.0.2.9"):
        for target in (WEB, FRIEND, STRANGER, "192.0.2.9"):
            for protocol, number in (("TCP", 8080), ("TCP", 53), ("UDP", 53), (None, None)):
                connection = conn(source, target, number, protocol)
                flow = Flow(connection.source, connection.destination, numbers[protocol], number)
                assert judgement.refused(flow) is not judge(ir, state, connection).allowed, connection
