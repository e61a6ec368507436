"""The two clusters that a scenario can run on: a lab with real packets, and a simulated one.

LabDriver        asks a running (or yet to be started) lab through its client
SimulateDriver   for machines that forbid namespaces: the same objects, compiled and lowered for each node, and packets
                 walked through the rendered restore texts at every node on the way

Excluded: what is applied and expected (`cases`, `scenario`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import Cluster
from netpol_compiler.node import LowerOptions, compile_node
from netpol_compiler.policy.ir import IR
from netpol_compiler.witnesses.restored import ReadBack, node_text, read_back
from netpol_lab.client import LabClient
from netpol_lab.errors import LabError
from netpol_lab.offline.objects import ApiServer, LabState
from netpol_lab.scenarios.cases import Manifest, Seen
from netpol_lab.scenarios.picture import Picture, make_picture, pod_named
from netpol_lab.scenarios.scenario import Check
from netpol_lab.topology.model import Families, NetworkKind
from netpol_lab.topology.twins import with_twin_blocks
from netpol_manifests.world import ObjectId

MAX_LOOKUPS = 8


class LabDriver:
    """Real packets in a lab. One that is not up is started by the first `apply`; ending it is the caller's part."""

    simulated = False

    def __init__(self, client: LabClient, **up: Any) -> None:
        """`up`: what `LabClient.up` takes (network, backend, family, limit, progress)."""
        self._client = client
        self._up = up

    def apply(self, manifests: Sequence[Manifest]) -> None:
        manifests = in_family(manifests, Families(self._up.get("family", Families.IPV4)))
        if self._client.is_up():
            self._client.apply(manifests)
        else:
            self._client.up(manifests, **self._up)

    def delete(self, manifests: Sequence[Manifest]) -> None:
        self._client.delete(manifests)

    def label(self, pod: str, labels: Mapping[str, str | None]) -> None:
        namespace, _, name = pod.partition("/")
        self._client.label("Pod", name, labels, namespace=namespace)

    def labels(self, pod: str) -> Mapping[str, str]:
        return pod_named(self._picture().cluster, pod).labels

    def connect(self, checks: Sequence[Check]) -> list[Seen]:
        """All connections and lookups at once."""
        picture = self._picture()
        asked = [c for c in checks if not c.resolve]
        with ThreadPoolExecutor(MAX_LOOKUPS) as threads:
            lookups = {c: threads.submit(self._client.lookup, c.source.where, c.resolve) for c in checks if c.resolve}
            results = self._client.connect_many([_request(c, picture.version) for c in asked])
            seen = {c: _seen(r) for c, r in zip(asked, results, strict=True)}
            seen |= {c: _looked_up(f.result()) for c, f in lookups.items()}
        return [Seen(*seen[c], decided=picture.decided(c)) for c in checks]

    def _picture(self) -> Picture:
        status = self._client.status()
        return make_picture(self._client.get(), Families(status["family"]), NetworkKind(status["network"]))


def in_family(manifests: Sequence[Manifest], families: Families) -> Sequence[Manifest]:
    """The manifests as they mean the same in a lab of `families`: where pods have IPv6 twins of their addresses, so have
    ipBlocks."""
    return manifests if families is Families.IPV4 else [with_twin_blocks(m) for m in manifests]


def _request(check: Check, version: int) -> dict[str, Any]:
    return {"source": check.source.where, "destination": check.target.where, "port": check.port_text, "family": version}


def _seen(results: list[dict[str, Any]]) -> tuple[str, str]:
    if len(results) != 1:
        return "error", f"{len(results)} results"
    found = results[0]
    return found["verdict"], found["answer"] if found["verdict"] != "error" else found["detail"]


def _looked_up(found: dict[str, Any]) -> tuple[str, str]:
    """A lookup passes when the server answers; the answer is data when it holds an address."""
    if not found["answered"]:
        return "refused", "none"
    return "allowed", "data" if found["addresses"] else "unknown"


class SimulateDriver:
    """No namespaces and no packets: objects are expanded as the lab does it, and walks stand for packets."""

    simulated = True

    def __init__(self, network: str = "host-gw", family: str = "ipv4") -> None:
        self._families, self._kind = Families(family), NetworkKind(network)
        self._folder = tempfile.TemporaryDirectory(prefix="npctl-simulate-")
        self._server = ApiServer(Path(self._folder.name), self._families)
        self._change(self._server.state)

    def close(self) -> None:
        self._folder.cleanup()

    def apply(self, manifests: Sequence[Manifest]) -> None:
        self._change(self._server.with_applied(in_family(manifests, self._families))[0])

    def delete(self, manifests: Sequence[Manifest]) -> None:
        self._change(self._server.with_deleted(manifests)[0])

    def label(self, pod: str, labels: Mapping[str, str | None]) -> None:
        key = pod_named(self._picture.cluster, pod).key
        self._change(self._server.with_labels(ObjectId("Pod", *key), labels))

    def labels(self, pod: str) -> Mapping[str, str]:
        return pod_named(self._picture.cluster, pod).labels

    def connect(self, checks: Sequence[Check]) -> list[Seen]:
        return [self._walk(check) for check in checks]

    def _change(self, state: LabState) -> None:
        self._server.commit(state)
        self._picture = make_picture(state.objects.values(), self._families, self._kind)
        cluster, ir = self._picture.cluster, self._picture.ir
        self._nodes = {n: node_texts(n, cluster, ir, self._families.each) for n in cluster.nodes}

    def _walk(self, check: Check) -> Seen:
        try:
            journey = self._picture.journey(check)
        except LabError as error:
            return Seen("error", str(error))
        decided = self._picture.decided(check)
        for hop in journey.hops:
            if hop.forwarded and not self._nodes[hop.node].passes(hop.connection):
                return Seen("refused", "none", decided)
        return Seen("allowed", "data" if journey.answers else "reset", decided)


def node_texts(node: str, cluster: Cluster, ir: IR, families: tuple[Family, ...]) -> ReadBack:
    """What a node's agent would write, read back."""
    return read_back(node_text(compile_node(node, ir, cluster.pods.values(), LowerOptions(families=families)).ruleset))
