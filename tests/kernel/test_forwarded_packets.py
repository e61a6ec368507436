"""Random clusters, many real packets: the kernel, the oracle, the IR and the simulator give one answer about each.

The rules get into the kernel by the agent's own dataplane. A packet's verdict is whether the node forwards it: no pod and no
Service is needed for that, so that thousands of verdicts fit into a minute. What needs both is in test_witnesses_agree.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplanes import agents_dataplane, clear
from forwarding import Forwarding
from generators import NODES, clusters, connections
from isolated import isolated
from netpol_agent.dataplane.backend import BackendKind
from netpol_compiler.model.kinds import FAMILIES
from netpol_compiler.model.objects import Cluster, Connection
from search import checked, searched
from witnesses import NodeWitnesses

pytestmark = pytest.mark.kernel

PACKETS = (1, 10, 80, 80, 80)
"""Of one state, sent at once. The least comes first: a failure is shrunk towards it."""


forwarding = cache(Forwarding)  # one for each process: made inside of `isolated`


@st.composite
def states(draw: st.DrawFn) -> tuple[str, Cluster, list[Connection]]:
    """A node, its cluster, and packets."""
    cluster = draw(clusters())
    sent = [draw(connections(cluster)) for _ in range(draw(st.sampled_from(PACKETS)))]
    return draw(st.sampled_from(sorted(NODES))), cluster, sent


def disagreements(path: Forwarding, witnesses: NodeWitnesses, sent: list[Connection]) -> dict[str, dict[str, bool]]:
    """What each witness says of the packets about which they do not agree."""
    wrong = {}
    for connection, passed in zip(sent, path.send(sent), strict=True):
        answers = {"kernel": passed, **witnesses.answers(connection)}
        if len(set(answers.values())) > 1:
            wrong[str(connection)] = answers
    for family in FAMILIES:
        of_family = sum(c.source.version == family for c in sent)
        for witness in ("kernel", "oracle", "ir", "simulator"):
            checked(witness, family, of_family)
    return wrong


def judge_all(kind: BackendKind, state: tuple[str, Cluster, list[Connection]]) -> None:
    """Program a state, send its packets, compare."""
    name, cluster, drawn = state
    path, witnesses = forwarding(), NodeWitnesses(name, cluster)
    clear(kind)
    result = agents_dataplane(kind).sync(witnesses.rendered.ruleset)
    assert (result.failures, result.pending) == ((), False)
    assert not disagreements(path, witnesses, [c for c in drawn if witnesses.forwards(c)])


@isolated
@searched(150)
@given(states())
def test_kernel_oracle_ir_and_simulator_agree_about_every_forwarded_packet(state: tuple[str, Cluster, list[Connection]]) -> None:
    judge_all(BackendKind.NFT, state)


@isolated
@searched(40)
@given(states())
def test_they_agree_on_the_legacy_backend(state: tuple[str, Cluster, list[Connection]]) -> None:
    judge_all(BackendKind.LEGACY, state)
