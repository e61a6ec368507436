"""The NodeReport's form: what an agent writes is what everybody reads, and what nobody wrote like this hides nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netpol_api.node_report import (
    LONGEST_TEXT,
    MOST_ENTRIES,
    SCHEMA,
    AgentPod,
    Failure,
    NodeReport,
    node_report_object,
    node_report_path,
    report_of,
    status_of,
)  # fmt: skip

FULL = NodeReport(
    node="n1",
    policies={"shop/web": "d1", "shop/db": "d2"},
    in_sync=True,
    complete=False,
    time="2026-01-01T12:00:00Z",
    version="1.2",
    backend="nft",
    families=(4, 6),
    revisions={"pods": "1", "addressSets": "2", "compiledPolicies": ""},
    agent=AgentPod("npctl-system", "npctl-agent-x", 9436),
    sizes={"rules": {"4": 20, "6": 1}, "sets": 3},
    failures=(Failure("set npc4-x", "create npc4-x", "too big"),),
    failure_count=1,
    problems=("odd sysctl",),
    syncs=5,
    repairs=1,
    connections_cut=2,
)


def read(**status: Any) -> NodeReport:
    return report_of({"metadata": {"name": "n1"}, "status": {"schema": SCHEMA, "inSync": True, **status}})


def test_what_is_written_is_read_back() -> None:
    written = json.loads(json.dumps(node_report_object(FULL, "uid-1")))
    assert report_of(written) == FULL
    (owner,) = written["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-1"}
    assert (written["kind"], node_report_path("n1")) == ("NodeReport", "/apis/npctl.dev/v1alpha1/nodereports/n1")
    assert (written["status"]["policyCount"], FULL.count("rules"), FULL.count("sets"), FULL.count("none")) == (2, 21, 3, 0)


def test_an_agent_outside_of_a_pod_names_none() -> None:
    assert "agent" not in status_of(NodeReport("n1"))
    assert read(agent={"namespace": "a", "pod": "", "port": 9436}).agent is None


def test_a_report_holds_so_many_failures_and_problems_and_so_much_of_each() -> None:
    failure = Failure("chain x", "t" * 5000, "e" * 5000)
    status = status_of(NodeReport("n1", failures=(failure,) * 50, failure_count=50, problems=("p" * 5000,) * 50))
    assert (len(status["failures"]), status["failureCount"]) == (MOST_ENTRIES, 50)
    assert {len(f["text"]) for f in status["failures"]} | {len(f["error"]) for f in status["failures"]} == {LONGEST_TEXT}
    assert [len(p) for p in status["problems"][:-1]] == [LONGEST_TEXT] * MOST_ENTRIES
    assert status["problems"][-1] == "and 20 problems more"
    assert report_of({"metadata": {"name": "n1"}, "status": status}).problems[-1] == "and 20 problems more"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"policies": ["a/p"]}, "status.policies: list in place of an object"),
        ({"policies": {"a/p": "d", "a/q": 1}}, "status.policies: 1 entries are not NAMESPACE/NAME with a digest, such as 'a/q'"),
        ({"policies": {"p": "d", "a/p": "d"}}, "status.policies: 1 entries are not NAMESPACE/NAME with a digest, such as 'p'"),
        ({"policies": {"a/p": "d", "a/" + "x" * 400: "d"}}, "status.policies: 1 entries are not NAMESPACE/NAME with a digest"),
        ({"policies": {"a/p": "d", "a/b/c": "d"}}, "status.policies: 1 entries are not NAMESPACE/NAME with a digest"),
        ({"policies": {"a/p": "d", "a/q": "d" * 500}}, "status.policies: 1 entries are not NAMESPACE/NAME with a digest"),
        ({"inSync": "yes"}, "status.inSync: str in place of true or false"),
        ({"time": 5}, "status.time: int in place of a text"),
        ({"failures": {}}, "status.failures: dict in place of a list"),
        ({"failures": ["x"]}, "status.failures[0]: str in place of an object"),
        ({"failures": [{"what": 1}]}, "status.failures[0].what: int in place of a text"),
        ({"failureCount": "many"}, "status.failureCount: str in place of a number"),
        ({"failureCount": True}, "status.failureCount: bool in place of a number"),
        ({"problems": [None, 1]}, "status.problems[1]: int in place of a text"),
        ({"sizes": [1]}, "status.sizes: list in place of an object"),
        ({"agent": {"namespace": "a", "pod": "b", "port": "c"}}, "status.agent.port: str in place of a number"),
    ],
)
def test_a_field_that_is_not_understood_is_named_and_takes_no_other_with_it(status: dict[str, Any], words: str) -> None:
    found = read(**{"policies": {"a/p": "d"}, **status})
    assert found.trouble.startswith(f"its report is not understood: {words}")
    assert found.schema == SCHEMA and (found.in_force == {"a/p": "d"} or isinstance(status.get("policies"), list))


def test_what_is_no_number_in_the_sizes_is_not_counted() -> None:
    assert read(sizes={"rules": {"4": 5, "6": "many", "x": None}}).count("rules") == 5
    assert read(sizes={"rules": "many"}).count("rules") == 0


@pytest.mark.parametrize("item", [{}, *({"status": s} for s in (None, [], {"schema": "1"}, {"schema": True}))])
def test_a_report_that_says_no_schema_says_nothing_that_counts(item: dict[str, Any]) -> None:
    found = report_of({"metadata": {"name": "n1"}, **item})
    assert found.schema == 0 and not found.in_force and found.trouble.startswith("its report has schema 0")


def test_texts_are_cut_when_they_are_read() -> None:
    found = read(version="v" * 10_000, problems=["p" * 10_000] * 100, failures=[{"what": "w" * 10_000}] * 100)
    assert (len(found.version), len(found.problems[0]), len(found.failures[0].what)) == (LONGEST_TEXT,) * 3
    assert len(found.problems) == len(found.failures) == MOST_ENTRIES + 1
