"""The whole agent over folders and a real kernel: what it reports, what it keeps, and how it starts and stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builders import allow, cluster, pod, pods, policy
from dataplanes import shell
from isolated import isolated
from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.cleanup import run_cleanup
from netpol_agent.dataplane.runner import Processes
from netpol_agent.errors import AgentError
from netpol_agent.inputs.folder_source import FolderSource
from netpol_agent.loop import Agent, AgentOptions
from netpol_agent.main import only_one
from netpol_agent.reporting.agent_report import FolderReporter
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Key, Pod, Policy
from netpol_compiler.policy import wire
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_store.folder import FolderWriter
from until import until

WEB = pod("shop", "web", ["10.0.0.1", "fd00::1"], app="web")
FRIEND = pod("shop", "friend", ["10.0.0.2", "fd00::2"], app="friend")
LIMIT_SECONDS = 20.0
POLICY = policy("shop", "p", {"app": "web"}, ingress=[allow(pods(app="friend"))])


class Node:
    """The folders of one node, written as operator and API server would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects, self.ir = FolderWriter(root / "objects"), FolderWriter(root / "ir")

    def put(self, *values: Pod | Policy) -> None:
        ir = compile_cluster(cluster(*values))
        for value in values:
            if isinstance(value, Pod):
                self.objects.write(f"Pod/{value.key.namespace}/{value.key.name}.json", _json(value))
        for address_set in ir.sets.values():
            slice_bytes = wire.to_bytes(wire.slice_to_wire(address_set, 0, 1, address_set.members))
            self.ir.write(f"addresssets/{address_set.name}.0.json", slice_bytes)
        for key, compiled in ir.policies.items():
            self.ir.write(f"compiledpolicies/{key.namespace}/{key.name}.json", wire.to_bytes(wire.policy_to_wire(compiled)))
        self.commit()

    def commit(self) -> None:
        self.objects.commit()
        self.ir.commit()

    def agent(self, kind: BackendKind | None = None) -> Agent:
        source = FolderSource("n1", self.objects.root, self.ir.root)
        return Agent(AgentOptions("n1", kind), source, FolderReporter(self.root / "reports", "n1"), Processes())

    def process(self) -> subprocess.Popen[bytes]:
        folders = [x for f in ("objects", "ir", "reports") for x in (f"--{f}", str(self.root / f))]
        program = "import sys; from npctl.commands.agent import run; sys.exit(run(sys.argv[1:]))"
        return subprocess.Popen([sys.executable, "-c", program, "--node", "n1", *folders])

    def report(self) -> dict[str, Any]:
        try:
            return json.loads((self.root / "reports" / "n1.json").read_bytes())  # type: ignore[no-any-return]  # always an object
        except FileNotFoundError:
            return {}


def _json(value: Pod) -> bytes:
    status = {"phase": value.phase, "podIPs": [{"ip": a.text} for a in value.addresses], "podIP": value.addresses[0].text}
    metadata = {"name": value.key.name, "namespace": value.key.namespace, "uid": value.uid, "labels": dict(value.labels)}
    return json.dumps({"kind": "Pod", "metadata": metadata, "spec": {"nodeName": value.node}, "status": status}).encode()


pytestmark = pytest.mark.kernel


@isolated
def test_nothing_is_programmed_before_both_inputs_are_complete(tmp_path: Path) -> None:
    node = Node(tmp_path)
    agent = node.agent()
    agent.step()
    assert "npc-" not in shell("iptables-nft-save")
    assert node.report()["in_sync"] is False
    node.put(WEB, FRIEND, POLICY)
    agent.step()
    assert "-A FORWARD -j npc-forward" in shell("iptables-nft-save")


@isolated
def test_the_report_names_revisions_backend_and_sizes(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(WEB, FRIEND, POLICY)
    agent = node.agent(BackendKind.LEGACY)
    agent.step()
    report = node.report()
    expected = {"schema": 1, "node": "n1", "ir_revision": 1, "objects_revision": 1, "backend": "legacy", "families": [4, 6]}
    assert {k: report[k] for k in expected} == expected
    assert (report["in_sync"], report["failures"], report["problems"], report["repairs"]) == (True, [], [], 0)
    assert report["sizes"]["chains"]["4"] == len(agent.enforcement.compiler.ruleset.chains[Family.V4])


@isolated
def test_a_step_without_changes_writes_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(WEB, FRIEND, POLICY)
    agent = node.agent()
    agent.step()
    before = node.report()
    node.commit()
    agent.step()
    assert node.report() == {**before, "ir_revision": 2, "objects_revision": 2}


@isolated
def test_an_unreadable_policy_stays_in_force_and_is_reported(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(WEB, FRIEND, POLICY)
    agent = node.agent()
    agent.step()
    before = agent.enforcement.dataplane.tables[Family.V4].read()
    node.ir.write("compiledpolicies/shop/p.json", b'{"schema": 2}')
    node.commit()
    agent.step()
    assert agent.enforcement.dataplane.tables[Family.V4].read() == before
    assert "schema 2" in node.report()["problems"][0]
    assert Key("shop", "p") in agent.enforcement.compiler.policies


@isolated
def test_a_process_killed_hard_and_started_again_takes_over(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(WEB, FRIEND, POLICY)
    first = node.process()
    until(node.report, LIMIT_SECONDS, good=lambda report: report.get("in_sync") is True)
    before = shell("iptables-nft-save -t filter | grep -v '^[#:]'")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert shell("iptables-nft-save -t filter | grep -v '^[#:]'") == before, "enforcement stays"
    node.put(WEB, policy("shop", "p", {"app": "web"}))
    second = node.process()
    until(node.report, LIMIT_SECONDS, good=lambda report: report.get("ir_revision") == 2 and report.get("in_sync") is True)
    assert "npc4-n1-friend" not in shell("iptables-nft-save")
    second.terminate()
    assert second.wait(timeout=10) == 0
    assert "-A FORWARD -j npc-forward" in shell("iptables-nft-save"), "stopping leaves enforcement in place"


@isolated
def test_a_running_agent_repairs_a_flushed_table_and_counts_it(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(WEB, FRIEND, POLICY)
    process = node.process()
    until(node.report, LIMIT_SECONDS, good=lambda report: report.get("in_sync") is True)
    shell("iptables-nft -F; iptables-nft -X; ip6tables-nft -I FORWARD -j ACCEPT")
    hook = "-A FORWARD -j npc-forward"
    until(lambda: shell("iptables-nft-save"), LIMIT_SECONDS, good=lambda text: hook in text)
    until(lambda: shell("ip6tables-nft -S FORWARD").splitlines()[1], LIMIT_SECONDS, good=lambda rule: rule == hook)
    until(node.report, LIMIT_SECONDS, good=lambda report: report["repairs"] > 0 and report["in_sync"])
    process.terminate()
    process.wait(timeout=10)


def test_a_second_agent_for_the_same_node_does_not_run(tmp_path: Path) -> None:
    with (
        only_one(tmp_path, "n1.lock", "n1"),
        only_one(tmp_path, "n2.lock", "n2"),
        pytest.raises(AgentError, match="running already"),
        only_one(tmp_path, "n1.lock", "n1"),
    ):
        pass
    with only_one(tmp_path, "n1.lock", "n1"):
        pass


def test_a_lock_that_cannot_be_made_is_said_with_its_place_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AgentError, match="keeps a second agent off node n1") as caught, only_one(tmp_path / "file", "l", "n1"):
        pass
    assert "hostPath" in caught.value.remedy


@isolated
def test_what_an_earlier_run_left_in_the_other_backend_is_removed(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.put(WEB, FRIEND, POLICY)
    node.agent(BackendKind.LEGACY).step()
    node.agent(BackendKind.NFT).step()
    assert "npc-" not in shell("iptables-legacy-save -t filter")
    assert "npc-" in shell("iptables-nft-save")
    assert run_cleanup().failures == []
