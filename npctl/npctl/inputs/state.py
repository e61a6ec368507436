"""What the commands look at: the world that manifests make, or a cluster (`live`), compiled.

    -f PATH... --files.read--> documents --workloads.expand--> World --to_cluster--> Cluster --compile--> IR --> Judge

In: paths. Out: `State`. Bad input of any file ends the command with every line that is wrong; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Protocol
from netpol_compiler.model.objects import Cluster, Key, Pod, Policy, Rejected
from netpol_compiler.policy.ir import IR
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.policy.verdict import Judge, holders
from netpol_compiler.reading.objects import parse_policy
from netpol_manifests.documents import Document
from netpol_manifests.services import Service, endpoints
from netpol_manifests.world import World, expand, to_cluster
from npctl.errors import bad_input
from npctl.inputs.files import Documents, read, replaced_lines
from npctl.output import warn

_POLICY = "NetworkPolicy"


class Endpoints(NamedTuple):
    """One port of a Service, and the pods and port numbers that it leads to."""

    name: str
    protocol: Protocol
    port: int
    endpoints: tuple[tuple[Pod, int], ...]


@dataclass(frozen=True)
class State:
    """A compiled world; what is expensive is made when it is first asked for."""

    documents: Documents
    world: World
    cluster: Cluster
    owned: Mapping[Key, tuple[str, str]] | None = None
    """(kind, name) of each pod's workload, where the cluster itself told; None: from files."""

    @property
    def sources(self) -> str:
        return self.documents.sources

    @property
    def remedy(self) -> str:
        """What to do about something that is not there."""
        if self.owned is not None:
            return f"nothing like it in {self.sources}; --context chooses another cluster, -f files"
        return f"nothing like it in {self.sources}; name the files with -f"

    @cached_property
    def ir(self) -> IR:
        return compile_cluster(self.cluster)

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.ir, self.cluster)

    @cached_property
    def holders(self) -> dict[Address, Pod]:
        """The pod that has each address."""
        return holders(self.cluster.pods.values())

    @cached_property
    def owners(self) -> Mapping[Key, tuple[str, str]]:
        """(kind, name) of the workload in whose manifest a pod's template was written; pods of their own are left out."""
        if self.owned is not None:
            return self.owned
        return {
            Key(oid.namespace, oid.name): (document.kind, document.name)
            for oid, document in self.world.documents.items()
            if oid.kind == "Pod" and document.kind != "Pod"
        }

    @property
    def namespaces(self) -> Mapping[str, object]:
        return self.cluster.namespaces

    @property
    def nodes(self) -> frozenset[str]:
        """Names of the nodes that exist or that a pod runs on."""
        return frozenset(self.cluster.nodes) | {p.node for p in self.cluster.pods.values() if p.node}

    @property
    def services(self) -> Mapping[Key, Service]:
        return self.world.services

    def service_ports(self, key: Key) -> list[Endpoints]:
        """Each port of a Service with where it leads; a pod is there once, whatever the number of its addresses."""
        found = []
        for port, ends in endpoints(self.services[key], self.cluster.pods.values()).items():
            pairs = dict.fromkeys((self.cluster.pods[e.pod], e.port) for e in ends)
            found.append(Endpoints(port.name, port.protocol, port.port, tuple(pairs)))
        return found

    def node_port_services(self, pod: Pod) -> list[Key]:
        """The Services with node ports that lead to `pod` and do not keep the client's address."""
        return [
            key
            for key, s in sorted(self.services.items())
            if s.has_node_ports
            and s.external_traffic_policy != "Local"
            and key.namespace == pod.key.namespace
            and s.selector is not None
            and s.selector.matches(pod.labels)
        ]

    def policy_documents(self) -> Iterator[tuple[Document, Policy]]:
        """Every policy that counts, with the document it was written in."""
        for oid, document in self.world.documents.items():
            policy = self.cluster.policies.get(Key(oid.namespace, oid.name)) if oid.kind == _POLICY else None
            if policy is not None:
                yield document, policy

    def with_policy(self, document: Document) -> tuple[State, Policy | None]:
        """The state in which the policy of `document` counts in place of the one of its name."""
        policy, _ = parse_policy(document.data)
        if policy is None:
            return self, None
        c = self.cluster
        return self.with_cluster(replace(c, policies={**c.policies, policy.key: policy})), policy

    def with_cluster(self, cluster: Cluster) -> State:
        """The same documents and Services, with other objects in the cluster."""
        return State(self.documents, self.world, cluster, self.owned)


def load(paths: list[str], *, tolerant: bool = False, quiet: bool = False) -> State:
    """Read and expand `paths`. `tolerant`: parts of policies that are not understood are no error here (lint reports them).

    `quiet`: do not say which objects were replaced by later ones.
    """
    documents = read(paths)
    world = expand(documents.current.values())
    rejected = list(world.rejected)
    for old, _ in documents.replaced:
        rejected += _faults(old)
    if tolerant:
        rejected = [r for r in rejected if not _is_part_of_policy(r)]
    if rejected:
        ordered = sorted(rejected, key=_place)
        raise bad_input(ordered)
    if not quiet:
        for line in [*replaced_lines(documents), *(w.words for w in world.warnings)]:
            warn(line)
    return State(documents, world, to_cluster(world))


def _place(rejected: Rejected) -> tuple[str, int]:
    return rejected.file, rejected.line


def _is_part_of_policy(rejected: Rejected) -> bool:
    """A fault inside a policy that has an identity, so that the policy is there and isolates."""
    return rejected.kind == _POLICY and rejected.path[:1] not in (("metadata",), ("apiVersion",), ("kind",))


def _faults(document: Document) -> list[Rejected]:
    """What is wrong with a policy that a later one replaces: it was written, so it is told."""
    from netpol_compiler.reading.objects import locate

    if document.kind != _POLICY:
        return []
    return [locate(r, document) for r in parse_policy(document.data)[1]]
