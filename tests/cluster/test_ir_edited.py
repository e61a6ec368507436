"""The IR edited, deleted or made newer by hand: it is put right, and until then every node keeps its last good state."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster_api import Cluster
from ground_api import IN_FORCE, NODES, Ground, allow, pod, policy, space
from ir_api import see_ir
from netpol_api.resources import bucket, span_label
from probes_api import Probes
from programs_api import STARTED, Programs

NEWER = 99
"""A schema that nobody reads yet."""
SERVER = {"app": "server"}
CHANGES = 10
ALWAYS, NEVER, CONTROL = ["friend -> server 8080"], ["stranger -> server 8080"], "friend -> open 8080"


@pytest.fixture
def ground(cluster: Cluster, namespace: str) -> Ground:
    """`server` lets friends in and nobody else."""
    ground = Ground(cluster, namespace)
    friends = {"access": f"to-{namespace}"}
    ground.apply(
        pod("server", 1, SERVER),
        pod("open", 2),
        pod("friend", 2, friends),
        pod("stranger", 3),
        policy("server", SERVER, ingress=[allow(friends)]),
        wait=True,
    )
    see(ground)
    return ground


def see(ground: Ground) -> None:
    ground.see("friend -> server 8080 allowed\n stranger -> server 8080 refused")


def friends(ground: Ground) -> Any:
    """The AddressSet of the server's friends."""
    (found,) = [s for s in ground.cluster.items("addresssets") if s["spec"]["members"] == [ground.address("friend")]]
    return found


def patch_set(ground: Ground, patch: Any) -> None:
    ground.patch("addressset", friends(ground)["metadata"]["name"], json.dumps(patch))


def repairs(programs: Programs, kind: str) -> float:
    return sum(programs.figures(p).get(f"npctl_operator_audit_repairs_total{{kind={kind}}}", 0) for p in programs.operators())


def logged(ground: Ground, programs: Programs) -> list[str]:
    """The lines of the leader's log that name this namespace."""
    log = ground.cluster.client.folder / "logs" / f"{programs.leader().replace('/', '.')}.log"
    return [line for line in log.read_text().splitlines() if f"{ground.namespace}/" in line]


def warnings(ground: Ground, programs: Programs) -> list[str]:
    return [line for line in logged(ground, programs) if " INFO " not in line]


def put_right(ground: Ground) -> None:
    """The IR is what it should be, and so are packets."""
    see_ir(ground.cluster, IN_FORCE)
    ground.in_force()
    see(ground)


def test_members_taken_from_a_set_and_put_into_it(ground: Ground, programs: Programs) -> None:
    before = repairs(programs, "AddressSet")
    patch_set(ground, {"spec": {"members": [], "size": 0}})
    put_right(ground)
    patch_set(ground, {"spec": {"members": [ground.address("friend"), ground.address("stranger")], "size": 2}})
    put_right(ground)
    assert repairs(programs, "AddressSet") >= before + 2


def test_a_policys_rule_and_selector_changed(ground: Ground, programs: Programs) -> None:
    before = repairs(programs, "CompiledPolicy")
    for change in (
        {"rules": []},
        {"podSelector": []},
        {"directions": ["egress"]},
        {"digest": "0" * 32},
        {"sourceGeneration": 77},
    ):
        ground.patch("compiledpolicy", "server", json.dumps({"spec": change}))
        put_right(ground)
    assert repairs(programs, "CompiledPolicy") >= before + 5


def test_labels_of_the_span_taken_away(ground: Ground) -> None:
    label = span_label(bucket(NODES[0]))
    for kind, name in (("addressset", friends(ground)["metadata"]["name"]), ("compiledpolicy", "server")):
        ground.patch(kind, name, json.dumps({"metadata": {"labels": {label: None}}}))
        back = lambda k=kind, n=name: label in ground.get(k, n)["metadata"]["labels"]  # noqa: E731
        ground.cluster.wait_for(back, IN_FORCE, f"{kind} {name} has {label} again")
    put_right(ground)


def test_ir_objects_deleted(ground: Ground) -> None:
    ground.cluster.kubectl("delete", "addressset", friends(ground)["metadata"]["name"])
    put_right(ground)
    ground.delete("compiledpolicy", "server")
    put_right(ground)
    ground.cluster.kubectl("delete", "addresssets,compiledpolicies", "--all", "-n", ground.namespace)
    put_right(ground)


def test_ir_objects_of_nobody_are_removed(ground: Ground) -> None:
    stray = friends(ground)
    stray["metadata"] = {"name": "nobodys.0", "labels": {"npctl.dev/set": "nobodys"}}
    stray["spec"]["name"] = "nobodys"
    compiled = ground.get("compiledpolicy", "server")
    compiled["metadata"] = {"name": "nobodys", "namespace": ground.namespace}
    compiled["spec"] = {**compiled["spec"], "name": "nobodys", "podSelector": []}
    ground.cluster.kubectl(
        "create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [stray, compiled]})
    )
    put_right(ground)
    assert ground.cluster.run("get", "addressset", "nobodys.0").returncode != 0


def test_a_namespace_that_cannot_end_holds_up_nothing_else_and_is_told_once(ground: Ground, programs: Programs) -> None:
    """Its IR is deleted with all in it, its policy is still there, and nothing can be created in it any more."""
    stuck = Ground(ground.cluster, f"{ground.namespace}-stuck")
    wall = policy("wall", SERVER)
    wall["metadata"]["finalizers"] = ["example.com/not-yet"]  # type: ignore[index]
    stuck.apply(space(stuck.namespace), pod("house", 1, SERVER), wall, wait=True)
    try:
        ground.cluster.kubectl("delete", "namespace", stuck.namespace, "--wait=false")
        told = lambda: sum("/wall: not written" in line for line in logged(stuck, programs))  # noqa: E731
        ground.cluster.wait_for(told, IN_FORCE, "the operator says that it could not write")
        for number in range(CHANGES):
            ground.label("pod", "stranger", access=f"to-{ground.namespace}" if number % 2 else None)
        short = policy("short", SERVER, ingress=[allow({"access": "for-a-moment"})])
        ground.apply(short)
        named = lambda: "for-a-moment" in str(ground.cluster.items("addresssets"))  # noqa: E731
        ground.cluster.wait_for(named, IN_FORCE, "the set of a new policy is there")
        ground.delete("networkpolicy", "short")
        ground.cluster.wait_for(lambda: not named(), IN_FORCE, "the set that nobody needs is gone")
        ground.until("stranger -> server 8080 allowed")
        assert told() == 1
        assert not warnings(stuck, programs)
    finally:
        stuck.patch("networkpolicy", "wall", json.dumps({"metadata": {"finalizers": None}}))
        ground.cluster.kubectl("wait", "--for=delete", f"namespace/{stuck.namespace}", "--timeout=60s", limit=90)
    ground.label("pod", "stranger", access=None)
    ground.until("stranger -> server 8080 refused")
    put_right(ground)


def test_a_deleted_namespace_does_not_look_like_tampering(ground: Ground, programs: Programs) -> None:
    """The namespace controller deletes the CompiledPolicies, mostly before the operator does, and nobody can make them anew."""
    leaving = Ground(ground.cluster, f"{ground.namespace}-leaving")
    leaving.apply(space(leaving.namespace), *(policy(f"p{number}", SERVER) for number in range(CHANGES)), wait=True)
    before = repairs(programs, "CompiledPolicy")
    ground.cluster.kubectl("delete", "namespace", leaving.namespace, "--timeout=60s", limit=90)
    ended = lambda: [line for line in logged(leaving, programs) if "deleted" in line or "removed" in line]  # noqa: E731
    ground.cluster.wait_for(ended, IN_FORCE, "the operator has seen the end of the policies")
    put_right(ground)
    assert not warnings(leaving, programs)
    assert repairs(programs, "CompiledPolicy") == before


def problems(ground: Ground, node: int = 1) -> list[str]:
    """What the node's agent says that it cannot do."""
    return list(ground.cluster.get("nodereport", NODES[node - 1])["status"]["problems"])


def make_newer(ground: Ground, kind: str) -> None:
    """As an operator would publish it that reads and writes NEWER: with less in it, to us."""
    if kind == "addressset":
        patch_set(ground, {"spec": {"schema": NEWER, "members": [], "size": 0}})
    else:
        ground.patch(kind, "server", json.dumps({"spec": {"schema": NEWER, "rules": []}}))


def says_so(ground: Ground) -> bool:
    return any(f"schema {NEWER}" in problem for problem in problems(ground))


@pytest.mark.parametrize("kind", ["addressset", "compiledpolicy"])
def test_a_newer_schema_leaves_the_last_good_state_in_force_and_is_reported(
    ground: Ground, programs: Programs, kind: str
) -> None:
    with Probes(ground, ALWAYS, NEVER, CONTROL) as probes:
        with programs.held(*programs.operators()):
            make_newer(ground, kind)
            ground.cluster.wait_for(lambda: says_so(ground), IN_FORCE, f"a report of schema {NEWER}")
            see(ground)
        see_ir(ground.cluster, STARTED)
        ground.cluster.wait_for(lambda: not problems(ground), STARTED, "a report without problems")
    assert not probes.wrong
    put_right(ground)


def test_an_agent_that_starts_with_a_newer_schema_leaves_the_kernel_as_it_is(ground: Ground, programs: Programs) -> None:
    with Probes(ground, ALWAYS, NEVER, CONTROL) as probes:
        with programs.held(*programs.operators()):
            make_newer(ground, "addressset")
            programs.control("kill", programs.agents()[NODES[0]])
            incomplete = lambda: not ground.cluster.get("nodereport", NODES[0])["status"]["complete"]  # noqa: E731
            ground.cluster.wait_for(lambda: says_so(ground) and incomplete(), STARTED, "a report that inputs are not complete")
            see(ground)
        see_ir(ground.cluster, STARTED)
        ground.cluster.wait_for(lambda: not problems(ground), STARTED, "a report without problems")
    assert not probes.wrong
    put_right(ground)
