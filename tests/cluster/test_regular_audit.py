"""The regular comparison of all that is published: changes go on beside it, and labels that nobody needs any more go away.

The operator runs in the test's own process, so that its parts can be asked; everything else is real.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import kopf
import pytest

from cluster_api import Cluster, nodes
from netpol_api import resources
from netpol_compiler.model.objects import Key
from netpol_kube.credentials import from_kubeconfig
from netpol_operator.cluster import ClusterOperator, OperatorOptions
from netpol_operator.publishing import publisher
from until import until_async

LIMIT = 30.0
NODES = ("172.31.7.111", "172.31.7.112")
Json = dict[str, Any]


def pod(name: str, node: str) -> Json:
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "c"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def policy(name: str) -> Json:
    rules = [{"from": [{"podSelector": {"matchLabels": {"app": name}}}]}]
    meta = {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1", "generation": 1}
    kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    return {**kind, "metadata": meta, "spec": {"podSelector": {}, "ingress": rules}}


async def until(condition: Callable[[], object], what: str) -> None:
    """Looks at every turn of the loop: what is compared piece by piece is soon compared."""
    await until_async(condition, LIMIT, what, pause_seconds=0)


@contextlib.asynccontextmanager
async def running(lab: Cluster) -> AsyncIterator[ClusterOperator]:
    """The operator, from when everything is published until the block ends."""
    operator = ClusterOperator(OperatorOptions(from_kubeconfig(lab.kubeconfig), "npctl-system", "tested"))
    stop = asyncio.Event()
    task = asyncio.create_task(kopf.operator(registry=operator.registry, clusterwide=True, standalone=True, stop_flag=stop))
    try:
        await until(lambda: hasattr(operator, "publisher") and operator.publisher.published_once, "the IR is complete")
        yield operator
    finally:
        stop.set()
        await task


def test_a_change_is_published_while_everything_is_compared(
    start_api: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "OBJECTS_PER_PIECE", 1)
    lab = start_api(objects=nodes(111, 112))

    async def scenario() -> None:
        async with running(lab) as operator:
            publisher, path = operator.publisher, resources.compiled_policy_path(Key("default", "late"))
            for number in range(60):
                operator.feed.on_update("NetworkPolicy", policy(f"p{number}"))
            await until(
                lambda: len(publisher.observed.objects) == 120 and not publisher.queue.backlog, "sixty policies and their sets"
            )
            publisher.compare_gradually()
            await until(lambda: len(publisher.to_compare) < 120, "the comparison is under way")
            operator.feed.on_update("NetworkPolicy", policy("late"))
            await until(lambda: path in publisher.observed.objects, "the late policy is published")
            assert publisher.to_compare
            await until(lambda: not publisher.to_compare and not publisher.queue.backlog, "all is compared")

    asyncio.run(scenario())


def test_it_takes_back_the_labels_of_nodes_that_need_an_object_no_more(start_api: Callable[..., Cluster]) -> None:
    lab = start_api(objects=[*nodes(111, 112), *(pod(f"p{i}", node) for i, node in enumerate(NODES))])
    both = frozenset(map(resources.bucket, NODES))

    async def scenario() -> None:
        async with running(lab) as operator:
            observed, path = operator.publisher.observed, resources.compiled_policy_path(Key("default", "all"))
            operator.feed.on_update("NetworkPolicy", policy("all"))
            await until(lambda: path in observed.objects and observed.objects[path].span == both, "published for both nodes")
            operator.feed.on_delete("Pod", "default", "p1")
            await until(lambda: not operator.publisher.queue.backlog, "the pod that is gone has been taken in")
            assert observed.objects[path].span == both
            operator.publisher.compare_gradually()
            await until(lambda: observed.objects[path].span == {resources.bucket(NODES[0])}, "the label is taken back")

    asyncio.run(scenario())
