"""npctl diff says all that differs and nothing else: its groups and spans against every single connection, judged one by one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from generators import clusters, connections, labels, namespaces, policies
from netpol_compiler.model.addresses import Address
from netpol_compiler.model.objects import NAMESPACE_NAME_LABEL, Cluster, Connection, Labels
from netpol_manifests.world import World
from npctl.answers.diff import Comparison, Difference
from npctl.endpoints.equivalence_classes import Group, Likeness
from npctl.endpoints.port_spans import REST
from npctl.inputs.files import Documents
from npctl.inputs.state import State
from search import searched


def state_of(cluster: Cluster) -> State:
    world = World(cluster.nodes, cluster.namespaces, cluster.pods, {}, cluster.policies, {}, {})
    return State(Documents({}, (), "a test"), world, cluster, {})


@st.composite
def changes(draw: st.DrawFn) -> tuple[Cluster, Cluster]:
    """A cluster, and the same one with some policies, pods' labels and namespaces' labels changed."""
    now = draw(clusters())
    kept = {k: p for k, p in now.policies.items() if draw(st.booleans())}
    written = [draw(policies(f"np{i}")) for i in range(draw(st.integers(0, 3)))]
    pods = {k: replace(p, labels=Labels(draw(labels))) if draw(st.integers(0, 3)) == 0 else p for k, p in now.pods.items()}
    spaces = {n: draw(namespaces(n)) if draw(st.integers(0, 3)) == 0 else s for n, s in now.namespaces.items()}
    assert all(s.labels[NAMESPACE_NAME_LABEL] == n for n, s in spaces.items())
    return now, Cluster(spaces, pods, {**kept, **{p.key: p for p in written}}, now.nodes)


def group_of(likeness: Likeness, address: Address) -> Group:
    for group in likeness.groups:
        if any(address in p.addresses for p in group.pods):
            return group
    admitted = likeness.admitting(address)
    return next(
        g
        for g in likeness.outside
        if g.addresses[0].version == address.version and likeness.admitting(g.addresses[0]) == admitted
    )


def speaks_of(difference: Difference, connection: Connection) -> bool:
    if not difference.both_families and difference.version != connection.source.version:
        return False
    for protocol, first, last in difference.ports:
        if protocol is None:
            if connection.protocol is None or all(
                s.protocol is not connection.protocol for s in difference.every if s is not REST
            ):
                return True
        elif protocol is connection.protocol and connection.port is not None and first <= connection.port <= last:
            return True
    return False


@searched(150)
@given(st.data())
def test_a_connection_is_listed_exactly_when_its_two_verdicts_differ(data: st.DataObject) -> None:
    now, then = (state_of(c) for c in data.draw(changes()))
    comparison = Comparison(now, then)
    found = list(comparison.differences())
    for _ in range(6):
        connection = data.draw(connections(now.cluster))
        if connection.source_node or connection.destination_node:
            continue  # a node's own traffic stands beside the groups
        ends = [now.holders.get(a) for a in (connection.source, connection.destination)]
        if ends[0] is ends[1]:
            continue  # a pod to itself, or no pod has a part in it
        source, target = (group_of(comparison.likeness, a) for a in (connection.source, connection.destination))
        verdicts = [s.judge.judge(connection).allowed for s in (now, then)]
        listed = [d for d in found if d.source is source and d.target is target and speaks_of(d, connection)]
        assert [d.opened for d in listed] == ([verdicts[1]] if verdicts[0] != verdicts[1] else []), connection


@searched(50)
@given(clusters())
def test_a_state_does_not_differ_from_itself(cluster: Cluster) -> None:
    assert not list(Comparison(state_of(cluster), state_of(cluster)).differences())
