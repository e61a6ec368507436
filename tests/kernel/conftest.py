"""One dual-stack lab for all packet tests of the semantics, and fixtures that leave nothing behind in it.

The pods stay, the policies of a test go with it. Two nodes, so that each point holds for pods side by side and apart:

    namespace a (team=a)    node-a: server (http=8080), client      node-b: server-2 (http=9090), client-2 (tier=gold)
    namespace b (team=b)                                            node-b: server (http=8080), client (tier=gold)
    namespace c             node-a: client
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from textwrap import dedent
from typing import Any

import pytest
import yaml

from netpol_lab.client import LabClient
from packets import Manifest, namespace, node, own_lab_folder, pod, see_packets, service

COMMON = (("", 8081, "TCP"), ("", 8085, "TCP"))
SERVER_PORTS = (("http", 8080, "TCP"), ("other", 9090, "TCP"), ("names", 5353, "UDP"), ("signal", 9999, "SCTP"), *COMMON)
SERVER_2_PORTS = (("other", 8080, "TCP"), ("http", 9090, "TCP"), ("names", 5354, "UDP"), *COMMON)


def base() -> list[Manifest]:
    """What the tests find."""
    server, client = {"app": "server"}, {"app": "client"}
    return [
        node("node-a", ("172.31.7.121", "fd00:172:31:7::121"), ("10.244.1.0/24", "fd00:10:244:1::/64")),
        node("node-b", ("172.31.7.122", "fd00:172:31:7::122"), ("10.244.2.0/24", "fd00:10:244:2::/64")),
        namespace("a", team="a"),
        namespace("b", team="b"),
        namespace("c"),
        pod("a/server", "node-a", server | {"id": "1"}, SERVER_PORTS),
        pod("a/server-2", "node-b", server | {"id": "2"}, SERVER_2_PORTS),
        pod("a/client", "node-a", client),
        pod("a/client-2", "node-b", client | {"tier": "gold"}),
        pod("b/server", "node-b", server, SERVER_PORTS),
        pod("b/client", "node-b", client | {"tier": "gold"}),
        pod("c/client", "node-a", client),
        service("a/server", 80, 8080, 30080, app="server", id="1"),
        service("a/named", 80, "http", 30081, app="server"),
    ]


@contextmanager
def started(name: str, **up: Any) -> Iterator[LabClient]:
    """A lab with the pods that the tests find."""
    client = LabClient(name)
    client.up(base(), **up)
    try:
        yield client
    finally:
        client.down()


@pytest.fixture(scope="session", autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_lab_folder(tmp_path_factory.mktemp("labs")):
        yield


@pytest.fixture(scope="session")
def lab(_own_folder: None) -> Iterator[LabClient]:
    """The lab of most packet tests: dual stack, host-gw, nft."""
    with started("kernel-tests", network="host-gw", backend="nft", family="dual") as client:
        yield client


@pytest.fixture
def own_lab() -> Callable[..., AbstractContextManager[LabClient]]:
    """`with own_lab(**up) as lab`: another lab with the same pods, for what cannot be had in the common one."""
    return lambda **up: started("kernel-tests-own", **up)


@pytest.fixture
def objects(lab: LabClient) -> Iterator[Callable[..., None]]:
    """`objects(manifest, ...)`: there and in force on return, gone after the test."""
    applied: list[Manifest] = []

    def apply(*manifests: Manifest) -> None:
        applied.extend(manifests)
        lab.apply(manifests)

    yield apply
    if applied:
        lab.delete(applied)


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    """`manifest(spec, namespace="a", name="policy")`: a NetworkPolicy; `spec` is YAML."""

    def make(spec: str, namespace: str = "a", name: str = "policy") -> Manifest:
        kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        return {**kind, "metadata": {"namespace": namespace, "name": name}, "spec": yaml.safe_load(dedent(spec))}

    return make


@pytest.fixture
def policy(objects: Callable[..., None], manifest: Callable[..., Manifest]) -> Callable[..., None]:
    """Like `manifest`; the policy is in force on return, gone after the test."""
    return lambda *args, **kwargs: objects(manifest(*args, **kwargs))


@pytest.fixture
def see(lab: LabClient) -> Callable[[str], None]:
    """`see(lines)`: see `packets.see_packets`."""
    return lambda lines: see_packets(lab, lines)
