"""Three of the four witnesses give one answer for random clusters and packets; the kernel, the fourth, is in tests/kernel."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from generators import NODES, clusters, connections
from netpol_compiler.witnesses import oracle
from search import checked, searched
from witnesses import RenderedNode, holder_node, lives_on_two_nodes


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
        checked("simulator", connection.source.version, len(crossed))
        checked("oracle", connection.source.version)
