"""A lab's objects as the compiler sees them, and the words for what decides one connection.

In: objects as the lab's store holds them (pods with node and addresses). Out: cluster, topology, IR, journeys, and
sentences. Used beside real packets for the words only; the simulated lab takes its packets' ways from here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.objects import Cluster, Key, Pod
from netpol_compiler.policy.ir import IR
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.policy.verdict import Judge, Reason, SideVerdict
from netpol_compiler.reading.objects import parse_namespace, parse_node, parse_pod, parse_policy
from netpol_lab.errors import LabError
from netpol_lab.scenarios.scenario import Check
from netpol_lab.topology import world
from netpol_lab.topology.model import Families, NetworkKind
from netpol_lab.traffic.journeys import Hop, Journey, Journeys
from netpol_manifests.services import parse_service

_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Any, object]]] = {
    "Node": parse_node,
    "Namespace": parse_namespace,
    "Pod": parse_pod,
    "Service": parse_service,
    "NetworkPolicy": parse_policy,
}
DNS_PLACE = f"host/{world.DNS}"


@dataclass(frozen=True, slots=True)
class Picture:
    """One consistent state. `version`: the family that a scenario's packets have (IPv6 only where there is no IPv4)."""

    cluster: Cluster
    ir: IR
    journeys: Journeys
    judge: Judge
    version: int

    def journey(self, check: Check) -> Journey:
        """Where the check's connection is looked at; a lookup is one to the DNS server. Raises LabError."""
        target = DNS_PLACE if check.resolve else check.target.where
        return self.journeys.of(check.source.where, target, check.protocol, check.port, self.version)

    def decided(self, check: Check) -> str:
        """What decides the check's connection, in a few words; the refusing side where there is one."""
        try:
            hops = self.journey(check).hops
        except LabError as error:
            return str(error)
        sides = [side for hop in hops for side in self._sides(hop)]
        refusing = [s for s in sides if not s.allowed]
        ruling = [s for s in sides if s.reason is Reason.RULE]
        special = [s for s in sides if s.reason in (Reason.SELF, Reason.NODE)]
        chosen = refusing[:1] or ruling or special[:1] or sides[-1:]
        return "; ".join(dict.fromkeys(s.brief for s in chosen)) or "no policy looks at it"

    def _sides(self, hop: Hop) -> list[SideVerdict]:
        """The answers that the hop's node gives: those about its own pods."""
        verdict = self.judge.judge(hop.connection)
        sides = (verdict.egress, verdict.ingress)
        return [s for s in sides if s.pod is not None and self.cluster.pods[s.pod].node == hop.node]


def make_picture(objects: Iterable[Mapping[str, Any]], families: Families, kind: NetworkKind) -> Picture:
    """The picture of a lab's objects. What is not understood in a policy stays in the policy (SEMANTICS 15)."""
    found: dict[str, list[Any]] = {k: [] for k in _PARSERS}
    for data in objects:
        if data["kind"] in _PARSERS:
            value, _ = _PARSERS[data["kind"]](data)
            found[data["kind"]] += [value] if value is not None else []
    nodes, pods = {n.name: n for n in found["Node"]}, _by_key(found["Pod"])
    policies = _by_key(found["NetworkPolicy"])
    cluster = Cluster({n.name: n for n in found["Namespace"]}, pods, policies, nodes)
    topology = world.topology(nodes, pods, _by_key(found["Service"]), {}, families)
    ir = compile_cluster(cluster)
    return Picture(cluster, ir, Journeys(topology, kind), Judge(ir, cluster), int(families.each[0]))


def _by_key(values: list[Any]) -> dict[Key, Any]:
    return {v.key: v for v in values}


def pod_named(cluster: Cluster, where: str) -> Pod:
    """The pod that a scenario calls NAMESPACE/NAME: of that name, or one of the workload's. Raises LabError."""
    namespace, _, name = where.partition("/")
    there = [p for k, p in sorted(cluster.pods.items()) if k.namespace == namespace]
    found = [p for p in there if p.key.name == name] or [p for p in there if p.key.name.startswith(f"{name}-")]
    if not found:
        raise LabError(f"there is no pod {where}")
    return found[0]
