"""What an agent costs its node: memory, processor time at rest, and bytes from the API server while others' pods come.

A node with a hundred pods, isolated by ten policies that admit each other's pods; around it a cluster of 5,000 pods and 1,000
policies on nodes that are no lab's. Then 500 pods are added to that cluster, which policies select and admit there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import datapath
from cluster_lab import ClusterLab, Json, cluster_lab
from cluster_reaction import ELSEWHERE
from measure import Figure, progress

NODE, PODS, APPS = 2, 100, 10
SETTLE, SECONDS, ADDED = 15, 60, 500
"""SECONDS: as long as the agent's longest period, which is that of its report."""
AGENT = "npctl-agent"


def figures() -> Iterator[Figure]:
    with cluster_lab("bench-agent", [*pods(), *policies()]) as lab:
        lab.fill(**ELSEWHERE)
        agents = {name: pid for name, pid in lab.programs().items() if AGENT in name}
        busy = max(agents, key=lambda name: lab.inside("costs", pids={name: agents[name]})[name]["resident"])
        progress("the agents at rest")
        time.sleep(SETTLE)
        lab.count_bytes(NODE)
        rest = lasting(lab, agents, 0)
        added = lasting(lab, agents, ADDED)
        progress("")
    size = f"{PODS} pods and {APPS} policies on its node"
    yield Figure(f"agent: resident memory, {size}", "MB", [rest[busy]["resident"] / 1e6], "under 90")
    yield Figure("    proportional share", "MB", [rest[busy]["share"] / 1e6])
    yield Figure("agent: share of a core at rest", "%", [r["cpu"] for name, r in rest.items() if name in agents], "under 1")
    yield Figure(f"agent: received in {SECONDS} s at rest", "kB", [rest["bytes"]["received"] / 1e3])
    yield Figure(f"    while {ADDED} pods come elsewhere", "kB", [added["bytes"]["received"] / 1e3], "the same")
    yield Figure("    share of a core meanwhile", "%", [r["cpu"] for name, r in added.items() if name in agents])


def pods() -> Iterator[Json]:
    for number in range(PODS):
        made = datapath.pod(f"crowd-{number}", NODE)
        yield {**made, "metadata": {**made["metadata"], "labels": {"app": f"app-{number % APPS}"}}}


def policies() -> list[Json]:
    return [dict(datapath.policy(f"crowd-{i}", f"app-{i}", f"app-{(i + 1) % APPS}", 8000 + i)) for i in range(APPS)]


def lasting(lab: ClusterLab, agents: dict[str, int], add: int) -> dict[str, Json]:
    """For each agent, what it costs in SECONDS: share of a core in %, bytes of memory; and what the busy node received."""
    before, received, begun = lab.inside("costs", pids=agents), lab.bytes_counted(NODE), time.monotonic()
    if add:
        progress(f"{add} pods are added elsewhere")
        lab.inside("add", **ELSEWHERE, count=add, seconds=SECONDS)
    time.sleep(max(0.0, begun + SECONDS - time.monotonic()))
    seconds, after = time.monotonic() - begun, lab.inside("costs", pids=agents)
    found = {name: {**cost, "cpu": 100 * (cost["cpu"] - before[name]["cpu"]) / seconds} for name, cost in after.items()}
    return {**found, "bytes": {"received": lab.bytes_counted(NODE) - received}}
