"""The operator's core: a large cluster compiled from nothing, and one pod of it changed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace

import synthetic
from measure import Figure, scaled, timed

from netpol_compiler.model.objects import Cluster, Labels
from netpol_compiler.policy.pipeline import compile_cluster, pipeline_of

ROUNDS, CHANGES = 5, 200


def pod_changes(cluster: Cluster, seed: int = 2) -> list[float]:
    """Seconds of each change of one pod's labels: until the changed IR is there."""
    pipeline, chance = pipeline_of(cluster), random.Random(seed)
    pods, found = list(cluster.pods.values()), []
    for pod in chance.sample(pods, CHANGES):
        labels = Labels({**pod.labels, "app": chance.choice(pods).labels["app"], "tier": chance.choice(synthetic.TIERS)})
        start = time.perf_counter()
        pipeline.set_pod(replace(pod, labels=labels))
        pipeline.flush()
        found.append(time.perf_counter() - start)
    return found


def figures() -> Iterator[Figure]:
    cluster = synthetic.cluster()
    size = f"{len(cluster.policies):,} policies, {len(cluster.pods):,} pods, {len(cluster.namespaces)} namespaces"
    yield Figure(f"compile from nothing: {size}", "s", timed(lambda: compile_cluster(cluster), ROUNDS), "under 3")
    yield Figure("one pod's labels changed, to the changed IR", "ms", scaled(pod_changes(cluster), 1e3), "under 5")
