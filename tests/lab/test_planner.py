"""What the lab makes of an API server's objects: pods of workloads, nodes and addresses, and what is told of whom."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from netpol_compiler.model.addresses import parse_address
from netpol_compiler.model.objects import Key
from netpol_lab.kubelet.desired_state import DesiredState, ObservedObjects, PlanContext
from netpol_lab.kubelet.planner import desired_state
from netpol_lab.offline.objects import ApiServer
from netpol_lab.topology.model import Families, Topology
from netpol_manifests.world import ObjectId
from search import searched

EXAMPLES = Path(__file__).parents[2] / "examples"
Json = dict[str, Any]
API = parse_address("172.31.7.100"), 6443


def node(number: int, **metadata: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"n{number}", **metadata},
        "spec": {"podCIDRs": [f"10.200.{number}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"172.31.7.{number}"}]},
    }


def pod(name: str, *, asks: str = "", on: str = "", **rest: Any) -> Json:
    annotations = {"annotations": {"lab.npctl.dev/ip": asks}} if asks else {}
    spec = {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}], **({"nodeName": on} if on else {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **annotations}, "spec": spec, **rest}


def workload(name: str, kind: str = "Deployment", **spec: Any) -> Json:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod("")["spec"]}
    full = {"selector": {"matchLabels": {"app": name}}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": full}


class Api:
    """An API server in memory: gives uids, takes what the plan says, and remembers the last plan."""

    def __init__(self, families: Families = Families.IPV4) -> None:
        self._numbers: Iterator[int] = iter(range(1, 10**6))
        self.objects = ObservedObjects()
        self.plan = DesiredState()
        self.context = PlanContext(families, api=API)
        self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})

    def put(self, *objects: Mapping[str, Any]) -> None:
        for data in objects:
            held, key = self._place(data)
            metadata = {"uid": f"u{next(self._numbers)}", **({"namespace": "default"} if isinstance(key, Key | ObjectId) else {})}
            held[key] = {**data, "metadata": {**metadata, **data["metadata"]}}

    def take(self, kind: str, name: str, namespace: str = "default") -> None:
        held, key = self._place({"kind": kind, "metadata": {"name": name, "namespace": namespace}})
        del held[key]

    def change(self, name: str, **changes: Any) -> None:
        """Change a pod: `metadata` and `status` are merged."""
        key = Key("default", name)
        data = self.pods[key]
        for field, value in changes.items():
            data = {**data, field: {**data.get(field, {}), **value}}
        self.pods[key] = data

    def update(self, data: Json) -> None:
        """The same object with another spec."""
        held, key = self._place(data)
        held[key] = {**data, "metadata": held[key]["metadata"]}

    @property
    def pods(self) -> dict[Key, Json]:
        return self.objects.pods  # type: ignore[return-value]  # a dictionary here

    def _place(self, data: Mapping[str, Any]) -> tuple[dict[Any, Any], Any]:
        kind, name = data["kind"], data["metadata"]["name"]
        namespace = data["metadata"].get("namespace", "default")
        named: dict[str, tuple[Any, Any]] = {
            "Node": (self.objects.nodes, name),
            "Namespace": (self.objects.namespaces, name),
            "Pod": (self.objects.pods, Key(namespace, name)),
            "Service": (self.objects.services, Key(namespace, name)),
        }
        return named.get(kind) or (self.objects.workloads, ObjectId(kind, namespace, name))

    def step(self) -> DesiredState:
        """One plan, and what the API server makes of it."""
        plan = self.plan = desired_state(self.objects, self.plan, self.context)
        self.put(*plan.create.values())
        for key, (_, chosen) in plan.bind.items():
            self.pods[key] = {**self.pods[key], "spec": {**self.pods[key]["spec"], "nodeName": chosen}}
        for key in plan.delete:
            self.pods[key] = {**self.pods[key], "metadata": {**self.pods[key]["metadata"], "deletionTimestamp": "now"}}
        for key in plan.remove:
            del self.pods[key]
        return plan

    def settle(self) -> DesiredState:
        """Steps until nothing is left to do."""
        for _ in range(10):
            plan = self.step()
            if not (plan.create or plan.bind or plan.delete or plan.remove):
                return plan
        raise AssertionError("the plan never rests")

    def told(self) -> dict[str, str]:
        return {p.key.name: p.message for p in self.plan.problems}


def address(plan: DesiredState, name: str) -> str:
    return plan.running[Key("default", name)].addresses[0].text


def names(plan: DesiredState) -> set[str]:
    return {k.name for k in plan.running}


@pytest.fixture
def api() -> Api:
    made = Api()
    made.put(node(1), node(2))
    return made


def _examples() -> list[Json]:
    texts = [(EXAMPLES / name).read_text() for name in ("nodes.yaml", "environment.yaml")]
    used = ("Node", "Namespace", "Pod", "Service", "Deployment")
    return [d for text in texts for d in yaml.safe_load_all(text) if d and d["kind"] in used]


@pytest.mark.parametrize("families", list(Families))
def test_the_same_objects_give_the_same_network_as_without_an_api_server(families: Families, tmp_path: Path) -> None:
    folder, _ = ApiServer(tmp_path, families).with_applied(_examples())
    api = Api(families)
    # Nodes and Services as the API server has them: in the lab's families.
    completed = {o: d for o, d in folder.objects.items() if o.kind in ("Node", "Service")}
    api.put(*(completed.get(ObjectId(d["kind"], _namespace(d), d["metadata"]["name"]), d) for d in _examples()))
    assert _addresses(api.settle().topology) == _addresses(folder.topology)
    if families is Families.IPV4:  # in the others, a template that asks for an address is another one with its twin
        assert api.plan.topology.pods == folder.topology.pods
    assert api.plan.topology.nodes == folder.topology.nodes and api.plan.topology.services == folder.topology.services


def _namespace(data: Json) -> str:
    return "" if data["kind"] == "Node" else str(data["metadata"].get("namespace", "default"))


def _addresses(topology: Topology) -> dict[str, list[str]]:
    """Every pod's, without the hashes in its name."""
    return {str(k).partition("-deployment-")[0]: [a.text for a in p.addresses] for k, p in sorted(topology.pods.items())}


def test_a_pod_of_a_workload_says_so(api: Api) -> None:
    api.put(workload("web", replicas=2))
    owner = api.objects.workloads[ObjectId("Deployment", "default", "web")]
    bodies = api.step().create.values()
    assert len(bodies) == 2 and all("status" not in b and b["spec"]["nodeName"] for b in bodies)
    for body in bodies:
        (reference,) = body["metadata"]["ownerReferences"]
        assert reference["uid"] == owner["metadata"]["uid"] and reference["kind"] == "Deployment" and reference["controller"]


def test_what_was_promised_before_a_pod_was_there_is_kept(api: Api) -> None:
    api.put(workload("web"))
    (promised,) = api.step().given.values()
    assert [p.addresses for p in api.settle().running.values()] == [promised]


def test_a_pod_runs_when_the_api_server_says_that_it_is_bound(api: Api) -> None:
    api.put(pod("free"))
    first = api.step()
    assert not first.running and first.bind[Key("default", "free")][1] in ("n1", "n2")
    assert names(api.settle()) == {"free"}


def test_a_pod_that_fits_nowhere_is_told(api: Api) -> None:
    api.put(pod("picky"))
    api.pods[Key("default", "picky")]["spec"]["nodeSelector"] = {"disk": "fast"}
    assert not api.settle().running
    assert api.told() == {"picky": "spec.nodeSelector: no node fits its nodeSelector: it stays Pending"}


@pytest.mark.parametrize("spec", [{"schedulerName": "mine"}, {"schedulingGates": [{"name": "wait"}]}])
def test_pods_that_others_schedule_are_left(api: Api, spec: Json) -> None:
    api.put(pod("theirs"))
    api.pods[Key("default", "theirs")]["spec"] |= spec
    assert not api.settle().bind


def test_surplus_and_orphaned_pods_are_deleted(api: Api) -> None:
    api.put(workload("web", replicas=3), workload("other"))
    assert len(names(api.settle())) == 4
    api.update(workload("web", replicas=1))
    assert len(names(api.settle())) == 2
    api.take("Deployment", "web")
    assert {n.split("-")[0] for n in names(api.settle())} == {"other"}


def test_a_workload_made_anew_has_new_pods(api: Api) -> None:
    api.put(workload("db", "StatefulSet"))
    before = api.settle().running[Key("default", "db-0")].uid
    api.put(workload("db", "StatefulSet"))
    assert api.settle().running[Key("default", "db-0")].uid != before


def test_a_new_template_means_new_pods_under_the_same_names(api: Api) -> None:
    api.put(workload("agent", "DaemonSet"))
    before = {k: p.uid for k, p in api.settle().running.items()}
    changed = workload("agent", "DaemonSet")
    changed["spec"]["template"]["metadata"]["annotations"] = {"restarted": "now"}
    api.update(changed)
    after = {k: p.uid for k, p in api.settle().running.items()}
    assert set(after) == set(before) and not set(after.values()) & set(before.values())


def test_labels_and_address_of_a_pod_stay_while_others_come_and_go(api: Api) -> None:
    api.put(pod("a", on="n1"), pod("b", on="n1"))
    before = address(api.settle(), "b")
    api.take("Pod", "a")
    api.put(pod("c", on="n1"))
    assert address(api.settle(), "b") == before
    assert address(api.plan, "c") == "10.200.1.2"


def test_an_address_that_is_asked_for(api: Api) -> None:
    api.put(pod("one", asks="10.200.1.9"), pod("two", asks="10.200.1.9"), pod("three"))
    assert names(api.settle()) == {"one", "three"} and address(api.plan, "one") == "10.200.1.9"
    assert api.told() == {"two": "10.200.1.9 is the address of pod default/one"}
    api.change("one", metadata={"deletionTimestamp": "now"})
    assert names(api.settle()) == {"two", "three"} and address(api.plan, "two") == "10.200.1.9"


def test_nobody_is_given_an_address_that_another_asks_for_at_the_same_time(api: Api) -> None:
    api.put(pod("dynamic", on="n1"), pod("fixed", on="n1", asks="10.200.1.2"))
    assert address(api.settle(), "fixed") == "10.200.1.2" and address(api.plan, "dynamic") == "10.200.1.3"


def test_a_status_written_by_hand_is_a_wish_too(api: Api) -> None:
    api.put(pod("old", on="n2", status={"phase": "Running", "podIPs": [{"ip": "10.200.2.50"}]}))
    assert address(api.settle(), "old") == "10.200.2.50"


def test_an_address_of_another_nodes_block(api: Api) -> None:
    api.put(pod("bound", on="n1", asks="10.200.2.9"), pod("free", asks="10.200.2.9"))
    assert api.settle().running[Key("default", "free")].node.name == "n2"
    assert api.told() == {"bound": "10.200.2.9 is of the block of node n2, and the pod is bound to n1"}


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        ("10.200.1.1", "10.200.1.1 cannot be a pod's address"),
        ("10.200.1.0", "10.200.1.0 cannot be a pod's address"),
        ("10.200.1.255", "10.200.1.255 cannot be a pod's address"),
        ("127.0.0.1", "127.0.0.1 cannot be a pod's address"),
        ("172.31.7.2", "172.31.7.2 is the address of node n2"),
        ("fd00::7", "fd00::7 is of no family of this lab (ipv4)"),
        ("seven", "lab.npctl.dev/ip: "),
    ],
)
def test_addresses_that_no_pod_can_have(api: Api, asks: str, words: str) -> None:
    api.put(pod("odd", asks=asks), pod("plain"))
    assert names(api.settle()) == {"plain"}
    assert api.told()["odd"].startswith(words)


def test_a_completed_pod_gives_its_address_back(api: Api) -> None:
    api.put(pod("job", on="n1"))
    before = address(api.settle(), "job")
    api.change("job", status={"phase": "Succeeded", "podIP": before, "podIPs": [{"ip": before}]})
    api.put(pod("next", on="n1"))
    assert names(api.settle()) == {"next"} and address(api.plan, "next") == before


def test_a_deleted_pod_stays_until_its_program_has_ended(api: Api) -> None:
    api.put(pod("web", on="n1"))
    uid = api.settle().running[Key("default", "web")].uid
    api.change("web", metadata={"deletionTimestamp": "now"})
    api.context = replace(api.context, ending=frozenset({uid}))
    assert names(api.step()) == {"web"} and not api.plan.remove
    api.context = replace(api.context, ending=frozenset())
    assert api.step().remove == {Key("default", "web"): uid} and not api.plan.running


def test_pods_go_with_their_node_but_those_of_unknown_nodes_are_left(api: Api) -> None:
    api.put(pod("here", on="n1"), pod("there", on="n2"), pod("nowhere", on="n9"))
    assert names(api.settle()) == {"here", "there"}
    api.take("Node", "n2")
    assert names(api.settle()) == {"here"}
    assert set(api.pods) == {Key("default", "here"), Key("default", "nowhere")}


def test_a_node_that_a_test_plays(api: Api) -> None:
    api.put(node(3, annotations={"lab.npctl.dev/elsewhere": "yes"}), workload("agent", "DaemonSet"))
    assert {p.node.name for p in api.settle().running.values()} == {"n1", "n2"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": {}}, "status.addresses has no InternalIP for V4"),
        ({"spec": {}}, "spec.podCIDR is missing, so its pods get no V4 addresses"),
        ({"spec": {"podCIDRs": ["10.200.1.128/25"]}}, "its pods' block 10.200.1.128/25 overlaps 10.200.1.0/24 of node n1"),
        ({"status": {"addresses": [{"type": "InternalIP", "address": "172.31.7.1"}]}}, "172.31.7.1 is the address of node n1"),
        (
            {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}},
            "192.0.2.9 is not in the network of node n1",
        ),
    ],
)
def test_a_node_that_cannot_be_built_is_told_and_stops_nobody(api: Api, change: Json, words: str) -> None:
    api.put({**node(3), **change}, workload("agent", "DaemonSet"))
    assert {p.node.name for p in api.settle().running.values()} == {"n1", "n2"}
    assert api.told()["n3"].startswith(words)


def test_a_cordoned_node_gets_no_new_pods_and_keeps_those_of_daemonsets(api: Api) -> None:
    api.put(workload("agent", "DaemonSet"))
    assert len(names(api.settle())) == 2
    cordoned = node(2)
    cordoned["spec"]["unschedulable"] = True
    api.put(cordoned, workload("web", replicas=4))
    api.settle()
    assert {p.node.name for k, p in api.plan.running.items() if k.name.startswith("web")} == {"n1"}
    assert len(names(api.plan)) == 6


def test_a_namespace_that_ends_gets_no_new_pods(api: Api) -> None:
    api.put(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "deletionTimestamp": "now"}}, workload("web")
    )
    assert not api.step().create


def test_a_faulty_template_is_told_of_its_workload(api: Api) -> None:
    bad = workload("bad")
    bad["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = 99999
    api.put(bad, pod("plain"))
    api.step()
    assert "containerPort" in api.told()["bad"]
    assert names(api.settle()) >= {"plain"}


def test_nothing_runs_without_nodes() -> None:
    api = Api()
    api.put(workload("web"), pod("free"), pod("bound", on="n1"))
    assert not api.settle().running and api.plan.topology == Topology()


def test_the_service_of_the_api_server_leads_to_it(api: Api) -> None:
    spec = {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "https", "port": 443, "targetPort": 6443}]}
    api.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes"}, "spec": spec})
    (port,) = api.settle().topology.services[Key("default", "kubernetes")].ports
    assert [(e.address.text, e.port) for e in port.endpoints] == [("172.31.7.100", 6443)]


_NAMES = st.sampled_from(["a", "b", "c", "d"])
_ASKS = st.sampled_from(["", "", "10.200.1.2", "10.200.1.3", "10.200.2.2"])
_STEPS = st.one_of(
    st.tuples(st.just("put"), _NAMES, _ASKS, st.sampled_from(["", "n1", "n2"])),
    st.tuples(st.sampled_from(["delete", "force", "finish"]), _NAMES),
    st.tuples(st.just("scale"), st.integers(0, 3)),
    st.tuples(st.just("step")),
)


@searched(150)
@given(st.lists(_STEPS, max_size=14))
def test_addresses_are_never_shared_and_never_change(steps: Iterable[tuple[Any, ...]]) -> None:
    api = Api()
    api.put(node(1), node(2), workload("web", replicas=1))
    seen: dict[str, tuple[Any, ...]] = {}
    for step in steps:
        _act(api, step)
        plan = api.step()
        taken = [a for p in plan.running.values() for a in p.addresses]
        assert len(taken) == len(set(taken))
        for placed in plan.running.values():
            assert seen.setdefault(placed.uid, placed.addresses) == placed.addresses
    plan = api.settle()
    live = {k for k, d in api.pods.items() if (d.get("status") or {}).get("phase") != "Succeeded"}
    assert live - set(plan.running) == {p.key for p in plan.problems}


def _act(api: Api, step: tuple[Any, ...]) -> None:
    verb, *rest = step
    key = Key("default", rest[0]) if rest and isinstance(rest[0], str) else None
    if verb == "put" and key not in api.pods:
        api.put(pod(rest[0], asks=rest[1], on=rest[2]))
    elif verb == "scale":
        api.update(workload("web", replicas=rest[0]))
    elif key in api.pods:
        if verb == "delete":
            api.change(rest[0], metadata={"deletionTimestamp": "now"})
        elif verb == "force":
            api.take("Pod", rest[0])
        elif verb == "finish":
            api.change(rest[0], status={"phase": "Succeeded"})
