"""What an agent answers on its port: health, metrics, and what the kernel really holds for one pod."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builders import allow, block, cluster, egress_policy, key, pod, pods, policy
from dataplanes import shell
from isolated import isolated
from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.runner import Processes
from netpol_agent.errors import AgentError, KernelError
from netpol_agent.inputs.folder_source import FolderSource
from netpol_agent.loop import Agent, AgentOptions
from netpol_agent.reporting.agent_report import FolderReporter
from netpol_agent.serving.http import CONNECTION_LIMIT, RULE_REQUEST_LIMIT, AgentEndpoints, AgentServer
from netpol_agent.serving.metrics import AgentMetrics
from netpol_agent.serving.pod_rules import pod_view, split_counters
from netpol_compiler.model.objects import Key, Pod, Policy
from netpol_compiler.policy import wire
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_store.folder import FolderWriter
from until import until

WEB = pod("shop", "web", ["10.0.0.1"], app="web")
FRIEND = pod("shop", "friend", ["10.0.0.2"], app="friend")
FREE = pod("shop", "free", ["10.0.0.3"], app="free")
INGRESS = policy("shop", "in", {"app": "web"}, ingress=[allow(pods(app="friend")), allow(block("192.0.2.0/24"))])
EGRESS = egress_policy("shop", "out", {"app": "web"})

# -- the endpoints, without a kernel -------------------------------------------------------------------


def endpoints(**overrides: Any) -> AgentEndpoints:
    parts: dict[str, Any] = {
        "alive_at": time.monotonic,
        "ready": lambda: "",
        "metrics": lambda: b"figure 1\n",
        "view": lambda _: None,
    }
    return AgentEndpoints(**{**parts, **overrides})


@contextmanager
def serving(found: AgentEndpoints) -> Iterator[int]:
    """The port of a server on loopback."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    server = AgentServer(found)
    try:
        yield run(server.start("127.0.0.1", 0))
    finally:
        run(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def ask(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_health_is_good_while_the_loop_goes_round_and_says_for_how_long_it_did_not() -> None:
    with serving(endpoints()) as port:
        assert ask(port, "/healthz") == (200, b"ok\n")
    with serving(endpoints(alive_at=lambda: time.monotonic() - 31)) as port:
        status, body = ask(port, "/healthz")
    assert (status, b"no progress for 31 s" in body) == (503, True)


def test_not_ready_says_why() -> None:
    with serving(endpoints(ready=lambda: "the inputs are not complete yet")) as port:
        assert ask(port, "/readyz") == (503, b'{"message": "the inputs are not complete yet"}\n')


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/pods", "/v1/pods/", "/v1/pods/shop", "/v1/pods/shop/", "/v1/pods/shop/web/x", "//v1/pods/shop/web", "/x"],
)
def test_other_paths_are_not_found(path: str) -> None:
    with serving(endpoints()) as port:
        assert ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/pods/shop/web"])
def test_nothing_can_be_written(method: str, path: str) -> None:
    with serving(endpoints()) as port:
        assert ask(port, path, method)[0] == 405


def test_head_answers_without_a_body() -> None:
    with serving(endpoints()) as port:
        assert ask(port, "/healthz", "HEAD") == (200, b"")


@pytest.mark.parametrize("error", [KernelError("the table is locked"), TimeoutError()], ids=["kernel", "busy"])
def test_rules_that_cannot_be_read_now_are_unavailable_and_not_missing(error: Exception) -> None:
    def view(_: Key) -> None:
        raise error

    with serving(endpoints(view=view)) as port:
        status, body = ask(port, "/v1/pods/shop/web")
    assert status == 503
    assert json.loads(body)["message"]


def test_one_reads_at_a_time_and_a_crowd_is_sent_away() -> None:
    entered, leave, at_once = threading.Semaphore(0), threading.Event(), []

    def view(_: Key) -> dict[str, Any]:
        at_once.append(1)
        entered.release()
        leave.wait(10)
        found = {"readers": len(at_once)}
        at_once.pop()
        return found

    with serving(endpoints(view=view)) as port:
        answers: list[tuple[int, bytes]] = []
        askers = [
            threading.Thread(target=lambda: answers.append(ask(port, "/v1/pods/a/b"))) for _ in range(RULE_REQUEST_LIMIT + 1)
        ]
        for asker in askers:
            asker.start()
        assert entered.acquire(timeout=10)
        # One too many is told so while the first still reads.
        until(lambda: answers, 10, "an answer, while the readers still read")
        assert [status for status, _ in answers] == [503]
        assert ask(port, "/healthz")[0] == 200
        leave.set()
        for asker in askers:
            asker.join(10)
    assert [json.loads(body) for status, body in answers if status == 200] == [{"readers": 1}] * RULE_REQUEST_LIMIT


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_connections_that_only_stand_there_never_keep_the_kubelet_out() -> None:
    with serving(endpoints()) as port:
        idle = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(CONNECTION_LIMIT + 5)]
        assert ask(port, "/healthz")[0] == 200
        assert all(ended(evicted) for evicted in idle[:5])
        for connection in idle:
            connection.close()


def test_a_port_that_is_taken_is_an_error_with_a_remedy() -> None:
    with serving(endpoints()) as port, pytest.raises(AgentError) as caught, asyncio.Runner() as runner:
        runner.run(AgentServer(endpoints()).start("127.0.0.1", port))
    assert "--http" in caught.value.remedy


# -- what the kernel has -------------------------------------------------------------------------------


def test_counters_are_split_from_rules() -> None:
    text, counters = split_counters(":npc-a - [0:0]\n:npc-b - [0:0]\n[3:180] -A npc-a -j npc-b\n[0:0] -A npc-a -j DROP\n")
    assert text.splitlines()[2:] == ["-A npc-a -j npc-b", "-A npc-a -j DROP"]
    assert counters == {"npc-a": [(3, 180), (0, 0)], "npc-b": []}


class Node:
    """An agent on folders that the test steps by hand, so that it repairs nothing behind the test's back."""

    def __init__(self, root: Path, kind: BackendKind, *values: Pod | Policy) -> None:
        self._objects, self._ir = FolderWriter(root / "objects"), FolderWriter(root / "ir")
        self.put(*values)
        self.metrics = AgentMetrics({"watch_gaps": lambda: 2})
        source = FolderSource("n1", root / "objects", root / "ir")
        self.agent = Agent(AgentOptions("n1", kind), source, FolderReporter(root / "reports", "n1"), Processes(), self.metrics)
        self.metrics.follow(self.agent)
        self.agent.step()

    def put(self, *values: Pod | Policy) -> None:
        ir = compile_cluster(cluster(*values))
        for value in values:
            if isinstance(value, Pod):
                status = {"phase": value.phase, "podIPs": [{"ip": a.text} for a in value.addresses]}
                metadata = {"name": value.key.name, "namespace": value.key.namespace, "labels": dict(value.labels)}
                content = {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": value.node}, "status": status}
                self._objects.write(f"Pod/{value.key.namespace}/{value.key.name}.json", json.dumps(content).encode())
        for found in ir.sets.values():
            self._ir.write(f"addresssets/{found.name}.0.json", wire.to_bytes(wire.slice_to_wire(found, 0, 1, found.members)))
        for name, compiled in ir.policies.items():
            self._ir.write(f"compiledpolicies/{name.namespace}/{name.name}.json", wire.to_bytes(wire.policy_to_wire(compiled)))
        self._objects.commit()
        self._ir.commit()

    def view(self, name: str, between: Callable[[int], None] = lambda _: None) -> Any:
        """As if somebody asked over HTTP; `between` runs before each of the agent's answers."""
        answers: list[Any] = []
        asker = threading.Thread(target=lambda: answers.append(pod_view(self.agent, "n1", key(name), Processes())))
        asker.start()
        asked = 0
        while asker.is_alive():
            between(asked)
            self.agent.requests.run()
            asked += 1
            asker.join(0.01)
        return answers[0]


@pytest.mark.kernel
@pytest.mark.parametrize("kind", list(BackendKind))
@isolated
def test_the_view_is_the_kernels_with_counters_and_finds_no_difference_at_rest(tmp_path: Path, kind: BackendKind) -> None:
    node = Node(tmp_path, kind, WEB, FRIEND, INGRESS, EGRESS)
    view = node.view("shop/web")
    facts = ("schema", "node", "pod", "backend", "in_sync", "isolated", "differences")
    assert [view[f] for f in facts] == [1, "n1", "shop/web", kind.value, True, ["ingress", "egress"], []]
    assert set(view["chains"]) == {"4"}, "the pod has no IPv6 address"
    rules = [rule for chain in view["chains"]["4"].values() for rule in chain]
    assert any("npc4-n1-friend" in r["rule"] for r in rules)
    assert all(set(r) == {"rule", "packets", "bytes"} for r in rules)
    assert [s["members"] for s in view["sets"].values()] == [["10.0.0.2"]]


@pytest.mark.kernel
@isolated
def test_a_pod_that_is_not_isolated_has_no_chains_and_a_strange_one_no_view(tmp_path: Path) -> None:
    node = Node(tmp_path, BackendKind.NFT, WEB, FREE, INGRESS)
    free = node.view("shop/free")
    assert (free["isolated"], free["chains"], free["sets"], free["differences"]) == ([], {"4": {}}, {}, [])
    assert node.view("shop/nobody") is None


CHANGES = {
    "iptables-nft -D FORWARD 1": "rule 1 of FORWARD does not lead to npc-forward (IPv4)",
    "iptables-nft -I FORWARD -j ACCEPT": "rule 1 of FORWARD does not lead to npc-forward (IPv4)",
    "iptables-nft -F npc-ingress": "chain npc-ingress (IPv4): has 0 rules where 1 were compiled",
    "iptables-nft -I $(chain pi-web) -j ACCEPT": "has 7 rules where 6 were compiled",
    "iptables-nft -R $(chain bi-in) 1 -s 192.0.2.0/24 -j ACCEPT": "rule 1 is '-s 192.0.2.0/24 -j ACCEPT' where",
    "ipset add $(ipset_of friend) 10.9.9.9": "has 10.9.9.9, which was not compiled",
    "ipset del $(ipset_of friend) 10.0.0.2": "lacks 10.0.0.2",
}
NAMES = r"""chain() { iptables-nft-save | sed -n "s/^:\(npc-$1[^ ]*\).*/\1/p" | head -n 1; }
ipset_of() { ipset list -n | grep "npc4-n1-$1"; }
"""


@pytest.mark.kernel
@pytest.mark.parametrize("change", CHANGES)
@isolated
def test_what_somebody_changed_is_named(tmp_path: Path, change: str) -> None:
    node = Node(tmp_path, BackendKind.NFT, WEB, FRIEND, INGRESS)
    shell(NAMES + change)
    view = node.view("shop/web")
    assert len(view["differences"]) == 1
    assert CHANGES[change] in view["differences"][0]
    assert view["in_sync"] is False


@pytest.mark.kernel
@isolated
def test_a_change_that_the_agent_makes_meanwhile_is_no_difference(tmp_path: Path) -> None:
    node = Node(tmp_path, BackendKind.NFT, WEB, FRIEND, INGRESS)

    def work(asked: int) -> None:
        if asked == 1:
            node.put(WEB, FRIEND, FREE, EGRESS)
            node.agent.step()

    view = node.view("shop/web", work)
    assert (view["differences"], view["isolated"]) == ([], ["ingress", "egress"])


@pytest.mark.kernel
@isolated
def test_the_figures_name_what_is_programmed(tmp_path: Path) -> None:
    node = Node(tmp_path, BackendKind.NFT, WEB, FRIEND, INGRESS)
    lines = node.metrics.text().decode().splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    expected = {"in_sync": 1, "complete": 1, "policies": 1, "syncs_total": 1, "sync_seconds_count": 1, "repairs_total": 0}
    assert {name: float(figures[f"npctl_agent_{name}"]) for name in expected} == expected
    assert float(figures["npctl_agent_watch_gaps_total"]) == 2
    assert float(figures['npctl_agent_chains{family="ipv4"}']) == len(node.agent.enforcement.compiler.ruleset.chains[4])  # type: ignore[index]
    assert 'npctl_agent_info{backend="nft"' in node.metrics.text().decode()
