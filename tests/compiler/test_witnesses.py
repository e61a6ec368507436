"""Three of the four witnesses give one answer for random clusters and packets; the kernel, the fourth, is in tests/kernel."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from generators import NODES, clusters, connections
from netpol_compiler import oracle, render
from netpol_compiler.kinds import FAMILIES
from netpol_compiler.lower import compile_node
from netpol_compiler.objects import Cluster, Connection
from netpol_compiler.pipeline import compile_cluster
from netpol_compiler.ruleset import HOOK_PARENT, HOOK_RULE
from netpol_compiler.simulate import Tables, first_packet, parse_ipset_restore, parse_iptables_restore, walk
from search import searched


class RenderedNode:
    """One node's rules as the restore programs would be fed them, parsed back."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        node = compile_node(name, compile_cluster(cluster), cluster.pods.values())
        self.sets = parse_ipset_restore(render.full_ipset_text(node.ruleset))
        hook = [f"-A {HOOK_PARENT} {HOOK_RULE}"]
        self.tables: dict[int, Tables] = {
            int(f): parse_iptables_restore(render.full_iptables_text(node.ruleset, f, hook)) for f in FAMILIES
        }

    def passes(self, connection: Connection) -> bool:
        packet = first_packet(connection)
        return walk(self.tables[connection.source.version], self.sets, packet).verdict == "ACCEPT"


def holder_node(cluster: Cluster, text: object) -> str:
    """The node on which the pod of an address runs, by the oracle's own idea of holders; empty for none."""
    live = [p for p in cluster.pods.values() if p.is_endpoint and text in p.addresses]
    return max(live, key=lambda p: (p.created, p.uid)).node if live else ""


def lives_on_two_nodes(cluster: Cluster, text: object) -> bool:
    """Whether live pods of different nodes claim an address. An agent knows its own node's pods only, and each of the two
    nodes delivers to its own: such a packet has no one way to walk (docs/operations.md, Limits)."""
    return len({p.node for p in cluster.pods.values() if p.is_endpoint and text in p.addresses}) > 1


@searched(300)
@given(st.data())
def test_the_rendered_rules_of_both_nodes_say_what_the_oracle_says(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    nodes = {name: RenderedNode(name, cluster) for name in NODES}
    for _ in range(6):
        connection = data.draw(connections(cluster))
        if any(lives_on_two_nodes(cluster, end) for end in (connection.source, connection.destination)):
            continue
        ends = [holder_node(cluster, connection.source), holder_node(cluster, connection.destination)]
        # A node's own traffic, and traffic to it, is in OUTPUT and INPUT there, where we have no rules (point 9).
        at_source = connection.source_node or ends[0]
        at_target = connection.destination_node or ends[1]
        crossed = {n for n in (at_source, at_target) if n} - {connection.source_node, connection.destination_node}
        if ends[0] and ends[1] and connection.source == connection.destination:
            continue  # a pod's packet to its own address never leaves it
        passed = all(nodes[name].passes(connection) for name in crossed)
        assert passed == oracle.judge(cluster, connection).allowed, (connection, crossed)
