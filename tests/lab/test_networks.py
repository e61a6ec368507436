"""Every network, family and backend carries real packets as a cluster's would, before any policy."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from netpol_lab.client import LabClient

pytestmark = pytest.mark.kernel

NETWORKS = ("host-gw", "vxlan", "routed")
FAMILIES = ("ipv4", "ipv6", "dual")
BACKENDS = ("nft", "legacy")


@pytest.fixture(scope="module", params=list(product(NETWORKS, FAMILIES, BACKENDS)), ids="-".join)
def lab(request: pytest.FixtureRequest, lab_folder: Path, cluster: list[dict[str, Any]]) -> Iterator[LabClient]:
    network, family, backend = request.param
    client = LabClient("nets")
    client.up(cluster, network=network, family=family, backend=backend, agents=False)
    yield client
    client.down()


def answers(lab: LabClient, source: str, destination: str, port: str | None = None) -> set[tuple[str, str]]:
    return {(r["answer"], r["answered"]) for r in lab.connect(source, destination, port)}


def peers(lab: LabClient, source: str, destination: str, port: str) -> set[str]:
    return {r["peer"] for r in lab.connect(source, destination, port)}


def addresses(lab: LabClient, kind: str, name: str) -> set[str]:
    return {a for item in lab.status()[kind] if item["name"] == name for a in item["addresses"]}


def test_all_pods_reach_all_ports_of_all_pods(lab: LabClient) -> None:
    rows = lab.matrix()
    assert rows
    assert [r for r in rows if (r["verdict"], r["answer"]) != ("allowed", "data")] == []
    assert all(r["answered"] in (r["destination"], "") for r in rows)


def test_pod_source_addresses_are_kept_across_nodes(lab: LabClient) -> None:
    assert peers(lab, "linux/client", "python/tomcat-1", "8080/tcp") == addresses(lab, "pods", "client")


def test_cluster_address_reaches_every_endpoint(lab: LabClient) -> None:
    tries = [{"source": "linux/client", "destination": "svc/python/tomcat", "port": "80/tcp"}] * 40
    seen = {row["answered"] for rows in lab.connect_many(tries) for row in rows}
    assert seen == {"python/tomcat-1", "python/tomcat-2"}


def test_pod_reaches_itself_through_its_service(lab: LabClient) -> None:
    assert answers(lab, "python/lone", "svc/python/lone", "80/tcp") == {("data", "python/lone")}


def test_node_port_from_outside_shows_the_node(lab: LabClient) -> None:
    # Node 112 has no endpoint of this service: the packet crosses to node 111 with 112's address (masqueraded).
    assert answers(lab, "host/outside", "node/172.31.7.112", "30016/tcp") == {("data", "python/lone")}
    seen = peers(lab, "host/outside", "node/172.31.7.112", "30016/tcp")
    assert seen.isdisjoint(addresses(lab, "hosts", "outside"))


def test_local_node_port_keeps_the_source_and_serves_only_its_node(lab: LabClient) -> None:
    assert peers(lab, "host/outside", "node/172.31.7.111", "30017/tcp") == addresses(lab, "hosts", "outside")
    assert answers(lab, "host/outside", "node/172.31.7.112", "30017/tcp") != {("data", "python/lone")}


def test_service_without_endpoints_resets(lab: LabClient) -> None:
    assert answers(lab, "linux/client", "svc/python/empty", "80/tcp") == {("reset", "")}


def test_outside_host_reaches_pods_by_their_addresses(lab: LabClient) -> None:
    assert peers(lab, "host/outside", "python/tomcat-2", "8080/tcp") == addresses(lab, "hosts", "outside")


def test_machines_answer_to_the_address_in_the_yaml(lab: LabClient) -> None:
    # With IPv6 only, 172.31.7.109 has no such address, and is still what people call it.
    assert answers(lab, "host/172.31.7.109", "python/tomcat-2", "8080/tcp") == {("data", "python/tomcat-2")}
    assert answers(lab, "linux/client", "host/203.0.113.10", "80/tcp") == {("data", "host/outside")}


def test_pods_leave_the_pod_network_with_their_nodes_address(lab: LabClient) -> None:
    assert peers(lab, "linux/client", "host/outside", "80/tcp") == addresses(lab, "nodes", "172.31.7.112")


def test_names_resolve_and_lead_somewhere(lab: LabClient) -> None:
    assert answers(lab, "python/lone", "tomcat", "80/tcp") <= {("data", "python/tomcat-1"), ("data", "python/tomcat-2")}
    assert answers(lab, "linux/client", "lone.python.svc.magedu.local", "80/tcp") == {("data", "python/lone")}
    assert answers(lab, "linux/client", "www.example.com", "80/tcp") == {("data", "host/outside")}
    assert lab.lookup("linux/client", "no-such-name")["answered"] is True
    assert lab.lookup("linux/client", "no-such-name")["addresses"] == []


def test_host_network_pod_listens_on_its_nodes_address(lab: LabClient) -> None:
    assert answers(lab, "python/lone", "node/172.31.7.112", "9100/tcp") == {("data", "linux/hosty")}
    assert answers(lab, "python/lone", "linux/hosty", "9100/tcp") == {("data", "linux/hosty")}


def test_nodes_reach_pods_and_pods_their_node(lab: LabClient) -> None:
    for name in ("172.31.7.111", "172.31.7.112"):
        assert answers(lab, f"node/{name}", "python/tomcat-1", "8080/tcp") == {("data", "python/tomcat-1")}
        assert answers(lab, "python/tomcat-1", f"node/{name}", "icmp") == {("data", "")}


def test_answers_tell_data_from_reset_from_none(lab: LabClient) -> None:
    for port, wanted in (("8080/tcp", "data"), ("8081/tcp", "reset"), ("5353/udp", "data"), ("5354/udp", "reset"),
                         ("99/sctp", "data"), ("98/sctp", "reset"), ("icmp", "data")):  # fmt: skip
        rows = lab.connect("linux/client", "python/tomcat-1", port)
        assert {(r["verdict"], r["answer"]) for r in rows} == {("allowed", wanted)}, port


def test_dropped_packets_are_refused(lab: LabClient) -> None:
    backend = lab.status()["backend"]
    for tables in ("iptables", "ip6tables"):
        if lab.status()["family"] in ("dual", "ipv4" if tables == "iptables" else "ipv6"):
            assert lab.exec("node/172.31.7.111", [f"{tables}-{backend}", "-w", "-I", "FORWARD", "-j", "DROP"]) == 0
    try:
        ports = ("8080/tcp", "5353/udp", "99/sctp", "icmp")
        rows = [r for p in ports for r in lab.connect("linux/client", "python/tomcat-1", p, limit=0.3)]
        assert {(r["verdict"], r["answer"]) for r in rows} == {("refused", "none")}
    finally:
        for tables in ("iptables", "ip6tables"):
            if lab.status()["family"] in ("dual", "ipv4" if tables == "iptables" else "ipv6"):
                assert lab.exec("node/172.31.7.111", [f"{tables}-{backend}", "-w", "-D", "FORWARD", "1"]) == 0
