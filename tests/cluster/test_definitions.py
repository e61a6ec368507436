"""The custom resource definitions on a real API server: structural, readable, and keeping every field that we write."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from builders import allow, block, cluster, has, lacks, namespace, none_of, one_of, pod, pods, policy, port, selector
from chart import Object, definitions
from kubectl import Kubectl
from netpol_api import kinds
from netpol_api.address_set import address_set_object
from netpol_api.compiled_policy import compiled_policy_object
from netpol_api.kinds import ADDRESS_SET, COMPILED_POLICY, GROUP, NODE_REPORT, VERSION, Kind
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import IR
from netpol_compiler.policy.pipeline import compile_cluster

NAMESPACE = "definitions"
PLURALS = {"AddressSet": "addresssets", "CompiledPolicy": "compiledpolicies", "NodeReport": "nodereports"}

REPORT: Object = {
    "apiVersion": NODE_REPORT.api_version,
    "kind": "NodeReport",
    "metadata": {"name": "node-1"},
    "status": {
        "schema": 1,
        "node": "node-1",
        "version": "0.1.0",
        "time": "2026-01-02T03:04:05.678901Z",
        "agent": {"namespace": "npctl-system", "pod": "npctl-agent-x7k2p", "port": 9436},
        "backend": "nft",
        "families": [4, 6],
        "inSync": False,
        "complete": True,
        "revisions": {"pods": "120", "addressSets": "131", "compiledPolicies": "99"},
        "policies": {"shop/only-web": "0123456789abcdef0123456789abcdef", "shop/" + "p" * 253: "00"},
        "policyCount": 2,
        "failures": [{"what": "chain npc-pi-web-1", "text": "-A npc-pi-web-1 -j DROP", "error": "No such file or directory"}],
        "failureCount": 1,
        "problems": ["br_netfilter is not loaded: pods that share a bridge reach each other UNFILTERED (IPv4)"],
        "sizes": {"chains": {"4": 9, "6": 3}, "rules": {"4": 31, "6": 8}, "sets": 2, "members": 7, "of a later version": [1]},
        "syncs": 12,
        "repairs": 1,
        "connectionsCut": 3,
    },
}


def _everything() -> IR:
    """Compiled policies and sets in which every field of the wire form occurs, null and not null."""
    web = pod("shop", "web", ["10.0.0.1", "fd00::1"], app="web", ports=["http:8080", "dns:53/UDP"])
    return compile_cluster(
        cluster(
            namespace("shop", team="a"),
            namespace("other", team="b"),
            web,
            pod("other", "db", "10.0.0.2", app="db", tier="x", ports=["sql:5432"]),
            policy("shop", "deny-all"),
            policy(
                "shop", "everything", selector(one_of("app", "web", "api"), lacks("old")), ingress=[allow()], egress=[allow()]
            ),
            policy(
                "shop",
                "only-web",
                {"app": "web"},
                ingress=[
                    allow(
                        pods(app="db", namespaces=selector(none_of("team", "c"), has("team"))), ports=[port(80, 90), port("http")]
                    ),
                    allow(
                        block("10.0.0.0/8", "10.1.0.0/16"),
                        block("fd00::/8"),
                        ports=[port(protocol="SCTP"), port(53, protocol="UDP")],
                    ),
                ],
                egress=[allow(pods(namespaces=selector()), ports=[port("sql")]), allow(pods(tier="x"))],
            ),
        )
    )


def _sets(ir: IR) -> list[Object]:
    return [address_set_object(wire.slice_to_wire(found, 0, 1, found.members), {3, 255}) for found in ir.sets.values()]


def _policies(ir: IR) -> list[Object]:
    made = [compiled_policy_object(found, 7, dict.fromkeys(found.set_names, "4711")) for found in ir.policies.values()]
    for data in made:
        # The owner is no object of this API server; garbage collection is not what is tested here.
        data["metadata"] = {"namespace": NAMESPACE, "name": data["metadata"]["name"]}
    made[-1]["spec"]["rejected"] = [
        {"kind": "NetworkPolicy", "path": ["spec", "ingress", 0, "ports", 1], "reason": "no such protocol"}
    ]
    return made


@pytest.fixture(scope="module")
def api(kubectl: Kubectl) -> Kubectl:
    """kubectl, with the definitions installed and a namespace for what the tests write and remove."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", objects=[*definitions(), space])
    names = [f"crd/{plural}.{GROUP}" for plural in PLURALS.values()]
    kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return kubectl


def _created(api: Kubectl, request: pytest.FixtureRequest, data: Object) -> Object:
    """`data` as the API server has kept it; removed when the test ends."""
    place = ["-n", NAMESPACE] if data["kind"] == "CompiledPolicy" else []
    request.addfinalizer(
        lambda: api("delete", *place, f"{PLURALS[data['kind']]}/{data['metadata']['name']}", "--ignore-not-found")
    )
    api("create", "--validate=strict", "-f", "-", objects=[data])
    return json.loads(api("get", *place, f"{PLURALS[data['kind']]}/{data['metadata']['name']}", "-o", "json"))


def test_the_definitions_are_those_of_the_code() -> None:
    found = {d["spec"]["names"]["kind"]: d for d in definitions()}
    assert {kind: d["spec"]["names"]["plural"] for kind, d in found.items()} == PLURALS
    assert {(d["spec"]["group"], v["name"]) for d in found.values() for v in d["spec"]["versions"]} == {(GROUP, VERSION)}
    paths = (ADDRESS_SET.path(), COMPILED_POLICY.path(), NODE_REPORT.path())
    assert [f"/apis/{NODE_REPORT.api_version}/{plural}" for plural in PLURALS.values()] == list(paths)
    names = {k: d["spec"]["names"] for k, d in found.items()}
    assert {k: (n["listKind"], n["shortNames"]) for k, n in names.items()} == {
        k.kind: (k.list_kind, [k.short]) for k in kinds.OURS
    }
    assert {k: d["spec"]["scope"] == "Namespaced" for k, d in found.items()} == {k.kind: k.namespaced for k in kinds.OURS}


TABLE = [kind for kind in vars(kinds).values() if isinstance(kind, Kind)]


@pytest.mark.parametrize("kind", TABLE, ids=[kind.kind for kind in TABLE])
def test_the_table_of_kinds_is_the_api_servers(api: Kubectl, kind: Kind) -> None:
    root = kind.path().rpartition("/")[0]
    found = {r["name"]: r for r in json.loads(api("get", "--raw", root))["resources"]}[kind.plural]
    assert (found["kind"], found["namespaced"], found.get("shortNames", [])) == (
        kind.kind, kind.namespaced, [kind.short] if kind.short else [],
    )  # fmt: skip


def test_every_field_is_typed_and_described_and_nothing_else_is_kept() -> None:
    free, silent = [], []

    def walk(place: str, schema: Object) -> None:
        if "type" not in schema and "x-kubernetes-int-or-string" not in schema:
            free.append(place)
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            free.append(place)
        for name, inner in schema.get("properties", {}).items():
            if "description" not in inner and (name, place) not in {
                (n, k) for n in ("apiVersion", "kind", "metadata") for k in PLURALS
            }:
                silent.append(f"{place}.{name}")
            walk(f"{place}.{name}", inner)
        for inner in (schema.get(part) for part in ("items", "additionalProperties")):
            if inner is not None:
                walk(f"{place}[]", inner)

    for definition in definitions():
        walk(definition["spec"]["names"]["kind"], definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    assert (free, silent) == (["NodeReport.status.sizes"], [])


def test_the_definitions_are_established_and_structural(api: Kubectl) -> None:
    for plural in PLURALS.values():
        status = json.loads(api("get", f"crd/{plural}.{GROUP}", "-o", "json"))["status"]
        conditions = {c["type"]: c["status"] for c in status["conditions"]}
        assert conditions == {"Established": "True", "NamesAccepted": "True"}, plural


def test_sets_and_policies_of_the_compiler_come_back_as_they_were_written(api: Kubectl, request: pytest.FixtureRequest) -> None:
    ir = _everything()
    for data in (*_sets(ir), *_policies(ir)):
        kept = _created(api, request, copy.deepcopy(data))
        assert kept["spec"] == data["spec"], data["metadata"]["name"]
        assert kept["metadata"].get("labels") == data["metadata"].get("labels")
    kinds = {found.kind for found in ir.sets.values()}
    assert len(kinds) == 2, "addresses and endpoints are both among them"


def test_a_report_comes_back_as_it_was_written(api: Kubectl, request: pytest.FixtureRequest) -> None:
    assert _created(api, request, copy.deepcopy(REPORT))["status"] == REPORT["status"]


def test_a_report_from_outside_of_a_pod_names_no_pod(api: Kubectl, request: pytest.FixtureRequest) -> None:
    data = copy.deepcopy(REPORT)
    del data["status"]["agent"]
    assert _created(api, request, data)["status"] == data["status"]


def test_a_set_of_a_thousand_members_is_kept_and_of_one_more_refused(api: Kubectl, request: pytest.FixtureRequest) -> None:
    data = _sets(_everything())[0]
    data["spec"] |= {"members": [f"10.0.{number // 256}.{number % 256}" for number in range(1000)], "size": 1000}
    assert _created(api, request, data)["spec"] == data["spec"]
    data["spec"]["members"].append("10.9.9.9")
    assert "spec.members: Too many: 1001" in api.refused("replace", "-f", "-", objects=[data])


def test_an_object_of_a_newer_schema_is_stored_so_that_readers_can_tell(api: Kubectl, request: pytest.FixtureRequest) -> None:
    for data in (_sets(_everything())[0], _policies(_everything())[0]):
        data["spec"]["schema"] = 2
        assert _created(api, request, data)["spec"]["schema"] == 2


def test_the_status_of_a_policy_is_written_by_itself(api: Kubectl, request: pytest.FixtureRequest) -> None:
    data = _policies(_everything())[0]
    name, status = data["metadata"]["name"], {"pods": 5, "nodes": 3, "nodesInForce": 2, "inForce": "2/3"}
    assert "status" not in _created(api, request, {**data, "status": status})
    change = json.dumps({"status": status, "spec": {"ruleCount": 99}})
    api("patch", "-n", NAMESPACE, f"compiledpolicies/{name}", "--subresource=status", "--type=merge", "-p", change)
    kept = json.loads(api("get", "-n", NAMESPACE, f"compiledpolicies/{name}", "-o", "json"))
    assert (kept["status"], kept["spec"]) == (status, data["spec"])


MALFORMED: list[tuple[str, tuple[str | int, ...], object, str]] = [
    ("AddressSet", ("spec", "members", 0), "web.example.com", "spec.members[0]"),
    ("AddressSet", ("spec", "members", 0), "10.0.0.1,ICMP,8", "spec.members[0]"),
    ("AddressSet", ("spec", "members"), None, "spec.members"),
    ("AddressSet", ("spec", "size"), 1001, "spec.size"),
    ("AddressSet", ("spec", "slice"), 1, "slice counts from 0"),
    ("AddressSet", ("spec", "schema"), 0, "spec.schema"),
    (
        "AddressSet",
        ("spec", "selects", "podSelector"),
        [{"key": "app", "operator": "Gt", "values": ["1"]}],
        "podSelector[0].operator",
    ),
    ("AddressSet", ("spec", "name"), "a-other-0123456789abcdef", "the object's name is spec.name"),
    ("CompiledPolicy", ("spec", "directions", 0), "sideways", "spec.directions[0]"),
    ("CompiledPolicy", ("spec", "name"), "other", "the object and the policy in spec.name have one name"),
    ("CompiledPolicy", ("spec", "digest"), "not a hash", "spec.digest"),
    ("CompiledPolicy", ("spec", "rules", 2, "ports", 0, "last"), 65536, "spec.rules[2].ports[0].last"),
    ("CompiledPolicy", ("spec", "rules", 2, "ports", 0, "protocol"), "ICMP", "spec.rules[2].ports[0].protocol"),
    ("CompiledPolicy", ("spec", "rules", 2, "namedPorts"), None, "spec.rules[2].namedPorts"),
    ("CompiledPolicy", ("spec", "rules", 3, "blocks", 0, "cidr"), "10.0.0.0", "spec.rules[3].blocks[0].cidr"),
    (
        "CompiledPolicy",
        ("spec", "rejected"),
        [{"kind": "NetworkPolicy", "path": [1.5], "reason": ""}],
        "spec.rejected[0].path[0]",
    ),
    ("CompiledPolicy", ("spec", "needs"), {"a-web-1": 7}, "spec.needs.a-web-1"),
    ("NodeReport", ("status", "node"), "node-2", "a report has its node's name"),
    ("NodeReport", ("status", "families", 0), 5, "status.families[0]"),
    ("NodeReport", ("status", "time"), "yesterday", "status.time"),
    ("NodeReport", ("status", "backend"), "ebpf", "status.backend"),
    ("NodeReport", ("status", "agent", "port"), 0, "status.agent.port"),
]


@pytest.mark.parametrize(("kind", "path", "value", "words"), MALFORMED, ids=[f"{m[0]}-{m[3]}" for m in MALFORMED])
def test_what_is_malformed_is_refused_with_the_field(
    api: Kubectl, kind: str, path: tuple[str | int, ...], value: object, words: str
) -> None:
    data = copy.deepcopy(_example(kind))
    *way, last = path
    place: Any = data
    for part in way:
        place = place[part]
    place[last] = value
    # Without kubectl's own look at the fields: it is the API server that must refuse.
    assert words in api.refused("create", "--dry-run=server", "--validate=ignore", "-f", "-", objects=[data])


def test_a_field_that_the_definition_lacks_is_refused_to_who_asks_for_strictness(api: Kubectl) -> None:
    for kind in PLURALS:
        data = copy.deepcopy(_example(kind))
        data["status" if kind == "NodeReport" else "spec"]["later"] = 1
        assert "later" in api.refused("create", "--dry-run=server", "--validate=strict", "-f", "-", objects=[data])


def _example(kind: str) -> Object:
    if kind == "NodeReport":
        return REPORT
    if kind == "AddressSet":
        return _sets(_everything())[0]
    return next(data for data in _policies(_everything()) if data["metadata"]["name"] == "only-web")


COLUMNS = {
    "aset": ["NAME", "MEMBERS", "SELECTS", "AGE"],
    "cpol": ["NAME", "ISOLATES", "PODS", "RULES", "NODES", "AGE"],
    "nrep": ["NAME", "IN-SYNC", "POLICIES", "FAILURES", "BACKEND", "VERSION", "REPORTED"],
}


@pytest.mark.parametrize("short", COLUMNS)
def test_kubectl_shows_a_table_that_a_person_can_read(api: Kubectl, request: pytest.FixtureRequest, short: str) -> None:
    data = _example({"aset": "AddressSet", "cpol": "CompiledPolicy", "nrep": "NodeReport"}[short])
    _created(api, request, data)
    if short == "cpol":
        status = json.dumps({"status": {"pods": 5, "nodes": 3, "nodesInForce": 2, "inForce": "2/3"}})
        api("patch", "-n", NAMESPACE, "cpol/only-web", "--subresource=status", "--type=merge", "-p", status)
    header, *lines = api("get", short, "-n", NAMESPACE).splitlines()
    assert header.split() == COLUMNS[short]
    line = next(line for line in lines if line.split()[0] == data["metadata"]["name"]).split()
    if short == "aset":
        assert line[1] == str(data["spec"]["size"]) and " ".join(line[2:-1]) == data["spec"]["words"]
    elif short == "cpol":
        assert line[1:5] == ["Ingress,Egress", "5", "4", "2/3"]
    else:
        assert line[1:6] == ["false", "2", "1", "nft", "0.1.0"]


def test_one_word_lists_all_of_npctls_resources(api: Kubectl, request: pytest.FixtureRequest) -> None:
    for kind in PLURALS:
        _created(api, request, _example(kind))
    names = set(api("get", "npctl", "-n", NAMESPACE, "-o", "name").split())
    expected = {f"{kind.lower()}.{GROUP}/{_example(kind)['metadata']['name']}" for kind in PLURALS}
    assert expected <= names


def test_kubectl_explains_a_field(api: Kubectl) -> None:
    assert "Ranges of ports; null if every port and protocol is meant." in api("explain", "cpol.spec.rules.ports")
