"""One dual-stack lab for all packet tests, and two fixtures: `policy` puts policies in force, `see` sends packets.

The pods stay, the policies of a test go with it. Two nodes, so that each point holds for pods side by side and apart:

    namespace a (team=a)    node-a: server (http=8080), client      node-b: server-2 (http=9090), client-2 (tier=gold)
    namespace b (team=b)                                            node-b: server (http=8080), client
    namespace c             node-a: client
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from netpol_lab.client import LabClient, can_run

NODES = {
    "node-a": ("172.31.7.121", "fd00:172:31:7::121", "10.244.1.0/24", "fd00:10:244:1::/64"),
    "node-b": ("172.31.7.122", "fd00:172:31:7::122", "10.244.2.0/24", "fd00:10:244:2::/64"),
}
BOTH, IPV4, IPV6 = (4, 6), (4,), (6,)

SERVER_PORTS = (("http", 8080, "TCP"), ("other", 9090, "TCP"), ("", 8081, "TCP"), ("", 8085, "TCP"), ("names", 5353, "UDP"), ("signal", 9999, "SCTP"))
SERVER_2_PORTS = (("other", 8080, "TCP"), ("http", 9090, "TCP"), ("", 8081, "TCP"), ("", 8085, "TCP"), ("names", 5354, "UDP"))

Manifest = Mapping[str, Any]
_LINE = re.compile(r"(\S+) +-> +(\S+) +(\S+) +(allowed|refused)(?: +(ipv4|ipv6))?(?: +#.*)?")


def node(name: str) -> Manifest:
    v4, v6, block4, block6 = NODES[name]
    addresses = [{"type": "InternalIP", "address": a} for a in (v4, v6)]
    spec = {"podCIDR": block4, "podCIDRs": [block4, block6]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec, "status": {"addresses": addresses}}


def namespace(name: str, **labels: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(
    namespace: str, name: str, on: str, labels: Mapping[str, str], ports: tuple[tuple[str, int, str], ...] = (), **spec: Any
) -> dict[str, Any]:
    """A Pod; `ports` are (name, number, protocol)."""
    listed = [{"containerPort": n, "protocol": p} | ({"name": name} if name else {}) for name, n, p in ports]
    container = {"name": "main", "image": "nginx:1.28", "ports": listed}
    metadata = {"namespace": namespace, "name": name, "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": on, "containers": [container], **spec}}


def service(name: str, port: int, target: int | str, node_port: int, **selector: str) -> Manifest:
    spec = {
        "type": "NodePort",
        "ipFamilyPolicy": "PreferDualStack",
        "selector": selector,
        "ports": [{"port": port, "targetPort": target, "nodePort": node_port, "protocol": "TCP"}],
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": name}, "spec": spec}


def base() -> list[Manifest]:
    """What the tests find."""
    server, client = {"app": "server"}, {"app": "client"}
    return [
        *map(node, NODES),
        namespace("a", team="a"),
        namespace("b", team="b"),
        namespace("c"),
        pod("a", "server", "node-a", server | {"id": "1"}, SERVER_PORTS),
        pod("a", "server-2", "node-b", server | {"id": "2"}, SERVER_2_PORTS),
        pod("a", "client", "node-a", client),
        pod("a", "client-2", "node-b", client | {"tier": "gold"}),
        pod("b", "server", "node-b", server, SERVER_PORTS),
        pod("b", "client", "node-b", client | {"tier": "gold"}),
        pod("c", "client", "node-a", client),
        service("server", 80, 8080, 30080, app="server", id="1"),
        service("named", 80, "http", 30081, app="server"),
    ]


@pytest.fixture(scope="session")
def lab() -> Iterator[LabClient]:
    """The lab of all packet tests: dual stack, host-gw, nft."""
    reason = can_run()
    if reason is not None:
        pytest.skip(f"no lab here: {reason}")
    client = LabClient("kernel-tests")
    client.down()
    client.up(base(), network="host-gw", backend="nft", family="dual")
    try:
        yield client
    finally:
        client.down()


Policy = Callable[..., Manifest]


@pytest.fixture
def policy(lab: LabClient) -> Iterator[Policy]:
    """`policy(spec, namespace="a", name="policy")`: in force on return, gone after the test. `spec` is YAML."""
    applied: list[Manifest] = []

    def apply(spec: str, namespace: str = "a", name: str = "policy") -> Manifest:
        metadata = {"namespace": namespace, "name": name}
        manifest = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": yaml.safe_load(spec)}
        applied.append(manifest)
        lab.apply([manifest])
        return manifest

    yield apply
    if applied:
        lab.delete(applied)


@pytest.fixture
def objects(lab: LabClient) -> Iterator[Callable[..., None]]:
    """`objects(manifest, ...)`: there on return, gone after the test."""
    applied: list[Manifest] = []

    def apply(*manifests: Manifest) -> None:
        applied.extend(manifests)
        lab.apply(manifests)

    yield apply
    if applied:
        lab.delete(applied)


See = Callable[[str], None]


@pytest.fixture
def see(lab: LabClient) -> See:
    """`see(lines)` sends all packets at once and compares. A line: SOURCE -> TARGET PORT allowed|refused [ipv4|ipv6]."""
    return lambda lines: see_packets(lab, lines)


def see_packets(lab: LabClient, lines: str) -> None:
    wanted: list[tuple[str, dict[str, Any], str]] = []
    for line in filter(None, map(str.strip, lines.splitlines())):
        found = _LINE.fullmatch(line)
        assert found, f"not a line of packets: {line}"
        source, target, port, expected, only = found.groups()
        families = {None: BOTH, "ipv4": IPV4, "ipv6": IPV6}[only]
        wanted += [(line, {"source": source, "destination": target, "port": port, "family": f}, expected) for f in families]
    seen = lab.connect_many([connection for _, connection, _ in wanted])
    wrong = []
    for (line, connection, expected), results in zip(wanted, seen, strict=True):
        verdicts = [r["verdict"] for r in results]
        if verdicts != [expected]:
            wrong.append(f"{line}: IPv{connection['family']} saw {verdicts or 'nothing'} {[r['detail'] for r in results]}")
    assert not wrong, "\n" + "\n".join(wrong)
