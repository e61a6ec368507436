"""How soon a change is in force: from the request to the API server to the first packet on another node that fares differently.

A datagram leaves the client's pod from a new port every half millisecond; the server's pod on the other node answers. In between
lies all of it: API write, watch, compiler, publishing, watch, lowering, restore. A change counts as made with the last packet
that still fared as before: the figure is the time of the packet after it. Some rounds more, in which somebody watches what is
published, say where the time goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import datapath
from cluster_lab import ClusterLab, cluster_lab
from measure import Figure, progress

from netpol_api.api_objects import Json
from netpol_api.kinds import ADDRESS_SET, COMPILED_POLICY, NETWORK_POLICY, NODE_REPORT, POD

ROUNDS, WATCHED_ROUNDS, PAUSE, PERIOD_US = 30, 15, 0.4, 500
ELSEWHERE = {"namespaces": 100, "pods": 5_000, "policies": 1_000}
POLICIES = NETWORK_POLICY.path("bench")
CLIENT = POD.path("bench", "client")
WATCHES = (COMPILED_POLICY.path(), ADDRESS_SET.path(), NODE_REPORT.path())
AIM = "p50 12, p99 50"


@dataclass(frozen=True, slots=True)
class Case:
    """Two requests that undo each other. `opens`: whether the first one opens. `standing`: policies that stand meanwhile."""

    first: str
    second: str
    steps: tuple[Json, Json]
    opens: bool
    standing: tuple[Json, ...] = ()


@dataclass(slots=True)
class Reactions:
    """Milliseconds after the request was sent, one for each round: until it is in force, and until each thing could be seen."""

    in_force: list[float] = field(default_factory=list)
    stations: dict[str, list[float]] = field(default_factory=dict)
    strays: int = 0
    missed: int = 0

    @property
    def note(self) -> str:
        strays = f"{self.strays} packets fared otherwise in between" if self.strays else ""
        missed = f"{self.missed} rounds were not in force before the next" if self.missed else ""
        return ", ".join(filter(None, (strays, missed)))


def cases() -> list[Case]:
    admits = dict(datapath.policy("admits-others", "server", "friend"))
    admits["spec"] = {**admits["spec"], "ingress": [{"from": admits["spec"]["ingress"][0]["from"]}]}
    isolates = {**admits, "metadata": {**admits["metadata"], "name": "isolates"}, "spec": {**admits["spec"], "ingress": []}}
    patch = {"method": "PATCH", "path": CLIENT, "type": "application/merge-patch+json"}
    label = [{**patch, "body": {"metadata": {"labels": {"app": app}}}} for app in ("friend", "client")]
    return [
        Case("policy created, refused", "policy deleted, accepted", _steps(isolates), False),
        Case("policy with a peer created, refused", "policy with a peer deleted, accepted", _steps(admits), False),
        Case("pod labelled into a set, accepted", "pod labelled out of it, refused", (label[0], label[1]), True, (admits,)),
    ]


def _steps(policy: Json) -> tuple[Json, Json]:
    name = policy["metadata"]["name"]
    return {"method": "POST", "path": POLICIES, "body": policy}, {"method": "DELETE", "path": f"{POLICIES}/{name}"}


def figures() -> Iterator[Figure]:
    with cluster_lab("bench-reaction") as lab:
        lab.serve_echo()
        lab.forget_datagrams()
        yield from _all(lab, "")
        lab.fill(**ELSEWHERE)
        yield from _all(lab, f", {ELSEWHERE['policies']:,} policies elsewhere")


def _all(lab: ClusterLab, where: str) -> Iterator[Figure]:
    for case in cases():
        lab.client.apply(case.standing)
        progress(f"{case.first}{where}: {ROUNDS} rounds")
        pairs = zip(measured(lab, case, ROUNDS), measured(lab, case, WATCHED_ROUNDS, WATCHES), strict=True)
        lab.client.delete(case.standing)
        progress("")
        for name, (found, watched) in zip((case.first, case.second), pairs, strict=True):
            yield Figure(f"{name}{where}", "ms", found.in_force, AIM, found.note)
            yield from (Figure(f"    {what}", "ms", values) for what, values in watched.stations.items() if values)
            yield Figure("    all of it, while that is watched", "ms", watched.in_force)


def measured(lab: ClusterLab, case: Case, rounds: int, watches: Sequence[str] = ()) -> tuple[Reactions, Reactions]:
    """Rounds of both requests."""
    told: Json = {}
    wanted = {"rounds": rounds, "pause": PAUSE, "steps": case.steps, "watches": watches}
    sends = lab.probe(lambda: told.update(lab.inside("rounds", **wanted)), PERIOD_US)
    found = Reactions(), Reactions()
    writes = [(begun, answered) for begun, answered in told["writes"]]
    ends = [begun for begun, _ in writes[1:]] + [writes[-1][1] + int(PAUSE * 1e9)]
    for index, ((begun, answered), end) in enumerate(zip(writes, ends, strict=True)):
        one, opens = found[index % 2], case.opens == (index % 2 == 0)
        _packets(one, [s for s in sends if begun <= s[0] < end], begun, opens)
        _stations(one, told["seen"], begun, answered, end)
    return found


def _packets(one: Reactions, sends: list[tuple[int, bool]], begun: int, opens: bool) -> None:
    """When the last packet fared as before, and how many fared otherwise before that."""
    old = [index for index, (_, answered) in enumerate(sends) if answered != opens]
    after = old[-1] + 1 if old else 0
    if not old or after == len(sends):
        one.missed += 1
        return
    one.in_force.append((sends[after][0] - begun) / 1e6)
    one.strays += after - len(old)


def _stations(one: Reactions, seen: list[tuple[int, str, str, str]], begun: int, answered: int, end: int) -> None:
    one.stations.setdefault("the API server has answered", []).append((answered - begun) / 1e6)
    for kind, words in (
        ("AddressSet", "an AddressSet's change can be watched"),
        ("CompiledPolicy", "the CompiledPolicy's change can be watched"),
        ("NodeReport", "a NodeReport's change can be watched"),
    ):
        times = [at for at, what, _, _ in seen if what == kind and begun <= at < end]
        values = one.stations.setdefault(words, [])
        if times:
            values.append((times[0] - begun) / 1e6)
