"""Events on a NetworkPolicy: one Warning for each change that leaves something in it without effect, and never the same twice."""

from __future__ import annotations

import base64
import copy
import json
import sys
from typing import Any

import pytest

from cluster_api import Cluster
from ground_api import Ground, allow, pod, policy
from ir_api import see_ir
from programs_api import STARTED, Programs

BLOCK = {"ipBlock": {"cidr": "10.0.0.0/8"}}
ETCD = "http://127.0.0.1:2379/v3/kv/put"
PUT = "import sys, urllib.request as r; r.urlopen(r.Request(sys.argv[1], sys.argv[2].encode())).read()"


@pytest.fixture
def ground(cluster: Cluster, namespace: str) -> Ground:
    ground = Ground(cluster, namespace)
    ground.apply(pod("server", 1, {"app": "server"}), pod("friend", 2), wait=True)
    return ground


def never(port: str) -> Any:
    """A policy with a rule that can match nothing: a named port is a port of a pod, and an ipBlock has none."""
    return policy("odd", {"app": "server"}, egress=[{"to": [BLOCK], "ports": [{"port": port}]}])


def events(ground: Ground, name: str = "odd") -> list[Any]:
    """All Events on one policy, the oldest first."""
    wanted = f"involvedObject.kind=NetworkPolicy,involvedObject.name={name}"
    found = ground.cluster.items("events", "-n", ground.namespace, "--field-selector", wanted)
    return sorted(found, key=lambda event: int(event["metadata"]["resourceVersion"]))


def see_events(ground: Ground, *reasons: str) -> list[Any]:
    """Wait for so many Events, of these reasons."""
    ground.cluster.wait_for(lambda: len(events(ground)) >= len(reasons), 10, f"{len(reasons)} Events")
    found = events(ground)
    assert [event["reason"] for event in found] == list(reasons)
    assert {(event["type"], event["count"]) for event in found} == {("Warning", 1)}
    return found


def see_silence(ground: Ground, name: str = "sentinel") -> None:
    """Return when a policy that was made after all else has its Event: whatever else was to be said has been said by then."""
    ground.apply(policy(name, {"app": "server"}, egress=[{"to": [BLOCK], "ports": [{"port": name}]}]))
    ground.cluster.wait_for(lambda: events(ground, name), 10, f"the Event on {name}")


def test_a_rule_that_can_never_match_is_told_once_for_each_change(ground: Ground) -> None:
    ground.apply(never("http"))
    (event,) = see_events(ground, "NeverMatches")
    assert (
        event["message"]
        == "spec.egress[0].ports: a named port is a port of a pod, and towards an ipBlock it matches nothing: use the number"
    )
    assert event["involvedObject"]["uid"] == ground.get("networkpolicy", "odd")["metadata"]["uid"]
    ground.label("networkpolicy", "odd", about="nothing")
    ground.apply(
        policy("odd", {"app": "server"}, ingress=[allow({"a": "b"})], egress=[{"to": [BLOCK], "ports": [{"port": "http"}]}])
    )
    see_silence(ground)
    see_events(ground, "NeverMatches")


def test_a_change_that_leaves_something_else_without_effect_is_told_anew(ground: Ground) -> None:
    ground.apply(never("http"))
    see_events(ground, "NeverMatches")
    contradiction = {"matchExpressions": [{"key": "a", "operator": "Exists"}, {"key": "a", "operator": "DoesNotExist"}]}
    ground.apply(policy("odd", {"app": "server"}, ingress=[{"from": [{"podSelector": contradiction}]}]))
    first, second = see_events(ground, "NeverMatches", "NeverMatches")
    assert first["message"] != second["message"]
    assert (
        second["message"] == "spec.ingress[0].from.podSelector: matches nothing, ever: its requirements on 'a' exclude each other"
    )


def test_nothing_is_told_of_a_policy_that_is_well(ground: Ground) -> None:
    ground.apply(policy("odd", {"app": "server"}, ingress=[allow({"access": "yes"})]))
    see_silence(ground)
    assert events(ground) == []


def test_nothing_is_told_again_when_operators_start_anew(ground: Ground, programs: Programs) -> None:
    ground.apply(never("http"))
    see_events(ground, "NeverMatches")
    with programs.held(*programs.operators()):
        pass
    programs.control("kill", programs.leader())
    see_ir(ground.cluster, STARTED)
    see_silence(ground)
    see_events(ground, "NeverMatches")


def test_a_policy_created_again_is_told_of_again(ground: Ground) -> None:
    ground.apply(never("http"))
    see_events(ground, "NeverMatches")
    ground.delete("networkpolicy", "odd")
    ground.apply(never("http"))
    first, second = see_events(ground, "NeverMatches", "NeverMatches")
    assert first["involvedObject"]["uid"] != second["involvedObject"]["uid"]


def test_what_an_older_api_server_let_in_is_rejected_aloud_and_allows_nothing(ground: Ground) -> None:
    """This one takes no IPv4 block written as IPv6 any more, but serves what is in etcd."""
    ground.apply(policy("odd", {"app": "server"}, ingress=[{"from": [BLOCK]}]), wait=True)
    ground.see("friend -> server 8080 allowed")
    store(ground, "odd", "::ffff:10.0.0.0/104")
    ground.until("friend -> server 8080 refused")
    (event,) = see_events(ground, "Rejected")
    assert event["message"].startswith(
        "allows nothing by these parts, which were not understood: spec.ingress[0].from[0].ipBlock.cidr: "
    )
    assert ground.get("compiledpolicy", "odd")["spec"]["rejected"]
    ground.delete("networkpolicy", "odd")
    ground.until("friend -> server 8080 allowed")


def store(ground: Ground, name: str, cidr: str) -> None:
    """Change a policy where no validation is: in etcd, which takes any form that the API server can read."""
    data = copy.deepcopy(ground.get("networkpolicy", name))
    data["spec"]["ingress"][0]["from"][0]["ipBlock"]["cidr"] = cidr
    data["metadata"]["generation"] += 1
    del data["metadata"]["resourceVersion"]
    key, value = f"/registry/networkpolicies/{ground.namespace}/{name}", json.dumps(data)
    body = json.dumps({"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value.encode()).decode()})
    assert ground.cluster.client.exec("host/api", [sys.executable, "-c", PUT, ETCD, body]) == 0
