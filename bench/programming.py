"""The agent's core on a real kernel: a node's ruleset lowered and programmed from nothing, then one policy changed.

Each measurement is a process in user, network and mount namespaces of its own, so that it starts from nothing and
nothing of the host is touched. Called with arguments this file is such a process; it prints JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import synthetic
from measure import Figure

from netpol_agent.dataplane.backend import BackendKind, find_backend
from netpol_agent.dataplane.dataplane import Dataplane, SyncResult
from netpol_agent.dataplane.runner import Processes
from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import FAMILIES, Protocol
from netpol_compiler.model.objects import Cluster, Pod, Policy, PortRange
from netpol_compiler.node import compile_node
from netpol_compiler.policy.pipeline import pipeline_of

ROUNDS, CHANGES, IDLE = 3, 40, 0.2
SHAPES = {
    "dense": "250 pods, 1,000 policies that select them",
    "dual": "250 dual-stack pods, 1,000 policies that select them",
    "sparse": "250 of 10,000 pods, 1,000 policies",
}
# An ordinary user needs a user namespace, in which the kernel takes nft transactions in parts only; an agent on a node is
# root of the machine, so that is what is measured where it may be.
USER = () if os.geteuid() == 0 else ("--user", "--map-root-user")
UNSHARE = ("unshare", *USER, "--mount", "--net", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")


def cluster_of(shape: str) -> Cluster:
    if shape == "sparse":
        return synthetic.cluster()
    dense = synthetic.cluster(namespaces=10, pods=synthetic.PODS_PER_NODE)
    return dense if shape == "dense" else replace(dense, pods={key: twin(pod) for key, pod in dense.pods.items()})


def twin(pod: Pod) -> Pod:
    """The pod with an IPv6 address beside its IPv4 one."""
    (v4,) = pod.addresses
    return replace(pod, addresses=(v4, Address(6, (0xFD << 120) + v4.value)))


def measure(shape: str, kind: BackendKind) -> dict[str, object]:
    """Seconds: from nothing, and of each changed policy; with sizes."""
    cluster, node = cluster_of(shape), synthetic.node_name(0)
    pipeline, processes = pipeline_of(cluster), Processes()
    ir, local = pipeline.ir, [p for p in cluster.pods.values() if p.node == node]
    start = time.perf_counter()
    compiler = compile_node(node, ir, local)
    lowered = time.perf_counter()
    dataplane = Dataplane(find_backend(kind), FAMILIES, processes)
    check(dataplane.sync(compiler.ruleset))
    programmed = time.perf_counter()
    changes: dict[str, list[float]] = {"alone": [], "in a row": []}
    starts = []
    selecting = [p for p in cluster.policies.values() if any(_selects(p, cluster, pod.key) for pod in local)]
    for index, policy in enumerate(selecting[:CHANGES]):
        manner = "alone" if index < CHANGES // 2 else "in a row"
        # The kernel frees what a transaction replaced a while after it; a change that comes alone finds that done.
        time.sleep(IDLE if manner == "alone" else 0)
        pipeline.set_policy(changed(policy, 20000 + index))
        delta, before = pipeline.flush(), processes.started
        began = time.perf_counter()
        for new in delta.policies_up:
            compiler.set_policy(new)
        check(dataplane.sync(compiler.ruleset, compiler.flush()))
        changes[manner].append(time.perf_counter() - began)
        starts.append(processes.started - before)
    rules = {int(f): sum(map(len, c.values())) for f, c in compiler.ruleset.chains.items()}
    chains = {int(f): len(c) for f, c in compiler.ruleset.chains.items()}
    return {
        "lower": lowered - start, "program": programmed - lowered, "changes": changes, "starts": max(starts),
        "chains": chains[4], "rules": rules[4], "sets": len(compiler.ruleset.sets),
    }  # fmt: skip


def _selects(policy: Policy, cluster: Cluster, key: object) -> bool:
    pod = cluster.pods[key]  # type: ignore[index]  # a Key
    return policy.key.namespace == pod.key.namespace and policy.pod_selector.matches(pod.labels)


def changed(policy: Policy, port: int) -> Policy:
    """The policy with one more port in its first rule."""
    first, *others = policy.rules
    return replace(policy, rules=(replace(first, ports=(*(first.ports or ()), PortRange(Protocol.TCP, port, port))), *others))


def check(result: SyncResult) -> None:
    if result.failures or result.pending:
        raise RuntimeError(f"the kernel refused: {result.failures[:3]}")


def figures() -> Iterator[Figure]:
    for kind in BackendKind:
        for shape, words in SHAPES.items():
            yield from _figures(kind, shape, words)


def _figures(kind: BackendKind, shape: str, words: str) -> Iterator[Figure]:
    command = [*UNSHARE, sys.executable, __file__, shape, kind.value]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    results = []
    for _ in range(ROUNDS):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            yield Figure(f"{kind.value}: {words}", "s", note=done.stderr.strip().splitlines()[-1])
            return
        results.append(json.loads(done.stdout))
    one = results[0]
    size = f"per family {one['chains']} chains, {one['rules']} rules; {one['sets']} sets in all"
    totals = [r["lower"] + r["program"] for r in results]
    yield Figure(f"{kind.value}: {words}: lowered, programmed", "s", totals, "under 2", size)
    note = f"{one['starts']} programs started at most"
    for manner in one["changes"]:
        changes = [1e3 * c for r in results for c in r["changes"][manner]]
        yield Figure(f"{kind.value}: {words}: one policy changed, {manner}", "ms", changes, "under 30", note)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], BackendKind(sys.argv[2]))))
