"""However a policy is written, it means the same; and whatever is written into it that nobody understands, it never opens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from generators import clusters, connections, policies
from netpol_compiler.model.objects import Cluster, Policy
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.policy.verdict import Judge
from netpol_compiler.reading.objects import parse_policy
from netpol_compiler.witnesses import oracle
from search import checked, searched
from spellings import damaged, manifests, writable


def understood(policy: Policy) -> Policy:
    """As parsing makes it: nothing twice, and no rules for a direction that policyTypes leaves out."""
    rules = []
    for direction in ("ingress", "egress"):
        for rule in policy.rules:
            if rule.direction.value == direction and rule.direction in policy.directions:
                peers, ports = (None if x is None else tuple(dict.fromkeys(x)) for x in (rule.peers, rule.ports))
                rules.append(type(rule)(rule.direction, rule.index, peers, ports))
    return Policy(policy.key, policy.uid, policy.pod_selector, policy.directions, tuple(rules))


written_policies = policies("p").filter(writable).map(understood)


@searched(400)
@given(st.data())
def test_every_spelling_of_a_policy_is_understood_as_that_policy(data: st.DataObject) -> None:
    policy = data.draw(written_policies)
    manifest = data.draw(manifests(policy))
    assert parse_policy(manifest) == (policy, ())


def alone(cluster: Cluster, policy: Policy) -> Cluster:
    return Cluster(cluster.namespaces, cluster.pods, {policy.key: policy}, cluster.nodes)


@searched(300)
@given(st.data())
def test_point_15_nonsense_anywhere_in_a_policy_is_told_and_opens_nothing(data: st.DataObject) -> None:
    cluster = data.draw(clusters())
    aims = [p for p in cluster.pods.values() if p.is_endpoint]
    policy = understood(data.draw(policies("p", aims).filter(writable)))
    broken, rejected = parse_policy(data.draw(damaged(data.draw(manifests(policy)))))
    assert broken is not None and rejected
    assert broken.directions >= policy.directions
    good, bad = alone(cluster, policy), alone(cluster, broken)
    judges = [Judge(compile_cluster(c), c) for c in (good, bad)]
    for _ in range(12):
        connection = data.draw(connections(cluster))
        was, now = (oracle.judge(c, connection).allowed for c in (good, bad))
        assert was or not now, connection
        was, now = (j.judge(connection).allowed for j in judges)
        assert was or not now, connection
        checked("oracle", connection.source.version, 2)
        checked("ir", connection.source.version, 2)
