"""Manifests to a world: pods of workloads, nodes, addresses, Services, namespaces; deterministic and sticky."""

from __future__ import annotations

import re

import pytest

from netpol_compiler.model.addresses import Address, parse_address
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Key
from netpol_manifests.documents import Document, parse_yaml
from netpol_manifests.world import ExpandOptions, ObjectId, World, expand, to_cluster

NODES = """
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {disk: ssd}}
spec: {podCIDRs: [10.1.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.1.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}
"""


def documents(*texts: str) -> list[Document]:
    found: list[Document] = []
    for text in texts:
        parsed, rejected = parse_yaml(text, "f.yaml")
        assert rejected == []
        found += parsed
    return found


def pod(name: str, spec: str = "{}", rest: str = "", metadata: str = "") -> str:
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{metadata}}}\nspec: {spec}\n{rest}\n"


def workload(kind: str, fields: str = "", spec: str = "{}", metadata: str = "") -> str:
    version = "batch/v1" if kind == "Job" else "apps/v1"
    template = f"{{metadata: {{labels: {{app: w}}{metadata}}}, spec: {spec}}}"
    head = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: w, namespace: x}}\n"
    return f"{head}spec: {{selector: {{matchLabels: {{app: w}}}}, template: {template}{fields}}}\n"


def addresses(world: World) -> dict[str, list[str]]:
    return {key.name: [a.text for a in p.addresses] for key, p in world.pods.items()}


def placed(world: World) -> list[tuple[str, list[str], str]]:
    return [(p.node, [a.text for a in p.addresses], p.phase) for p in world.pods.values()]


@pytest.mark.parametrize(
    ("kind", "fields", "pattern", "count"),
    [
        ("Deployment", "", r"w-[b-z0-9]{10}-[b-z0-9]{5}", 1),
        ("Deployment", ", replicas: 3", r"w-[b-z0-9]{10}-[b-z0-9]{5}", 3),
        ("Deployment", ", replicas: 0", "", 0),
        ("ReplicaSet", ", replicas: 2", r"w-[b-z0-9]{5}", 2),
        ("StatefulSet", ", replicas: 2", r"w-[01]", 2),
        ("DaemonSet", "", r"w-[b-z0-9]{5}", 2),
        ("Job", ", parallelism: 5, completions: 3", r"w-[b-z0-9]{5}", 3),
    ],
)
def test_a_workloads_pods_are_named_as_kubernetes_names_them(kind: str, fields: str, pattern: str, count: int) -> None:
    world = expand(documents(NODES, workload(kind, fields)))
    assert world.rejected == ()
    assert len(world.pods) == count
    for key, value in world.pods.items():
        assert key.namespace == "x"
        assert re.fullmatch(pattern, key.name)
        assert value.labels["app"] == "w"
        assert value.phase == "Running"


def test_the_same_documents_give_the_same_world() -> None:
    texts = (NODES, workload("Deployment", ", replicas: 4"), pod("a"))
    assert expand(documents(*texts)) == expand(documents(*texts))


def test_a_world_expanded_again_from_its_own_objects_is_the_same() -> None:
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: NodePort, ports: [{port: 80}]}\n"
    first = expand(documents(NODES, workload("Deployment", ", replicas: 4"), pod("a"), service))
    again = expand([Document(data) for data in first.objects.values()])
    assert (again.pods, again.services, again.nodes, again.namespaces) == (
        first.pods,
        first.services,
        first.nodes,
        first.namespaces,
    )


def test_replicas_are_spread_over_the_nodes() -> None:
    world = expand(documents(NODES, workload("Deployment", ", replicas: 4")))
    assert sorted(p.node for p in world.pods.values()) == ["n1", "n1", "n2", "n2"]


def test_addresses_come_from_the_nodes_block_without_network_and_gateway() -> None:
    world = expand(documents(NODES, pod("a", "{nodeName: n2}"), pod("b", "{nodeName: n2}"), pod("c", "{nodeName: n1}")))
    assert addresses(world) == {"a": ["10.1.2.2"], "b": ["10.1.2.3"], "c": ["10.1.1.2"]}


def test_addresses_that_are_written_are_kept_and_never_given_to_others() -> None:
    annotated = pod("a", "{nodeName: n2}", metadata=""", annotations: {cni.projectcalico.org/ipAddrs: '["10.1.2.2"]'}""")
    world = expand(
        documents(NODES, pod("z", "{nodeName: n2}"), annotated, pod("b", "{nodeName: n2}", "status: {podIP: 10.1.2.3}"))
    )
    assert addresses(world) == {"z": ["10.1.2.4"], "a": ["10.1.2.2"], "b": ["10.1.2.3"]}


def test_an_annotation_on_a_template_fixes_the_address_of_one_pod_only() -> None:
    metadata = """, annotations: {cni.projectcalico.org/ipAddrs: '["10.1.2.9"]'}"""
    world = expand(documents(NODES, workload("Deployment", ", replicas: 2", metadata=metadata)))
    assert [p.addresses for p in world.pods.values()].count((parse_address("10.1.2.9"),)) == 1
    assert "already the address of pod" in world.rejected[0].reason


@pytest.mark.parametrize("value", ["'10.1.2.2'", "'[]'", "'{'", "'[\"x\"]'"])
def test_a_bad_address_annotation_is_told(value: str) -> None:
    world = expand(documents(NODES, pod("a", metadata=f", annotations: {{cni.projectcalico.org/ipAddrs: {value}}}")))
    assert world.rejected[0].path[-1] == "cni.projectcalico.org/ipAddrs"
    assert world.rejected[0].line == 3


def test_previous_addresses_are_sticky_and_keep_the_pod_on_its_node() -> None:
    previous: dict[Key, tuple[Address, ...]] = {Key("default", "b"): (parse_address("10.1.2.77"),)}
    for others in ((), ("a",), ("a", "c")):
        world = expand(documents(NODES, *(pod(name) for name in others), pod("b")), previous)
        assert addresses(world)["b"] == ["10.1.2.77"]
        assert world.pods[Key("default", "b")].node == "n2"


def test_a_finished_pod_frees_its_address() -> None:
    done = pod("a", "{nodeName: n1}", "status: {phase: Succeeded, podIP: 10.1.1.2}")
    world = expand(documents(NODES, done, pod("b", "{nodeName: n1}")))
    assert placed(world) == [("n1", ["10.1.1.2"], "Succeeded"), ("n1", ["10.1.1.2"], "Running")]


def test_node_selectors_choose_by_hostname_and_label() -> None:
    world = expand(
        documents(
            NODES,
            pod("a", "{nodeSelector: {kubernetes.io/hostname: n2}}"),
            pod("b", "{nodeSelector: {disk: ssd}}"),
            pod("c", "{nodeSelector: {disk: none}}"),
        )
    )
    assert [p.node for p in world.pods.values()] == ["n2", "n1", ""]
    assert world.pods[Key("default", "c")].phase == "Pending"
    assert "stays Pending" in world.warnings[0].reason


def test_a_node_that_does_not_exist_is_told() -> None:
    world = expand(documents(NODES, pod("a", "{nodeName: n9}")))
    assert world.rejected[0].field == "spec.nodeName"


def test_a_full_block_is_told() -> None:
    nodes = NODES.replace("10.1.1.0/24", "10.1.1.0/30")
    world = expand(documents(nodes, pod("a", "{nodeName: n1}"), pod("b", "{nodeName: n1}")))
    assert addresses(world) == {"a": ["10.1.1.2"], "b": []}
    assert "no free IPv4 address" in world.rejected[0].reason


def test_pods_of_the_hosts_network_have_the_nodes_addresses() -> None:
    world = expand(documents(NODES, pod("a", "{nodeName: n1, hostNetwork: true}")))
    assert placed(world) == [("n1", ["192.168.0.1"], "Running")]
    assert not world.pods[Key("default", "a")].is_endpoint


def test_without_nodes_one_is_invented() -> None:
    world = expand(documents(pod("a"), pod("b")))
    assert placed(world) == [("node", ["10.244.0.2"], "Running"), ("node", ["10.244.0.3"], "Running")]
    assert world.nodes["node"].addresses == (parse_address("192.0.2.2"),)


def test_the_invented_node_has_room_for_a_thousand_pods() -> None:
    world = expand([Document({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{i}"}}) for i in range(1000)])
    assert world.rejected == ()
    assert len({p.addresses for p in world.pods.values()}) == 1000


def test_without_nodes_those_that_pods_mention_are_invented() -> None:
    world = expand(documents(pod("a", "{nodeName: n8}"), pod("b", "{nodeName: n9}")))
    assert placed(world) == [("n8", ["10.244.0.2"], "Running"), ("n9", ["10.244.1.2"], "Running")]


def test_both_families_are_given_where_both_are_wished() -> None:
    world = expand(documents(NODES, pod("a", "{nodeName: n1}")), options=ExpandOptions(families=(Family.V4, Family.V6)))
    assert addresses(world) == {"a": ["10.1.1.2", "fd00:10:244::2"]}
    assert [len(n.addresses) for n in world.nodes.values()] == [2, 2]


def test_services_get_addresses_and_node_ports_and_keep_written_ones() -> None:
    def service(name: str, spec: str) -> str:
        return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n"

    world = expand(
        documents(
            service("a", "{type: NodePort, ports: [{name: p, port: 80}, {name: q, port: 81, nodePort: 30000}]}"),
            service("b", "{clusterIP: 10.96.0.2, ports: [{port: 80}]}"),
            service("c", "{clusterIP: None, ports: [{port: 80}]}"),
        )
    )
    found = {key.name: ([a.text for a in s.cluster_ips], [p.node_port for p in s.ports]) for key, s in world.services.items()}
    assert found == {"a": (["10.96.0.3"], [30001, 30000]), "b": (["10.96.0.2"], [0]), "c": ([], [0])}


def test_namespaces_that_are_only_mentioned_exist() -> None:
    world = expand(documents(pod("a", metadata=", namespace: hidden")))
    assert set(world.namespaces) == {"default", "hidden"}
    assert world.namespaces["hidden"].labels["kubernetes.io/metadata.name"] == "hidden"
    assert world.objects[ObjectId("Namespace", "", "hidden")]["kind"] == "Namespace"


def test_the_later_of_two_equal_objects_counts_and_a_warning_says_so() -> None:
    world = expand(documents(pod("a", "{hostNetwork: true}"), pod("a")))
    assert not world.pods[Key("default", "a")].host_network
    assert [w.reason for w in world.warnings] == ["replaces the same object of f.yaml:1"]


def test_kinds_that_cannot_matter_are_counted_and_unknown_ones_rejected() -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"
    gadget = "apiVersion: example.org/v1\nkind: Gadget\nmetadata: {name: s}\n"
    world = expand(documents(secret, secret, gadget))
    assert world.skipped == {"Secret": 2}
    assert [(r.file, r.line, r.kind) for r in world.rejected] == [("f.yaml", 2, "Gadget")]


def test_a_templates_fault_is_told_once_at_the_workloads_line() -> None:
    spec = "{containers: [{ports: [{containerPort: 99999}]}]}"
    world = expand(documents(NODES, workload("Deployment", ", replicas: 3", spec)))
    assert [r.field for r in world.rejected] == ["spec.template.spec.containers[0].ports[0].containerPort"]
    assert (world.rejected[0].kind, world.rejected[0].name, world.rejected[0].line) == ("Deployment", "w", 4)


def test_a_selector_that_does_not_match_its_own_template_is_told() -> None:
    text = workload("Deployment").replace("matchLabels: {app: w}", "matchLabels: {app: other}")
    assert expand(documents(NODES, text)).rejected[0].field == "spec.selector"


@pytest.mark.parametrize(
    "text",
    [
        pod("a", "text"),
        pod("a", "{nodeSelector: 3}"),
        pod("a", rest="status: 3"),
        pod("a", metadata=", annotations: 3"),
        "apiVersion: v1\nkind: Node\nmetadata: {name: m}\nspec: 3\nstatus: {addresses: 3}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: m}\nspec: 3\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: m}\nspec: {ports: [3]}\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: m}\nspec: 3\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: m}\nspec: {replicas: x, selector: 3, template: {spec: 3}}\n",
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: m}\nspec: {selector: {}, template: {metadata: {labels: 3}}}\n",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: m, labels: 3}\n",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: Upper}\n",
    ],
)
def test_wrong_types_anywhere_are_no_exceptions(text: str) -> None:
    world = expand(documents(text))
    assert all(r.words for r in (*world.rejected, *world.warnings))
    assert to_cluster(world).pods == world.pods
