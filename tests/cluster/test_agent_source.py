"""An agent's inputs against a real API server: what it is told, what it never receives, and what it keeps while it cannot ask."""

from __future__ import annotations

import asyncio
import json
import select
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from builders import address, allow, pods, policy
from cluster_api import Cluster
from netpol_agent.inputs.api_source import ApiSource
from netpol_agent.threads.background import Background
from netpol_api.resources import (
    COMPILED_POLICIES,
    address_set_object,
    bucket,
    compiled_policies_path,
    compiled_policy_object,
    span_labels,
)
from netpol_compiler.model.objects import Cluster as Objects
from netpol_compiler.model.objects import Key, Labels, Namespace, Pod
from netpol_compiler.model.selectors import label_selector
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_kube.client import ApiClient, Page
from netpol_kube.credentials import from_kubeconfig
from until import until
from wire_tap import Tap

NODE, OTHER = "no-machine-1", "no-machine-2"
"""Names of nodes that the lab does not have, so that no kubelet of its own has a say in these pods."""
Json = dict[str, Any]


@dataclass
class Agent:
    """A source in operation and what it has told so far, as an agent's compiler would hold it."""

    source: ApiSource
    tap: Tap
    pods: dict[Key, Pod] = field(default_factory=dict)
    sets: dict[str, AddressSet] = field(default_factory=dict)
    policies: dict[Key, CompiledPolicy] = field(default_factory=dict)

    def take(self) -> None:
        delta = self.source.changes()
        self.pods.update((p.key, p) for p in delta.pods_up)
        self.sets.update((s.name, s) for s in delta.sets_up)
        self.policies.update((p.key, p) for p in delta.policies_up)
        for held, gone in ((self.pods, delta.pods_down), (self.sets, delta.sets_down), (self.policies, delta.policies_down)):
            for name in gone:
                held.pop(name, None)  # type: ignore[attr-defined]  # three dictionaries, each with its own keys

    def until(self, condition: Callable[[], object], what: str, limit: float = 20) -> None:
        """Wait, on the source's own file descriptor, until `condition` holds."""

        def seen() -> tuple[object, object]:
            self.take()
            return condition(), self.source.problems

        def wait() -> None:
            select.select([self.source.fileno()], [], [], 0.05)
            self.source.drain()

        until(seen, limit, what, good=lambda found: found[0], wait=wait)

    def members(self, name: str) -> set[str]:
        return {m.text for m in self.sets[name].members} if name in self.sets else set()  # type: ignore[union-attr]  # addresses


@pytest.fixture
def start(bare: Cluster) -> Iterator[Callable[..., Agent]]:
    """Starts agents' inputs; all end with the test."""
    running: list[tuple[Background, Tap]] = []

    def begin(client_class: type[ApiClient] = ApiClient) -> Agent:
        tap = Tap(from_kubeconfig(bare.kubeconfig)).__enter__()
        background = Background()
        running.append((background, tap))
        client = client_class(tap.credentials, "test")
        background.start()
        background.at_end(client.close)
        source = ApiSource(NODE, client, background)
        source.start()
        return Agent(source, tap)

    yield begin
    for background, tap in running:
        background.stop()
        tap.__exit__(None, None, None)


def put(cluster: Cluster, data: Json) -> None:
    """Create or replace an object whole; `kubectl apply` would drop what is null."""
    text = json.dumps(data)
    if cluster.run("replace", "-f", "-", stdin=text).returncode != 0:
        cluster.kubectl("create", "-f", "-", stdin=text)


class Place:
    """A namespace of the test's own, with what operator and kubelets would write."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        selector = label_selector(app=uuid.uuid4().hex[:8])  # so that its set has a name of its own
        self.policy = policy(name, "web", {"app": "web"}, ingress=[allow(pods(*selector.requirements))])
        ir = compile_cluster(Objects(policies={self.policy.key: self.policy}, namespaces={name: Namespace(name, Labels())}))
        self.compiled = ir.policies[self.policy.key]
        (self.set,) = ir.sets.values()

    def pod(self, name: str, node: str = NODE, host: str = "", **labels: str) -> None:
        metadata = {"namespace": self.name, "name": name, "labels": labels}
        spec = {"nodeName": node, "containers": [{"name": "c", "image": "none"}], "automountServiceAccountToken": False}
        self.cluster.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}])
        if host:
            status = {"phase": "Running", "podIP": host, "podIPs": [{"ip": host}]}
            patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
            self.cluster.kubectl("-n", self.name, "patch", "pod", name, *patch)

    def put_set(self, *hosts: str, buckets: tuple[int, ...] = (bucket(NODE),)) -> None:
        value = AddressSet(self.set.name, self.set.spec, frozenset(map(address, hosts)))
        document = wire.slice_to_wire(value, 0, 1, value.members)
        put(self.cluster, address_set_object(document, buckets))

    def put_policy(self, **changes: Any) -> None:
        data = compiled_policy_object(self.compiled, 1, {self.set.name: "1"})
        data["metadata"]["labels"] = span_labels([bucket(NODE)])
        data["spec"].update(changes)
        put(self.cluster, data)

    def delete(self, *what: str) -> None:
        self.cluster.kubectl("-n", self.name, "delete", *what, "--wait=false", "--grace-period=0", "--force")

    @property
    def set_object(self) -> tuple[str, str]:
        return "addresssets.npctl.dev", f"{self.set.name}.0"


@pytest.fixture
def place(bare: Cluster) -> Iterator[Place]:
    found = Place(bare, f"t-{uuid.uuid4().hex[:8]}")
    bare.kubectl("create", "namespace", found.name)
    yield found
    bare.run("delete", *found.set_object, "--ignore-not-found")
    found.delete("pods,compiledpolicies", "--all")
    bare.run("delete", "namespace", found.name, "--wait=false")


def test_a_policy_its_set_and_the_pod_of_this_node_that_it_selects_arrive(start: Callable[[], Agent], place: Place) -> None:
    place.put_set("10.0.0.2")
    place.put_policy()
    place.pod("web", host="10.200.99.5", app="web")
    place.pod("elsewhere", OTHER, app="web")
    agent = start()
    agent.until(lambda: agent.source.complete, "complete")
    assert [k.name for k in agent.pods if k.namespace == place.name] == ["web"]
    assert agent.policies[place.policy.key] == place.compiled
    assert agent.members(place.set.name) == {"10.0.0.2"}
    place.put_set("10.0.0.3")
    agent.until(lambda: agent.members(place.set.name) == {"10.0.0.3"}, "the set's new member")
    place.delete("pod", "web")
    agent.until(lambda: place.policy.key not in agent.policies, "nobody here needs the policy any more")
    assert place.set.name not in agent.sets


def test_a_set_whose_span_does_not_name_this_node_is_fetched_for_a_policy_that_needs_it(
    start: Callable[[], Agent], place: Place
) -> None:
    strange = (bucket(NODE) + 1) % 256
    agent = start()
    agent.until(lambda: agent.source.complete, "complete")
    place.pod("web", host="10.200.99.5", app="web")
    agent.until(lambda: Key(place.name, "web") in agent.pods, "the pod")
    place.put_set("10.0.0.2", buckets=(strange,))
    place.put_policy()
    agent.until(lambda: agent.members(place.set.name) == {"10.0.0.2"}, "the set, fetched")
    assert place.policy.key in agent.policies
    place.put_set("10.0.0.2", "10.0.0.3")
    agent.until(lambda: len(agent.members(place.set.name)) == 2, "the set, watched now")


def test_a_set_that_leaves_the_span_stays_and_one_that_is_deleted_goes(start: Callable[[], Agent], place: Place) -> None:
    place.put_set("10.0.0.2")
    place.put_policy()
    place.pod("web", host="10.200.99.5", app="web")
    agent = start()
    agent.until(lambda: agent.source.complete, "complete")
    place.cluster.kubectl("label", *place.set_object, f"span.npctl.dev/b{bucket(NODE)}-")
    place.pod("fence", app="fence")
    agent.until(lambda: Key(place.name, "fence") in agent.pods, "what was written after it")
    assert agent.members(place.set.name) == {"10.0.0.2"}
    place.cluster.kubectl("delete", *place.set_object)
    agent.until(lambda: place.set.name not in agent.sets, "its deletion, confirmed by a fetch")


def test_what_grows_elsewhere_is_not_received_here(start: Callable[[], Agent], place: Place) -> None:
    place.put_set("10.0.0.2")
    place.put_policy()
    place.pod("web", host="10.200.99.5", app="web")
    agent = start()
    agent.until(lambda: agent.source.complete, "complete")
    before = agent.tap.received
    value = AddressSet("elsewhere", place.set.spec, frozenset(address(f"10.{i // 250}.{i % 250}.1") for i in range(1000)))
    elsewhere = address_set_object(wire.slice_to_wire(value, 0, 1, value.members), [(bucket(NODE) + 1) % 256])
    put(place.cluster, elsewhere)
    for number in range(20):
        place.pod(f"other-{number}", OTHER, app="web")
    place.pod("fence", app="fence")
    agent.until(lambda: Key(place.name, "fence") in agent.pods, "what was written after it")
    place.cluster.kubectl("delete", "addresssets.npctl.dev", "elsewhere.0")
    size = len(json.dumps(place.cluster.get("-n", place.name, "pod", "fence")))
    assert agent.tap.received - before < 4 * size, (
        "about one pod of this node, with bookmarks, and nothing of the other node's 20"
    )


def test_a_policy_that_goes_between_the_list_of_its_namespace_and_the_first_watch_is_gone(
    start: Callable[..., Agent], place: Place
) -> None:
    """Found on a busy machine, with an API server that had just come back: it stayed in force until the agent's end."""
    namespace_listed, may_list = threading.Event(), threading.Event()

    class Slow(ApiClient):
        async def pages(self, path: str, **params: Any) -> AsyncIterator[Page]:
            while path == COMPILED_POLICIES and not may_list.is_set():
                await asyncio.sleep(0.01)
            async for page in super().pages(path, **params):
                yield page
            if path == compiled_policies_path(place.name):
                namespace_listed.set()

    place.put_set("10.0.0.2")
    place.put_policy()
    place.pod("web", host="10.200.99.5", app="web")
    agent = start(Slow)
    agent.until(namespace_listed.is_set, "the list of the namespace")
    place.delete("compiledpolicy", "web")
    may_list.set()
    agent.until(lambda: agent.source.complete, "complete")
    assert Key(place.name, "web") in agent.pods
    agent.until(lambda: place.policy.key not in agent.policies, "the policy's deletion", limit=5)


def test_a_policy_of_a_newer_schema_keeps_the_last_good_state(start: Callable[[], Agent], place: Place) -> None:
    place.put_set("10.0.0.2")
    place.put_policy()
    place.pod("web", host="10.200.99.5", app="web")
    agent = start()
    agent.until(lambda: agent.source.complete, "complete")
    place.put_policy(schema=99)
    agent.until(lambda: any("schema 99" in p for p in agent.source.problems), "a problem")
    assert agent.policies[place.policy.key] == place.compiled
    second = start()
    second.until(lambda: any("schema 99" in p for p in second.source.problems), "a problem")
    assert not second.source.complete, "an agent that starts now leaves the kernel as the one before it left it"
    place.put_policy()
    agent.until(lambda: not agent.source.problems, "no problem any more")
    second.until(lambda: second.source.complete, "complete")


def test_while_the_wire_is_cut_all_stays_and_what_changed_meanwhile_comes_after(start: Callable[[], Agent], place: Place) -> None:
    place.put_set("10.0.0.2")
    place.put_policy()
    place.pod("web", host="10.200.99.5", app="web")
    agent = start()
    agent.until(lambda: agent.source.complete, "complete")
    agent.tap.cut()
    agent.until(lambda: agent.source.failures >= 3, "it notices")
    place.put_set("10.0.0.4")
    place.pod("second", host="10.200.99.6", app="web")
    assert agent.members(place.set.name) == {"10.0.0.2"}
    assert agent.source.complete
    agent.tap.mend()
    agent.until(lambda: agent.members(place.set.name) == {"10.0.0.4"}, "the new member", limit=5)
    agent.until(lambda: Key(place.name, "second") in agent.pods, "the new pod", limit=5)


def test_what_is_deleted_while_the_wire_is_cut_and_forgotten_by_etcd_goes_when_it_is_mended(
    start: Callable[[], Agent], place: Place
) -> None:
    place.put_set("10.0.0.2")
    place.put_policy()
    place.pod("web", host="10.200.99.5", app="web")
    place.pod("kept", host="10.200.99.6", app="web")
    agent = start()
    agent.until(lambda: agent.source.complete, "complete")
    agent.tap.cut()
    place.delete("pod", "web")
    place.delete("compiledpolicy", "web")
    lab = place.cluster.client
    lab.control("apiserver", "stop")
    lab.compact()
    lab.control("apiserver", "start")
    agent.tap.mend()
    agent.until(lambda: Key(place.name, "web") not in agent.pods, "the pod's deletion", limit=30)
    agent.until(lambda: place.policy.key not in agent.policies, "the policy's deletion", limit=30)
    assert Key(place.name, "kept") in agent.pods
    assert agent.source.gaps >= 1
