"""Whether all is in force: each part that can lag is named, with the reason."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from netpol_api import resources
from netpol_compiler.model.objects import Cluster, Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.reading.objects import parse_namespace, parse_node, parse_pod, parse_policy
from netpol_lab.control.in_force import Reading, lagging, revisions_of

NODE = "n1"
POLICY = Key("web", "only-friends")


def versioned(data: dict[str, Any], version: int) -> dict[str, Any]:
    data["metadata"] |= {"resourceVersion": str(version), "uid": f"uid-{version}"}
    return data


def pod(name: str, address: str, version: int) -> dict[str, Any]:
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    metadata = {"namespace": "web", "name": name, "labels": {"app": name}}
    spec = {"nodeName": NODE, "containers": []}
    return versioned({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}, version)


@pytest.fixture
def reading() -> Reading:
    """One node with a server and a client, one policy, everything up to date."""
    node = versioned({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": {"podCIDR": "10.0.0.0/24"}}, 1)
    namespace = versioned({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web", "labels": {}}}, 2)
    pods = (pod("server", "10.0.0.2", 10), pod("client", "10.0.0.3", 11))
    peers = [{"podSelector": {"matchLabels": {"app": "client"}}}]
    spec = {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"], "ingress": [{"from": peers}]}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": spec}
    policy = versioned({**policy, "metadata": {"namespace": "web", "name": POLICY.name, "generation": 3}}, 12)
    parsed = [parse_pod(p)[0] for p in pods]
    cluster = Cluster(
        {"web": parse_namespace(namespace)[0]},  # type: ignore[dict-item]
        {p.key: p for p in parsed if p},
        {POLICY: parse_policy(policy)[0]},  # type: ignore[dict-item]
        {NODE: parse_node(node)[0]},  # type: ignore[dict-item]
    )
    ir = compile_cluster(cluster)
    compiled = resources.compiled_policy_object(ir.policies[POLICY], 3, {})
    span = [resources.bucket(NODE)]
    sets = [versioned(resources.address_set_object(wire.slice_to_wire(s, 0, 1, s.members), span), 20) for s in ir.sets.values()]
    policies = {str(POLICY): ir.policies[POLICY].digest}
    status = {"schema": resources.NODE_REPORT_SCHEMA, "policies": policies, "inSync": True}
    report = {"metadata": {"name": NODE}, "status": status}
    return Reading(
        (node,), (namespace,), pods, (policy,), (compiled,), tuple(sets), (report,), {NODE: {"pods": 11, "addressSets": 20}}
    )


def words(reading: Reading) -> str:
    (found,) = [f"{name} {why}" for name, why in lagging(reading).items()]
    return found


def changed(items: tuple[Any, ...], *path: str, value: Any) -> tuple[Any, ...]:
    """The first item with the value at `path` replaced."""
    first = copy.deepcopy(items[0])
    place = first
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return (first, *items[1:])


def test_everything_up_to_date_is_in_force(reading: Reading) -> None:
    assert lagging(reading) == {}


def test_a_policy_that_is_not_published_or_older(reading: Reading) -> None:
    assert words(replace(reading, compiled=())) == "operator has not published NetworkPolicy web/only-friends"
    for field, value in (("uid", "uid-of-its-forerunner"), ("sourceGeneration", 2)):
        older = changed(reading.compiled, "spec", field, value=value)
        assert words(replace(reading, compiled=older)) == "operator has published an older NetworkPolicy web/only-friends"


def test_a_policy_that_is_gone_and_still_published(reading: Reading) -> None:
    assert words(replace(reading, policies=())) == "operator still publishes NetworkPolicy web/only-friends, which is gone"


def test_a_set_that_lacks_a_pod(reading: Reading) -> None:
    more = (
        *reading.pods,
        {**pod("client", "10.0.0.4", 12), "metadata": {**pod("client", "x", 12)["metadata"], "name": "client-2"}},
    )
    assert words(replace(reading, pods=more)).startswith("operator has not published the addresses of pods app=client")


def test_a_node_without_the_policy_or_without_a_report(reading: Reading) -> None:
    assert words(replace(reading, reports=())) == "agent-n1 has not reported yet"
    for policies in ({}, {str(POLICY): "another digest"}):
        reports = changed(reading.reports, "status", "policies", value=policies)
        assert words(replace(reading, reports=reports)) == "agent-n1 has not put NetworkPolicy web/only-friends in force"


def test_a_report_of_another_schema_is_not_taken_for_one_of_ours(reading: Reading) -> None:
    newer = resources.NODE_REPORT_SCHEMA + 1
    reports = changed(reading.reports, "status", "schema", value=newer)
    assert (
        words(replace(reading, reports=reports)) == f"agent-n1 reports in schema {newer}, and this lab reads schema {newer - 1}"
    )


def test_a_node_that_still_has_a_policy_of_the_past(reading: Reading) -> None:
    policies = {**reading.reports[0]["status"]["policies"], "web/gone": "digest"}
    reports = changed(reading.reports, "status", "policies", value=policies)
    assert words(replace(reading, reports=reports)) == "agent-n1 still has NetworkPolicy web/gone in force"


def test_an_agent_that_has_not_seen_the_newest_pods_or_sets(reading: Reading) -> None:
    assert words(replace(reading, revisions={})) == "agent-n1 does not answer"
    old = replace(reading, revisions={NODE: {"pods": 10, "addressSets": 20}})
    assert words(old) == "agent-n1 has pods of revision 10, and there are some of 11"
    old = replace(reading, revisions={NODE: {"pods": 11, "addressSets": 19}})
    assert words(old) == "agent-n1 has sets of revision 19, and there are some of 20"


def test_a_set_outside_the_nodes_span_is_not_waited_for(reading: Reading) -> None:
    sets = changed(reading.sets, "metadata", "labels", value={})
    assert lagging(replace(reading, sets=sets, revisions={NODE: {"pods": 11}})) == {}


def test_a_kernel_that_refuses(reading: Reading) -> None:
    failures = [{"what": "chain x", "text": "-A x", "error": "no"}]
    reports = changed(reading.reports, "status", "failures", value=failures)
    assert words(replace(reading, reports=reports)) == "agent-n1 could not program chain x: no (-A x)"
    reports = changed(reading.reports, "status", "inSync", value=False)
    assert words(replace(reading, reports=reports)) == "agent-n1 is not in sync yet"


def test_revisions_are_read_from_an_agents_metrics() -> None:
    text = '# HELP x\nnpctl_agent_revision{kind="pods"} 1.234567e+06\nnpctl_agent_revision{kind="addressSets"} 12.0\n'
    assert revisions_of(text) == {"pods": 1234567, "addressSets": 12}
