"""Random policies, real packets: the kernel, the oracle, the IR and the simulator must give one answer."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from netpol_compiler.model.kinds import Protocol
from netpol_compiler.witnesses import oracle
from netpol_lab.client import LabClient
from netpol_lab.scenarios.drivers import node_texts
from netpol_lab.scenarios.picture import Picture, make_picture
from netpol_lab.topology.model import Families, NetworkKind
from netpol_lab.traffic.journeys import Hop
from packets import BOTH
from policies import random_policies

pytestmark = pytest.mark.kernel

PODS = ("a/server", "a/server-2", "a/client", "a/client-2", "b/server", "b/client", "c/client")
SOURCES = (*PODS, "node/node-a", "node/node-b", "host/outside")
TARGETS = (*PODS, "svc/a/server", "host/outside")
PORTS = ("8080", "9090", "8081", "80", "5353/udp", "5354/udp", "9999/sctp", "icmp")
TRIES, POLICIES = 300, 6


class Try(NamedTuple):
    source: str
    target: str
    port: str
    version: int


def tries(seed: int) -> list[Try]:
    chance = random.Random(seed)
    every = [Try(s, t, p, v) for s in SOURCES for t in TARGETS for p in PORTS for v in BOTH]
    possible = [t for t in every if t.target != "svc/a/server" or (t.port == "80" and t.source != "host/outside")]
    between = [t for t in possible if not (t.source == t.target == "host/outside")]
    # Where nothing speaks SCTP, nothing answers it: silence would not mean a refusal.
    return chance.sample([t for t in between if t.port != "9999/sctp" or t.target in ("a/server", "b/server")], TRIES)


def hops(picture: Picture, one: Try) -> tuple[Hop, ...]:
    number, _, protocol = one.port.partition("/")
    if one.port == "icmp":
        return picture.journeys.of(one.source, one.target, None, None, one.version).hops
    return picture.journeys.of(one.source, one.target, Protocol((protocol or "tcp").upper()), int(number), one.version).hops


def local(picture: Picture, hop: Hop, pod: object) -> bool:
    return pod is not None and picture.cluster.pods[pod].node == hop.node  # type: ignore[index]  # a Key


def by_oracle(picture: Picture, hop: Hop) -> bool:
    found = oracle.judge(picture.cluster, hop.connection)
    egress = found.egress_allowed or not local(picture, hop, found.source_pod)
    return egress and (found.ingress_allowed or not local(picture, hop, found.destination_pod))


def by_ir(picture: Picture, hop: Hop) -> bool:
    found = picture.judge.judge(hop.connection)
    return all(side.allowed or not local(picture, hop, side.pod) for side in (found.egress, found.ingress))


def disagreements(lab: LabClient, kind: NetworkKind, seed: int) -> list[str]:
    """Each connection about which the four do not say the same, in words."""
    picture = make_picture(lab.get(), Families.DUAL, kind)
    texts = {n: node_texts(n, picture.cluster, picture.ir, Families.DUAL.each) for n in picture.cluster.nodes}
    sent = tries(seed)
    seen = lab.connect_many([{"source": t.source, "destination": t.target, "port": t.port, "family": t.version} for t in sent])

    def by_simulator(hop: Hop) -> bool:
        return not hop.forwarded or texts[hop.node].passes(hop.connection)

    wrong = []
    for one, results in zip(sent, seen, strict=True):
        way = hops(picture, one)
        answers = {
            "kernel": [r["verdict"] for r in results] == ["allowed"],
            "oracle": all(by_oracle(picture, h) for h in way),
            "ir": all(by_ir(picture, h) for h in way),
            "simulator": all(by_simulator(h) for h in way),
        }
        if len(set(answers.values())) > 1 or any(r["verdict"] == "error" for r in results):
            wrong.append(f"{one}: {answers} {results}")
    return wrong


@pytest.mark.parametrize("seed", range(12))
def test_kernel_oracle_ir_and_simulator_give_one_answer(lab, objects, seed):
    policies = random_policies(seed, POLICIES)
    objects(*policies)
    wrong = disagreements(lab, NetworkKind.HOST_GW, seed)
    assert not wrong, "\n".join([*wrong[:10], *map(str, policies)])


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("network", list(NetworkKind))
def test_they_agree_on_every_network_and_backend(own_lab, network, backend):
    with own_lab(network=network.value, backend=backend, family="dual") as lab:
        for seed in range(100, 103):
            policies = random_policies(seed, POLICIES)
            lab.apply(policies)
            wrong = disagreements(lab, network, seed)
            lab.delete(policies)
            assert not wrong, "\n".join([*wrong[:10], *map(str, policies)])
