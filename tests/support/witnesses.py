"""Three of the four witnesses about one node: what the oracle, the IR and the simulator say that its FORWARD does with a packet.

In: a cluster, a node's name, connections. Out: each witness's answer. The fourth, the kernel, is asked by `forwarding`.
"""

from __future__ import annotations

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.objects import Cluster, Connection, Key
from netpol_compiler.node import compile_node
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.policy.verdict import Judge
from netpol_compiler.witnesses import oracle
from netpol_compiler.witnesses.restored import node_text, read_back


class RenderedNode:
    """One node's rules as the restore programs would be fed them, parsed back."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.ruleset = compile_node(name, compile_cluster(cluster), cluster.pods.values()).ruleset
        self.rules = read_back(node_text(self.ruleset))

    def passes(self, connection: Connection) -> bool:
        return self.rules.passes(connection)


class NodeWitnesses:
    """What each of the three says of packets that one node forwards. A side whose pod runs elsewhere is judged there."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.rendered = RenderedNode(name, cluster)
        self._name, self._cluster = name, cluster
        self._judge = Judge(compile_cluster(cluster), cluster)

    def answers(self, connection: Connection) -> dict[str, bool]:
        expected, compiled = oracle.judge(self._cluster, connection), self._judge.judge(connection)
        sides = ((expected.source_pod, expected.egress_allowed), (expected.destination_pod, expected.ingress_allowed))
        return {
            "oracle": all(allowed or not self._local(pod) for pod, allowed in sides),
            "ir": all(side.allowed or not self._local(side.pod) for side in (compiled.egress, compiled.ingress)),
            "simulator": self.rendered.passes(connection),
        }

    def forwards(self, connection: Connection) -> bool:
        """Whether the packet is one that this node forwards, and has one way to walk."""
        own = self._name in (connection.source_node, connection.destination_node)
        return not own and not any(lives_on_two_nodes(self._cluster, e) for e in (connection.source, connection.destination))

    def _local(self, pod: Key | None) -> bool:
        return pod is not None and self._cluster.pods[pod].node == self._name


def holder_node(cluster: Cluster, address: Address) -> str:
    """The node on which the pod of an address runs, by the oracle's own idea of holders; empty for none."""
    holder = oracle.holder(cluster, address)
    return holder.node if holder else ""


def lives_on_two_nodes(cluster: Cluster, address: Address) -> bool:
    """Whether live pods of different nodes claim an address. An agent knows its own node's pods only, and each of the two
    nodes delivers to its own: such a packet has no one way to walk (docs/operations.md, Limits)."""
    return len({p.node for p in cluster.pods.values() if p.is_endpoint and address in p.addresses}) > 1
