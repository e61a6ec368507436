"""When a policy is in force, and who lags: one table of situations, asked of everybody who answers. No cluster.

the same objects --> npctl wait, status, explain; the lab; the operator's column NODES of `kubectl get compiledpolicies`
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from netpol_api import kinds
from netpol_api.api_objects import key_of
from netpol_api.compiled_policy import compiled_policy_object
from netpol_api.in_force import control_of, written_of
from netpol_api.node_report import SCHEMA, Failure, NodeReport, node_report_object
from netpol_compiler.model.objects import Cluster, Key
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.policy.span import Spans
from netpol_compiler.reading.objects import parse_namespace, parse_node, parse_pod, parse_policy
from netpol_lab.control.in_force import Reading, lagging
from netpol_manifests.world import World
from netpol_operator.publishing.status import ReportSink, numbers
from npctl.cluster.api import Api
from npctl.commands.wait import Picture, Wanted
from npctl.enforcement.enforcement import enforcements
from npctl.enforcement.status import Operator, Status, status_of
from npctl.inputs.files import Documents
from npctl.inputs.live import Live
from npctl.inputs.state import State

KEY = Key("web", "deny")
SERVER = Key("web", "server")
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
Object = dict[str, Any]


# -- what the API server holds: one policy, which selects a pod on n1 -----------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What the API server holds."""

    nodes: tuple[Object, ...]
    pods: tuple[Object, ...]
    policies: tuple[Object, ...]
    compiled: tuple[Object, ...]
    reports: tuple[Object, ...]

    @property
    def cluster(self) -> Cluster:
        namespace = parse_namespace(NAMESPACE)[0]
        pods = [p for p in (parse_pod(o)[0] for o in self.pods) if p]
        policies = [p for p in (parse_policy(o)[0] for o in self.policies) if p]
        nodes = [n for n in (parse_node(o)[0] for o in self.nodes) if n]
        assert namespace
        return Cluster({"web": namespace}, {p.key: p for p in pods}, {p.key: p for p in policies}, {n.name: n for n in nodes})


NAMESPACE: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web", "uid": "ns"}}


def node_object(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": f"uid-{name}"}, "spec": {}}


def pod_object(name: str, node: str, *addresses: str, app: str = "server") -> Object:
    metadata = {"namespace": "web", "name": name, "uid": f"uid-{name}", "labels": {"app": app}, "resourceVersion": "5"}
    status = {"phase": "Running" if addresses else "Pending", "podIPs": [{"ip": a} for a in addresses]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": node}, "status": status}


def policy_object(app: str = "server", uid: str = "uid-1", generation: int = 3) -> Object:
    metadata = {"namespace": KEY.namespace, "name": KEY.name, "uid": uid, "generation": generation}
    spec = {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def compiled_from(written: Object) -> Object:
    parsed, _ = parse_policy(written)
    assert parsed is not None
    ir = compile_cluster(Cluster({}, {}, {KEY: parsed}, {}))
    return compiled_policy_object(ir.policies[KEY], written["metadata"]["generation"], {})


def report_object(compiled: Object | None, *, node: str = "n1", node_uid: str = "", **more: Any) -> Object:
    policies = {str(KEY): compiled["spec"]["digest"]} if compiled else {}
    report = NodeReport(node, policies, in_sync=True, time="2026-01-01T11:59:55Z")
    return node_report_object(replace(report, **more), node_uid or f"uid-{node}")


WRITTEN = policy_object()
COMPILED = compiled_from(WRITTEN)
FORERUNNER = compiled_from(policy_object(uid="uid-0"))
CHANGED = policy_object(generation=4) | {"spec": {**WRITTEN["spec"], "policyTypes": ["Ingress", "Egress"]}}
IDLE = policy_object(app="nobody")
GOOD = report_object(COMPILED)
FINE = Held(
    (node_object("n1"), node_object("n2")),
    (pod_object("server", "n1", "10.0.0.2"), pod_object("other", "n2", "10.0.0.3", app="other")),
    (WRITTEN,),
    (COMPILED,),
    (GOOD, report_object(None, node="n2")),
)


def reported(report: Object | None) -> Held:
    """The world in which n1 reports this, or nothing."""
    return replace(FINE, reports=((report,) if report else ()) + FINE.reports[1:])


def with_status(report: Object, **fields: Any) -> Object:
    report = copy.deepcopy(report)
    report["status"] |= fields
    return report


# -- who answers ---------------------------------------------------------------------------------------


def live_of(world: Held) -> Live:
    found = world.cluster
    whole = World(found.nodes, found.namespaces, found.pods, {}, found.policies, {}, {})
    state = State(Documents({}, (), "test"), whole, found, {})
    # No function that is asked here makes a request.
    written = {key_of(p): written_of(p) for p in world.policies}
    return Live(cast(Api, None), state, written, control_of(world.compiled, world.reports), "", {})


def wait_says(world: Held, *, deletion: bool = False) -> list[str]:
    """Who lags, of the one policy that is waited for; none: `npctl wait` ends well."""
    picture = Picture(Wanted((KEY,), None), deletion)
    lists = {
        kinds.NETWORK_POLICY: world.policies,
        kinds.COMPILED_POLICY: world.compiled,
        kinds.NODE_REPORT: world.reports,
        kinds.POD: world.pods,
    }
    for kind, items in lists.items():
        for item in items:
            picture.put(kind.path(), item)
        picture.listed(kind.path())
    (state,) = picture.states()
    assert picture.complete and state.in_force == (not state.lags)
    return [lag.words for lag in state.lags]


def status_says(world: Held) -> Status:
    live = live_of(world)
    assert live.control is not None
    return status_of(live, live.control, Operator("npctl-system", "op-1", 1.0), NOW)


def explain_says(world: Held) -> list[str]:
    found = world.cluster.pods[SERVER]
    return enforcements(live_of(world), [found])[0].lags


def lab_says(world: Held) -> dict[str, str]:
    newest = {"pods": 5, "addressSets": 0}
    revisions = {n["metadata"]["name"]: newest for n in world.nodes}
    return lagging(Reading(world.nodes, (NAMESPACE,), world.pods, world.policies, world.compiled, (), world.reports, revisions))


def column_says(world: Held) -> str:
    """NODES in `kubectl get compiledpolicies`; empty where there is nothing to write it to."""
    ir, spans, sink = compile_cluster(world.cluster), Spans(), ReportSink(lambda _: None, lambda: None)
    for one in world.cluster.pods.values():
        spans.set_pod(one)
    for compiled in ir.policies.values():
        spans.set_policy(compiled)
    for report in world.reports:
        sink.put(report)
    if not world.compiled or KEY not in ir.policies:
        return ""
    return str(numbers(KEY, ir.policies[KEY].digest, spans.nodes(KEY), sink.reports)["inForce"])


# -- the table -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """`lag`: who lags with the policy and why, as everybody says it; empty: it is in force. `node`: what `status` says of n1
    beside that. `lab`: what the lab says where it is not the same: it answers for all of a node, and only for its own nodes."""

    world: Held
    lag: str
    column: str
    node: tuple[str, ...] = ()
    lab: Mapping[str, str] | None = None
    explain: str | None = None
    """What `explain` says of the pod on n1 where it is not the same, since another node is no matter of that pod."""


EARLIER = "it has an earlier version in force"
NOT_YET = "not in force there yet"
NOTHING: Mapping[str, str] = {}
BIG = (Failure("set npc4-x", "create npc4-x", "too big"),)
NO_POLICY = (report_object(None), FINE.reports[1])
REFUSED = "failure: set npc4-x: create npc4-x: too big"

SITUATIONS: dict[str, Situation] = {
    "in force": Situation(FINE, "", "1/1"),
    "no pod selected": Situation(
        replace(FINE, policies=(IDLE,), compiled=(compiled_from(IDLE),), reports=NO_POLICY), "", "0/0"
    ),
    "no pod selected, not compiled": Situation(
        replace(FINE, policies=(IDLE,), compiled=(), reports=NO_POLICY),
        "operator: not compiled yet", "", explain="",
    ),
    "not compiled": Situation(replace(FINE, compiled=()), "operator: not compiled yet", ""),
    "compiled at an older generation": Situation(
        replace(FINE, policies=(CHANGED,)), "operator: compiled at generation 3; the policy is at 4", "0/1"
    ),
    "compiled from a newer generation than was read": Situation(
        replace(FINE, policies=(policy_object(generation=2),)), "operator: compiled at generation 3; the policy is at 2", "1/1"
    ),
    "recreated under its name": Situation(
        replace(reported(report_object(FORERUNNER)), compiled=(FORERUNNER,)),
        "operator: compiled from an earlier policy of this name (uid uid-0; it is now uid-1)", "0/1",
    ),
    "recreated and compiled, not yet on the node": Situation(reported(report_object(FORERUNNER)), f"node n1: {EARLIER}", "0/1"),
    "node without an agent": Situation(reported(None), "node n1: no agent has reported", "0/1", ("no agent has reported",),
                                       {"agent-n1": "no agent has reported"}),
    "report without a status": Situation(
        reported({"metadata": GOOD["metadata"]}),
        f"node n1: {NOT_YET} (its report has schema 0, and this npctl reads schema {SCHEMA})", "0/1",
        ("its report says no time", f"its report has schema 0, and this npctl reads schema {SCHEMA}"),
        {"agent-n1": f"its report has schema 0, and this npctl reads schema {SCHEMA}"},
    ),
    "old digest": Situation(reported(with_status(GOOD, policies={str(KEY): "0123"})), f"node n1: {EARLIER}", "0/1"),
    "not in the report": Situation(reported(report_object(None)), f"node n1: {NOT_YET}", "0/1"),
    # The old Node's report, until the garbage collector removes it (seconds). Nobody compares it with the uid of the Node.
    "report of an earlier node of this name": Situation(reported(report_object(COMPILED, node_uid="uid-of-the-past")), "", "1/1"),
    # Rules stay in the kernel when their agent stops: the policy is in force, and `status` says what is wrong with the node.
    "report too old": Situation(
        reported(with_status(GOOD, time="2026-01-01T11:50:00Z")), "", "1/1",
        ("its last report is 10m old: the agent or the node may be gone",),
    ),
    "node gone, its pod and report not yet": Situation(
        replace(FINE, nodes=FINE.nodes[1:]), "", "1/1", ("there is a report of this node, and no such node",)
    ),
    "node and report gone, its pod not yet": Situation(
        replace(reported(None), nodes=FINE.nodes[1:]), "node n1: no agent has reported", "0/1", lab=NOTHING
    ),
    "refused by the kernel": Situation(
        reported(report_object(None, failures=BIG, failure_count=1)),
        f"node n1: {NOT_YET} (set npc4-x: too big)", "0/1", (REFUSED,),
    ),
    "refused, an earlier version stays": Situation(
        reported(with_status(report_object(None, failures=BIG, failure_count=1), policies={str(KEY): "0123"})),
        f"node n1: {EARLIER} (set npc4-x: too big)", "0/1", (REFUSED,),
    ),
    "another policy's rules refused": Situation(
        reported(report_object(COMPILED, failures=BIG, failure_count=1)), "", "1/1", (REFUSED,),
        {"agent-n1": "could not program set npc4-x: too big (create npc4-x)"},
    ),
    "an agent that has just started": Situation(
        reported(report_object(None, complete=False, in_sync=False)),
        f"node n1: {NOT_YET} (its agent has not read everything yet)", "0/1", ("its agent has not read everything yet",),
    ),
    "in force, something else not yet": Situation(
        reported(report_object(COMPILED, in_sync=False)), "", "1/1", ("not in sync",), {"agent-n1": "is not in sync yet"}
    ),
    "report of a schema that nobody reads": Situation(
        reported(report_object(COMPILED, schema=SCHEMA + 1)),
        f"node n1: {EARLIER} (its report has schema {SCHEMA + 1}, and this npctl reads schema {SCHEMA})", "0/1",
        (f"its report has schema {SCHEMA + 1}, and this npctl reads schema {SCHEMA}",),
        {"agent-n1": f"its report has schema {SCHEMA + 1}, and this npctl reads schema {SCHEMA}"},
    ),
    "report whose policies are no object": Situation(
        reported(with_status(GOOD, policies=[1])),
        f"node n1: {NOT_YET} (its report is not understood: status.policies: list in place of an object)", "0/1",
        ("its report is not understood: status.policies: list in place of an object",),
        {"agent-n1": "its report is not understood: status.policies: list in place of an object"},
    ),
    # It must have the policy before the pod has its address, else the pod would be open at first.
    "a pod without an address on another node": Situation(
        replace(FINE, pods=(*FINE.pods, pod_object("young", "n2"))), f"node n2: {NOT_YET}", "1/2", explain=""
    ),
}  # fmt: skip


@pytest.fixture(params=SITUATIONS)
def situation(request: pytest.FixtureRequest) -> Situation:
    return SITUATIONS[request.param]


def test_wait_says_who_lags(situation: Situation) -> None:
    assert wait_says(situation.world) == [situation.lag] * bool(situation.lag)


def test_status_says_the_same_and_what_else_is_wrong_with_the_node(situation: Situation) -> None:
    status = status_says(situation.world)
    assert [lag.words for state in status.policies for lag in state.lags] == [situation.lag] * bool(situation.lag)
    found = {node.name: node for node in status.nodes}
    assert (found["n1"].troubles if "n1" in found else ()) == situation.node
    assert status.in_force == (not situation.lag and not situation.node)


def test_explain_says_the_same_of_the_pods_own_node(situation: Situation) -> None:
    lag = situation.lag if situation.explain is None else situation.explain
    assert explain_says(situation.world) == [f"{KEY}: {lag}"] * bool(lag)


def test_the_lab_says_the_same_of_its_own_nodes(situation: Situation) -> None:
    who, _, why = situation.lag.partition(": ")
    same = {who.replace("node ", "agent-"): f"NetworkPolicy {KEY}: {why}"} if situation.lag else {}
    assert lab_says(situation.world) == (same if situation.lab is None else situation.lab)


def test_the_column_counts_the_nodes_that_do_not_lag(situation: Situation) -> None:
    assert column_says(situation.world) == situation.column


# -- policies that are to go ---------------------------------------------------------------------------

STILL_COMPILED, STILL_THERE = "operator: its CompiledPolicy is still there", "node n1: still in force there"
GOING: dict[str, tuple[Held, list[str], tuple[str, ...], dict[str, str]]] = {
    "not deleted": (FINE, ["operator: the NetworkPolicy is still there", STILL_THERE], (), {}),
    "deleted": (
        replace(FINE, policies=()),
        [STILL_COMPILED, STILL_THERE],
        (f"{KEY} is deleted, and still in force there",),
        {"operator": f"NetworkPolicy {KEY}: its CompiledPolicy is still there"},
    ),
    "deleted and no longer published": (
        replace(FINE, policies=(), compiled=()),
        [STILL_THERE],
        (f"{KEY} is deleted, and still in force there",),
        {"agent-n1": f"NetworkPolicy {KEY}: still in force there"},
    ),
    # What cannot be read may stand for a policy that is there: it is not gone until a report that can be read says so.
    "reported in a schema that nobody reads": (
        replace(reported(report_object(COMPILED, schema=SCHEMA + 1)), policies=(), compiled=()),
        [STILL_THERE],
        (
            f"its report has schema {SCHEMA + 1}, and this npctl reads schema {SCHEMA}",
            f"{KEY} is deleted, and still in force there",
        ),
        {"agent-n1": f"its report has schema {SCHEMA + 1}, and this npctl reads schema {SCHEMA}"},
    ),
    "gone": (replace(FINE, policies=(), compiled=(), reports=NO_POLICY), [], (), {}),
}


@pytest.mark.parametrize("case", GOING)
def test_a_policy_is_gone_when_nothing_is_left_of_it(case: str) -> None:
    world, lags, troubles, lab = GOING[case]
    assert wait_says(world, deletion=True) == lags
    assert status_says(world).nodes[0].troubles == troubles
    assert [line for line in explain_says(world) if "is deleted" in line] == [
        f"{KEY} is deleted, and still in force on the node" for trouble in troubles if "is deleted" in trouble
    ]
    assert lab_says(world) == lab
    assert column_says(world) == ("1/1" if world is FINE else "")
