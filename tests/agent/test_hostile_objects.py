"""Whatever the objects say that an agent on the API is handed: at most a problem, and good ones put all right again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators import clusters
from hostile import deep, peak, spoiled_json
from netpol_agent.inputs.input_problems import InputProblems
from netpol_agent.inputs.mailbox import Mailbox
from netpol_agent.inputs.node_inputs import NodeInputs
from netpol_agent.inputs.set_cache import SetCache
from netpol_agent.inputs.source import Delta
from netpol_api.resources import address_set_object, bucket, compiled_policy_object
from netpol_compiler.model.objects import Cluster, Key
from netpol_compiler.node import NodeCompiler, compile_node
from netpol_compiler.policy import wire
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.reading.objects import parse_pod
from netpol_kube.client import ProtocolError, checked_object
from search import searched
from tellings import pod_manifest

Json = dict[str, Any]
NODE = "n1"
ROUND = 10.0
"""Seconds of the test's clock: longer than anything that an agent holds back."""


class World:
    """The objects on one node's API, and an agent's inputs and compiler that hear of them."""

    def __init__(self, cluster: Cluster) -> None:
        self.ir = compile_cluster(cluster)
        sets = {s.name: address_set_object(wire.slice_to_wire(s, 0, 1, s.members), [bucket(NODE)]) for s in self.ir.sets.values()}
        policies = {k: compiled_policy_object(p, 1, dict.fromkeys(p.set_names, "0")) for k, p in self.ir.policies.items()}
        pods = {k: pod_manifest(p) for k, p in cluster.pods.items() if p.node == NODE}
        self.objects: dict[str, dict[Any, Json]] = {"pod": pods, "policy": policies, "set": sets}
        for data in (data for kind in self.objects.values() for data in kind.values()):
            data["metadata"]["resourceVersion"] = "5"
        self.node = NodeCompiler(NODE)
        self.mailbox = Mailbox()
        self._inputs = NodeInputs(self.mailbox, bucket(NODE))
        self._now = 100.0

    def put(self, kind: str, data: Json) -> None:
        puts = {"pod": self._inputs.put_pod, "policy": self._inputs.put_policy, "set": self._inputs.sets.put}
        puts[kind](data, self._now)

    def put_all(self, version: int) -> None:
        """A fresh list."""
        for kind in ("pod", "set", "policy"):
            for data in self.objects[kind].values():
                data["metadata"]["resourceVersion"] = str(version)
                self.put(kind, data)
        self._inputs.synced(self._now)

    def take_away(self, data: Json) -> None:
        """Whatever else was told of is gone."""
        name = data["metadata"]["name"]
        key = Key(data["metadata"].get("namespace") or "", name)
        for known in (key, Key("default", name)):
            if known not in self.objects["pod"]:
                self._inputs.delete_pod(known, self._now)
        if key not in self.objects["policy"]:
            self._inputs.delete_policy(key, self._now)
        if name not in {d["metadata"]["name"] for d in self.objects["set"].values()}:
            self._inputs.sets.unwatch(name)

    def settle(self, version: int) -> None:
        """Let time go by, answering all that is asked for, until nothing can be late any more."""
        for _ in range(4):
            self._now += ROUND
            self._inputs.settle(self._now)
            for namespace in self._inputs.namespaces.take_due(self._now):
                policies = [d for key, d in self.objects["policy"].items() if key.namespace == namespace]
                self._inputs.namespace_listed(namespace, policies, version, self._now)
            for name in self._inputs.sets.fetches.take_due(self._now):
                found = self.objects["set"].get(name)
                self._inputs.sets.fetched(name, [found] if found else [], version, self._now)
            self._inputs.settle(self._now)
            apply(self.node, self.mailbox.take())

    @property
    def expected(self) -> object:
        pods = [pod for data in self.objects["pod"].values() if (pod := parse_pod(data)[0]) is not None]
        return compile_node(NODE, self.ir, pods).ruleset


def apply(node: NodeCompiler, delta: Delta) -> None:
    delta.apply_to(node)
    node.flush()


@contextlib.contextmanager
def world(cluster: Cluster) -> Iterator[World]:
    made = World(cluster)
    try:
        yield made
    finally:
        made.mailbox.close()


@searched(150)
@given(st.data())
def test_after_whatever_objects_a_fresh_list_of_good_ones_puts_all_right(data: st.DataObject) -> None:
    with world(data.draw(clusters())) as it:
        it.put_all(5)
        it.settle(5)
        assert it.node.ruleset == it.expected
        odd = []
        kinds = [kind for kind, found in it.objects.items() if found]
        for kind in data.draw(st.lists(st.sampled_from(kinds), max_size=4)) if kinds else ():
            good = data.draw(st.sampled_from(list(it.objects[kind].values())))
            good["metadata"]["resourceVersion"] = "6"
            told = data.draw(spoiled_json(good))
            with contextlib.suppress(ProtocolError):
                odd.append(checked_object("/things", json.loads(json.dumps(told))))
                it.put(kind, odd[-1])
            if data.draw(st.booleans()):
                it.settle(6)
        for told in odd:
            it.take_away(told)
        it.put_all(7)
        it.settle(7)
        assert it.node.ruleset == it.expected


@pytest.mark.parametrize("kind", ["pod", "policy", "set"])
@pytest.mark.parametrize("depth", [100, 900, 1000, 5000])
def test_an_object_that_is_deep_is_refused_at_most(kind: str, depth: int) -> None:
    """JSON that is read need not be JSON that can be walked through: the reader takes nearly as much as the stack has."""
    with world(Cluster()) as it:
        value = deep(depth)
        for data in ({"spec": value}, {"spec": {"schema": 1, "slice": 0, "slices": 1, "name": "x", "members": value}}):
            it.put("pod", {"metadata": {"namespace": "a", "name": "p"}, "spec": {"nodeName": NODE}, "status": {"podIPs": value}})
            it.put(kind, {"metadata": {"namespace": "a", "name": "x.0"}, **data})
            it.settle(1)


def test_a_set_that_says_it_has_very_many_slices_costs_nothing() -> None:
    """Found by reading: a list as long as that was made, to compare with."""
    data = {"metadata": {"name": "x.0"}, "spec": {"schema": 1, "name": "x", "slice": 0, "slices": 3_000_000}}

    def read() -> None:
        sets = SetCache(InputProblems())
        sets.put(data, 1.0)
        assert sets.value("x", 1.0) is None

    assert peak(read) < 1_000_000
