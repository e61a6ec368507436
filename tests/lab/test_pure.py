"""The lab's parts without effects: texts, names, addresses and packets' bytes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from dnslib import RCODE, DNSRecord

from netpol_compiler.model.addresses import parse_address, parse_network
from netpol_compiler.model.kinds import Family, Protocol
from netpol_compiler.model.objects import Key
from netpol_lab import machine, protocol
from netpol_lab.errors import LabError
from netpol_lab.network import dns, kube_proxy, wiring
from netpol_lab.topology.model import EndpointAddress, LabNode, LabPod, LabService, NetworkKind, ServicePort, Topology
from netpol_lab.topology.twins import twin_address, twin_network, with_twin_blocks
from netpol_lab.traffic import probe, sctp

NODES = {
    name: LabNode(name, (parse_address(address),), (parse_network(block)[0],))
    for name, address, block in (("one", "172.31.7.111", "10.200.36.0/24"), ("two", "172.31.7.112", "10.200.37.0/24"))
}


def topology(*ends: tuple[str, int, str], node_port: int = 0, local: bool = False) -> Topology:
    places = tuple(EndpointAddress(parse_address(a), port, node) for a, port, node in ends)
    ports = (ServicePort("http", Protocol.TCP, 80, node_port, places),)
    web = LabService(Key("python", "web"), (parse_address("10.96.0.7"),), ports, local)
    return Topology(NODES, {}, {}, {web.key: web})


def rules(text: str, chain: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"-A {chain}")]


def test_crc32c_is_the_published_one() -> None:
    assert sctp.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("chunk", [sctp.INIT, sctp.INIT_ACK, sctp.ABORT])
def test_sctp_packets_survive_their_bytes_and_broken_ones_do_not(chunk: int) -> None:
    packet = sctp.Packet(40000, 99, 7, chunk, 0 if chunk == sctp.ABORT else 12345)
    data = sctp.encode(packet)
    assert sctp.decode(data) == packet
    assert len(data) % 4 == 0
    for place in range(len(data)):
        assert sctp.decode(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) is None
    assert sctp.decode(data[:11]) is None


@pytest.mark.parametrize(
    ("given", "twin"),
    [("10.200.36.67", "fd00:10:200:36::67"), ("172.31.7.113", "fd00:172:31:7::113"), ("fd00::1", "fd00::1")],
)
def test_twin_addresses_keep_their_digits(given: str, twin: str) -> None:
    assert twin_address(parse_address(given)).text == twin


@pytest.mark.parametrize(
    ("given", "twin"),
    [
        ("10.200.36.0/24", "fd00:10:200:36::/64"),
        ("10.200.0.0/16", "fd00:10:200::/48"),
        ("10.200.36.67/32", "fd00:10:200:36::67/128"),
        ("0.0.0.0/0", "::/0"),
    ],
)
def test_twin_blocks_hold_the_twins_of_their_addresses(given: str, twin: str) -> None:
    block = twin_network(parse_network(given)[0])
    assert block.text == twin
    assert block.contains(twin_address(parse_address(given.partition("/")[0])))


def test_a_block_of_odd_length_has_no_twin() -> None:
    with pytest.raises(ValueError, match="no IPv6 twin"):
        twin_network(parse_network("10.200.36.128/25")[0])


def test_a_policys_blocks_get_their_twins_beside_them() -> None:
    block = {"cidr": "10.200.0.0/16", "except": ["10.200.219.0/24", "10.200.36.67/32"]}
    twin = {"cidr": "fd00:10:200::/48", "except": ["fd00:10:200:219::/64", "fd00:10:200:36::67/128"]}
    pods, odd = {"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/13"}}
    spec = {"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}, pods, odd]}, {}], "egress": [{"to": [pods]}]}
    policy = {"kind": "NetworkPolicy", "metadata": {"name": "a"}, "spec": spec}
    peers = [{"ipBlock": block}, {"ipBlock": twin}, pods, odd]
    assert with_twin_blocks(policy) == {**policy, "spec": {**spec, "ingress": [{"from": peers}, {}]}}
    assert with_twin_blocks({"kind": "Pod", "spec": spec}) == {"kind": "Pod", "spec": spec}


def test_the_pod_network_is_the_octet_aligned_block_around_all_nodes() -> None:
    assert [n.text for n in topology().pod_networks(Family.V4)] == ["10.200.0.0/16"]
    assert topology().pod_networks(Family.V6) == ()


def test_several_endpoints_are_chosen_evenly() -> None:
    ends = (("10.200.36.2", 8080, "one"), ("10.200.36.3", 8080, "one"), ("10.200.37.2", 8080, "two"))
    text, _ = kube_proxy.service_rules(topology(*ends), "one", Family.V4)
    chain = kube_proxy.chain_name("KUBE-SVC", "python/web", "http", "tcp")
    chances = [line.partition("--probability ")[2].partition(" ")[0] for line in rules(text, chain)[1:]]
    assert chances == ["0.3333333333", "0.5000000000", ""]
    assert "-j DNAT --to-destination 10.200.37.2:8080" in text


def test_a_local_node_port_has_only_the_nodes_own_endpoints() -> None:
    ends = (("10.200.36.2", 8080, "one"), ("10.200.37.2", 8080, "two"))
    text, chains = kube_proxy.service_rules(topology(*ends, node_port=30015, local=True), "two", Family.V4)
    local = next(c for c in chains if c.startswith("KUBE-SVL"))
    assert [r.partition("-> ")[2].partition('"')[0] for r in rules(text, local)] == ["10.200.37.2:8080"]
    far, far_chains = kube_proxy.service_rules(topology(ends[0], node_port=30015, local=True), "two", Family.V4)
    assert not any(c.startswith("KUBE-SVL") for c in far_chains)
    assert "KUBE-EXT" in far


def test_a_service_without_endpoints_is_rejected_and_its_old_chains_go() -> None:
    _, chains = kube_proxy.service_rules(topology(("10.200.36.2", 8080, "one")), "one", Family.V4)
    text, _ = kube_proxy.service_rules(topology(), "one", Family.V4, stale=chains)
    assert '--dport 80 -m comment --comment "python/web:http has no endpoints" -j REJECT' in text
    gone = sorted(c for c in chains if c.startswith(("KUBE-SVC", "KUBE-SEP")))
    assert sorted(line.removeprefix("-X ") for line in text.splitlines() if line.startswith("-X")) == gone


@pytest.mark.parametrize("kind", list(NetworkKind))
def test_a_pod_off_its_nodes_block_gets_a_route_on_every_node(kind: NetworkKind) -> None:
    stray = LabPod(Key("a", "b"), "one", (parse_address("10.200.99.5"),))
    device = stray.device if kind is NetworkKind.ROUTED else "cni0"
    assert wiring.stray_routes(stray, NODES.values(), kind) == {
        "one": [f"route replace 10.200.99.5/32 dev {device}"],
        "two": ["route replace 10.200.99.5/32 via 172.31.7.111"],
    }
    at_home = LabPod(Key("a", "c"), "one", (parse_address("10.200.36.5"),))
    assert wiring.stray_routes(at_home, NODES.values(), kind) == {}
    assert wiring.stray_routes(replace(stray, host_network=True), NODES.values(), kind) == {}


def test_vxlan_learns_nothing_and_is_told_everything() -> None:
    ip_lines, bridge_lines = wiring.peer_lines([NODES["two"]], NetworkKind.VXLAN)
    mac = wiring.vxlan_mac(NODES["two"], Family.V4)
    assert ip_lines == [
        f"neigh replace 10.200.37.0 lladdr {mac} dev flannel.1 nud permanent",
        "route replace 10.200.37.0/24 via 10.200.37.0 dev flannel.1 onlink",
    ]
    assert bridge_lines == [f"fdb replace {mac} dev flannel.1 dst 172.31.7.112 self permanent"]


@pytest.mark.parametrize(
    ("text", "port"),
    [("8080", "8080/tcp"), ("53/UDP", "53/udp"), ("99/sctp", "99/sctp"), ("ICMP", "icmp")],
)
def test_ports_are_read(text: str, port: str) -> None:
    assert str(probe.parse_port(text)) == port


@pytest.mark.parametrize("text", ["", "http", "0", "65536/tcp", "80/gre", "-1", "80/tcp/udp", "\u0663/tcp"])
def test_wrong_ports_are_refused(text: str) -> None:
    with pytest.raises(LabError, match="is not a port"):
        probe.parse_port(text)


def test_dns_answers_by_kind_and_says_what_does_not_exist() -> None:
    names = {"web.python.svc.magedu.local": (parse_address("10.96.0.7"), parse_address("fd00::7"))}

    def ask(name: str, kind: str) -> tuple[int, list[str]]:
        reply = DNSRecord.parse(dns.answer(DNSRecord.question(name, kind).pack(), names))
        return reply.header.rcode, [str(r.rdata) for r in reply.rr]

    assert ask("WEB.python.svc.magedu.local", "A") == (RCODE.NOERROR, ["10.96.0.7"])
    assert ask("web.python.svc.magedu.local", "AAAA") == (RCODE.NOERROR, ["fd00::7"])
    assert ask("web.python.svc.magedu.local", "TXT") == (RCODE.NOERROR, [])
    assert ask("other.python.svc.magedu.local", "A") == (RCODE.NXDOMAIN, [])
    assert dns.answer(b"nonsense", names) is None


def test_a_long_request_and_its_files_arrive_whole() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/dev/null", "rb") as file:
        protocol.send(ours, {"op": "apply", "objects": ["x" * 50_000]}, [file.fileno()])
        request, descriptors = protocol.receive_request(theirs)
        assert len(request["objects"][0]) == 50_000
        assert len(descriptors) == 1
        os.close(descriptors[0])


def test_missing_programs_are_named_with_their_packages(which: Callable[[str], None]) -> None:
    which("ipset")
    with pytest.raises(LabError, match="the lab needs ipset: install ipset"):
        machine.require_programs()


@pytest.fixture
def which(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes one program look as if it were not installed."""

    def hide(name: str) -> None:
        monkeypatch.setattr(machine, "_which", lambda program: None if program == name else f"/usr/sbin/{program}")

    return hide


def test_pods_of_nodes_whose_blocks_lie_far_apart_keep_their_addresses() -> None:
    far = {
        name: LabNode(name, (parse_address(address),), (parse_network(block)[0],))
        for name, address, block in (("one", "172.31.7.111", "10.200.36.0/24"), ("two", "172.31.7.112", "10.77.1.0/24"))
    }
    rules = wiring.masquerade_rules(far["two"], Topology(far, {}, {}, {}), Family.V4).splitlines()
    first_masquerade = next(i for i, rule in enumerate(rules) if "MASQUERADE" in rule)
    for source, target in (("10.200.0.0/16", "10.77.0.0/16"), ("10.77.0.0/16", "10.200.0.0/16")):
        assert rules.index(f"-A FLANNEL-POSTRTG -s {source} -d {target} -j RETURN") < first_masquerade
