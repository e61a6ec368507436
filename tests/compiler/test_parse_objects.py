"""Pods, namespaces, nodes and Services at the border."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from netpol_compiler.model.addresses import parse_address, parse_network
from netpol_compiler.model.kinds import Protocol
from netpol_compiler.model.objects import ContainerPort, Key, Pod, Rejected
from netpol_compiler.reading.objects import parse_namespace, parse_node, parse_pod
from netpol_manifests.services import Service, ServicePort, endpoints, parse_service

TCP, UDP = Protocol.TCP, Protocol.UDP


def pod(text: str) -> tuple[Pod, tuple[Rejected, ...]]:
    data: dict[str, Any] = {"metadata": {"name": "a"}, **yaml.safe_load(text)}
    value, rejected = parse_pod(data)
    assert value is not None
    return value, rejected


def service(spec: str) -> tuple[Service, tuple[Rejected, ...]]:
    value, rejected = parse_service({"metadata": {"name": "s"}, "spec": yaml.safe_load(spec)})
    assert value is not None
    return value, rejected


def test_a_namespace_always_carries_its_name_as_a_label() -> None:
    value, rejected = parse_namespace({"metadata": {"name": "n", "labels": {"a": "b", "kubernetes.io/metadata.name": "forged"}}})
    assert value is not None
    assert dict(value.labels) == {"a": "b", "kubernetes.io/metadata.name": "n"}
    assert rejected == ()


@pytest.mark.parametrize(
    ("status", "addresses", "phase"),
    [
        ("{podIP: 10.0.0.1}", ["10.0.0.1"], "Running"),
        ("{podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}", ["10.0.0.1", "fd00::1"], "Running"),
        ("{podIPs: [{ip: 'fd00:0::0:1'}]}", ["fd00::1"], "Running"),
        ("{}", [], "Pending"),
        ("{phase: Succeeded, podIP: 10.0.0.1}", ["10.0.0.1"], "Succeeded"),
        ("null", [], "Pending"),
    ],
)
def test_a_pods_addresses_and_phase(status: str, addresses: list[str], phase: str) -> None:
    value, rejected = pod(f"status: {status}")
    assert ([a.text for a in value.addresses], value.phase) == (addresses, phase)
    assert rejected == ()


def test_a_bad_address_is_left_out_and_told() -> None:
    value, rejected = pod("status: {podIPs: [{ip: 10.0.0.256}, {ip: 10.0.0.2}]}")
    assert [a.text for a in value.addresses] == ["10.0.0.2"]
    assert rejected[0].field == "status.podIPs[0].ip"


def test_ports_of_containers_and_sidecars_count_and_those_of_init_containers_do_not() -> None:
    containers = "containers: [{ports: [{containerPort: 80, name: http}, {containerPort: 53, protocol: UDP}]}, {ports: null}]"
    inits = "initContainers: [{restartPolicy: Always, ports: [{containerPort: 15001}]}, {ports: [{containerPort: 9}]}]"
    value, rejected = pod(f"spec: {{{containers}, {inits}}}")
    assert value.ports == (ContainerPort("http", TCP, 80), ContainerPort("", UDP, 53), ContainerPort("", TCP, 15001))
    assert rejected == ()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("spec: {containers: [{ports: [{containerPort: 0}]}]}", "spec.containers[0].ports[0].containerPort"),
        ("spec: {containers: [{ports: [{containerPort: 80, name: Not_A_Name}]}]}", "spec.containers[0].ports[0].name"),
        ("spec: {containers: [{ports: [{containerPort: 80, protocol: icmp}]}]}", "spec.containers[0].ports[0].protocol"),
        ("spec: {containers: [text]}", "spec.containers[0]"),
        ("spec: {containers: {}}", "spec.containers"),
        ("spec: {hostNetwork: 'yes'}", "spec.hostNetwork"),
        ("spec: text", "spec"),
        ("status: {phase: Sleeping}", "status.phase"),
        ("status: {podIPs: 10.0.0.1}", "status.podIPs"),
        ("metadata: {name: a, labels: {a: 1}}", "metadata.labels.a"),
        ("metadata: {name: a, labels: {schlüssel: x}}", "metadata.labels.schlüssel"),
        ("metadata: {name: a, labels: [a]}", "metadata.labels"),
    ],
)
def test_what_a_pod_says_wrongly_is_told_and_the_pod_stands(text: str, field: str) -> None:
    _, rejected = pod(text)
    assert [r.field for r in rejected] == [field]


def test_a_nodes_internal_addresses_and_blocks() -> None:
    spec = {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]}
    addresses = [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "192.0.2.1"}]
    value, rejected = parse_node({"metadata": {"name": "n"}, "spec": spec, "status": {"addresses": addresses}})
    assert value is not None
    assert value.addresses == (parse_address("192.0.2.1"),)
    assert value.pod_cidrs == (parse_network("10.0.0.0/24")[0], parse_network("fd00::/64")[0])
    assert value.labels["kubernetes.io/hostname"] == "n"
    assert rejected == ()


def test_a_services_ports_default_to_tcp_and_the_same_target() -> None:
    ports = "[{name: a, port: 80, targetPort: http, nodePort: 30080}, {name: b, port: 53, protocol: UDP}]"
    value, rejected = service(f"{{type: NodePort, clusterIP: 10.96.0.5, selector: {{a: b}}, ports: {ports}}}")
    assert value.ports == (ServicePort("a", TCP, 80, "http", 30080), ServicePort("b", UDP, 53, 53, 0))
    assert value.cluster_ips == (parse_address("10.96.0.5"),)
    assert (value.external_traffic_policy, value.has_node_ports, value.headless) == ("Cluster", True, False)
    assert rejected == ()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("{type: Nodeport}", "spec.type"),
        ("{clusterIP: x}", "spec.clusterIP"),
        ("{ports: [{port: 0}]}", "spec.ports[0].port"),
        ("{ports: [{port: 80, targetPort: '80'}]}", "spec.ports[0].targetPort"),
        ("{ports: [{port: 80, nodePort: 70000}]}", "spec.ports[0].nodePort"),
        ("{ports: [{port: 80, name: a}, {port: 80, name: b}]}", "spec.ports"),
        ("{ports: [{port: 80}, {port: 81, name: b}]}", "spec.ports"),
        ("{selector: [a]}", "spec.selector"),
    ],
)
def test_what_a_service_says_wrongly_is_told(spec: str, field: str) -> None:
    assert [r.field for r in service(spec)[1]] == [field]


def test_a_named_target_port_is_resolved_for_each_pod() -> None:
    def one(name: str, port: int, port_name: str, **fields: Any) -> Pod:
        address = (parse_address(f"10.0.0.{port % 250}"),)
        return Pod(Key("default", name), "", labels, addresses=address, ports=(ContainerPort(port_name, TCP, port),), **fields)

    labels = pod("metadata: {name: a, labels: {a: b}}")[0].labels
    value, _ = service("{selector: {a: b}, ports: [{port: 80, targetPort: web}]}")
    pods = [one("p", 8080, "web"), one("q", 9090, "web"), one("r", 7070, "other"), one("s", 6060, "web", phase="Succeeded")]
    found = endpoints(value, pods)[value.ports[0]]
    assert [(e.pod.name, e.port) for e in found] == [("p", 8080), ("q", 9090)]


def test_a_service_without_a_selector_leads_nowhere_by_itself() -> None:
    value, _ = service("{ports: [{port: 80}]}")
    assert endpoints(value, []) == {value.ports[0]: ()}
