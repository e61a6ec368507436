"""The operator beside a large cluster: how long it takes to start, what that costs, and what changes of pods cost it.

A real API server holds 50,000 pods of 5 KB, 500 namespaces and 5,000 policies, filled through its own API. The operator is the
program itself, with the rights that the chart gives it. BENCH_SCALE=0.1 makes everything a tenth, BENCH_ROUNDS=1 starts once.

Called as a program this is the measurement (see `cluster_server.enclosed`); it prints one figure a line, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import TypeVar

import manifests
import process
import synthetic
from cluster_server import Server, enclosed, output, server
from measure import Figure, progress

from netpol_api.kinds import ADDRESS_SET, COMPILED_POLICY, NETWORK_POLICY, POD, SERVICE_ACCOUNT
from netpol_api.kinds import NAMESPACE as NAMESPACE_KIND
from netpol_compiler.model.objects import Cluster, Pod
from netpol_kube.client import ApiClient, ApiError
from netpol_kube.reflector import identities
from netpol_lab.control.chart import NAMESPACE
from netpol_lab.control.control_plane import kubeconfig_text

T = TypeVar("T")

SCALE = float(os.environ.get("BENCH_SCALE", "1"))
NAMESPACES, PODS, POLICIES = int(500 * SCALE), int(50_000 * SCALE), int(5_000 * SCALE)
ROUNDS, LIMIT = int(os.environ.get("BENCH_ROUNDS", "3")), 900.0
PARALLEL = 48
CHANGES_PER_SECOND, SECONDS, SETTLE = 100, 30, 10
HTTP_PORT = 9435
COMPLETE = "the IR is complete"
Work = Callable[[ApiClient, T], Awaitable[object]]


def figures() -> Iterator[Figure]:
    with enclosed(__file__) as child:
        for line in output(child):
            yield Figure(**json.loads(line))
    if child.returncode != 0:
        yield Figure("the operator beside a large cluster", "s", note=f"the measuring program ended with {child.returncode}")


def main() -> None:
    cluster = synthetic.cluster(NAMESPACES, PODS, POLICIES)
    with server() as made:
        asyncio.run(measured(made, cluster))


async def measured(made: Server, cluster: Cluster) -> None:
    await made.install()
    async with made.client() as client:
        await fill(client, cluster)
        await account(made, client)
        size = f"{len(cluster.pods):,} pods, {len(cluster.policies):,} policies, {len(cluster.namespaces)} namespaces"
        starts = {"from nothing": [], "all published already": []}  # type: dict[str, list[dict[str, float]]]
        for turn in range(ROUNDS):
            for how, found in starts.items():
                progress(f"operator's start, {how}: round {turn + 1} of {ROUNDS}")
                if how == "from nothing":
                    await remove_ir(client)
                async with started(made) as operator:
                    found.append(await operator.start_costs())
        for how, found in starts.items():
            tell(f"operator's start, {how}: {size}", "s", [f["seconds"] for f in found], "under 60")
            tell("    until all was listed", "s", [f["listed"] for f in found])
            tell("    its processor time", "s", [f["cpu"] for f in found])
            tell("    requests to the API server", "", [f["requests"] for f in found])
            tell("    peak memory", "MB", [f["peak"] for f in found], "under 700")
        async with started(made) as operator:
            await operator.start_costs()
            await steady(client, cluster, operator)


def tell(name: str, unit: str, values: Iterable[float], aim: str = "", note: str = "") -> None:
    progress("")
    print(json.dumps(asdict(Figure(name, unit, list(values), aim, note))), flush=True)


# -- filling -------------------------------------------------------------------------------------------


async def fill(client: ApiClient, cluster: Cluster) -> None:
    """Create everything through the API, as its users and kubelets do: a pod is one POST and one PUT of its status."""

    async def namespace(client: ApiClient, data: manifests.Json) -> None:
        name = data["metadata"]["name"]
        await client.create(NAMESPACE_KIND.path(), data)
        with contextlib.suppress(ApiError):  # in a lab, somebody else makes it
            await client.create(SERVICE_ACCOUNT.path(name), {"metadata": {"name": "default"}})

    async def policy(client: ApiClient, data: manifests.Json) -> None:
        await client.create(NETWORK_POLICY.path(data["metadata"]["namespace"]), data)

    await each(client, "namespaces", map(manifests.namespace, cluster.namespaces.values()), namespace)
    await each(client, "policies", map(manifests.policy, cluster.policies.values()), policy)
    await each(client, "pods", cluster.pods.values(), create_pod)


async def create_pod(client: ApiClient, pod: Pod) -> None:
    data = await client.create(POD.path(pod.key.namespace), manifests.pod(pod))
    await client.replace(f"{pod_path(pod)}/status", {**data, "status": manifests.pod_status(pod)})


def pod_path(pod: Pod) -> str:
    return POD.path(*pod.key)


async def each(client: ApiClient, what: str, items: Iterable[T], work: Work[T]) -> None:
    """Do `work` for every item, PARALLEL at a time."""
    waiting, done, begun = iter(items), 0, time.monotonic()

    async def worker() -> None:
        nonlocal done
        for item in waiting:
            await work(client, item)
            done += 1
            if done % 100 == 0:
                progress(f"the API server: {done:,} {what} in {time.monotonic() - begun:.0f} s")

    await asyncio.gather(*(worker() for _ in range(PARALLEL)))


async def account(made: Server, client: ApiClient) -> None:
    """A kubeconfig with the operator's own service account, as the chart made it."""
    path = f"{SERVICE_ACCOUNT.path(NAMESPACE, 'npctl-operator')}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 24 * 3600}}
    token = str((await client.create(path, body))["status"]["token"])
    mine = replace(made.credentials, token=token)
    made.kubeconfig.write_text(kubeconfig_text(mine))


async def remove_ir(client: ApiClient) -> None:
    """One by one: a collection of this size takes longer than the API server has patience."""

    async def remove(client: ApiClient, path: str) -> None:
        await client.delete(path)

    found = [ADDRESS_SET.path(name=name) for _, name in await identities(client, ADDRESS_SET.path())]
    policies = await identities(client, COMPILED_POLICY.path())
    found += [f"{COMPILED_POLICY.path(namespace)}/{name}" for namespace, name in policies]
    await each(client, "objects of the IR removed", found, remove)


# -- the operator --------------------------------------------------------------------------------------


class Operator:
    """The running program. Times are of time.monotonic."""

    def __init__(self, made: Server, child: asyncio.subprocess.Process) -> None:
        self.pid = child.pid
        self.begun = time.monotonic()
        self._made = made
        self._child = child
        self._requests = made.requests()

    async def start_costs(self) -> dict[str, float]:
        """Return when the IR is complete, with what it took."""
        listing = asyncio.create_task(self._listed())
        await asyncio.wait_for(self._said(COMPLETE), LIMIT)
        found = {"seconds": time.monotonic() - self.begun, "cpu": process.cpu_seconds(self.pid)}
        found["requests"] = self._made.requests() - self._requests
        found["peak"] = process.memory(self.pid).peak / 1e6
        found["listed"] = await listing - self.begun
        self._drain = asyncio.create_task(self._said("\0"))  # its log is read on, so that it never waits for us
        return found

    async def _said(self, words: str) -> None:
        assert self._child.stdout is not None  # it was asked for
        while line := (await self._child.stdout.readline()).decode(errors="replace"):
            if os.environ.get("BENCH_LOG"):
                print(line, end="", file=sys.stderr)
            if words in line:
                return
        if words == COMPLETE:
            raise RuntimeError(f"the operator ended with {await self._child.wait()}")

    async def _listed(self) -> float:
        """When /readyz said that all is listed."""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", HTTP_PORT)
                writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
                answer = await reader.read()
                writer.close()
                if b" 200 " in answer.partition(b"\r\n")[0]:
                    return time.monotonic()
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def started(made: Server) -> AsyncIterator[Operator]:
    command = [sys.executable, "-m", "npctl", "operator", "--kubeconfig", str(made.kubeconfig), "--namespace", NAMESPACE]
    child = await asyncio.create_subprocess_exec(
        *command, "--name", "bench", "--http", f"127.0.0.1:{HTTP_PORT}", stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield Operator(made, child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        await child.wait()


# -- changes -------------------------------------------------------------------------------------------


async def steady(client: ApiClient, cluster: Cluster, operator: Operator) -> None:
    """What the operator costs while nothing changes, and while pods change all the time."""
    progress("the operator at rest")
    await asyncio.sleep(SETTLE)
    before = process.cpu_seconds(operator.pid)
    await asyncio.sleep(SECONDS)
    tell("operator: share of a core at rest", "%", [100 * (process.cpu_seconds(operator.pid) - before) / SECONDS])
    before, begun = process.cpu_seconds(operator.pid), time.monotonic()
    done = await changes(client, list(cluster.pods.values()))
    seconds = time.monotonic() - begun
    share = 100 * (process.cpu_seconds(operator.pid) - before) / seconds
    note = f"{done} changes in {seconds:.1f} s: labels, statuses, deleted and created pods"
    tell(f"operator: share of a core, {CHANGES_PER_SECOND} pod changes/s", "%", [share], "under 50", note)
    tell("operator: peak memory after that", "MB", [process.memory(operator.pid).peak / 1e6], "under 700")


async def changes(client: ApiClient, pods: list[Pod]) -> int:
    """Changes of random pods at a fixed rate; returns how many succeeded."""
    chance, tasks = random.Random(3), []
    chance.shuffle(pods)
    begun = time.monotonic()
    for number in range(CHANGES_PER_SECOND * SECONDS):
        await asyncio.sleep(max(0.0, begun + number / CHANGES_PER_SECOND - time.monotonic()))
        tasks.append(asyncio.create_task(change(client, pods, number, chance)))
        if number % CHANGES_PER_SECOND == 0:
            progress(f"changing pods: {number} changes")
    return sum(await asyncio.gather(*tasks))


async def change(client: ApiClient, pods: list[Pod], number: int, chance: random.Random) -> bool:
    """Of ten changes: six labels, two statuses that mean nothing to policies, a pod of a new name, and its end a second later."""
    pod = pods[number % len(pods)]
    try:
        match number % 10:
            case 6 | 7:
                await client.patch(f"{pod_path(pod)}/status", {"status": {"message": f"change {number}"}})
            case 8:
                await create_pod(client, newcomer(pods, number))
            case 9 if number >= CHANGES_PER_SECOND:
                await client.delete(pod_path(newcomer(pods, number - CHANGES_PER_SECOND - 1)), {"gracePeriodSeconds": 0})
            case _:
                await client.patch(pod_path(pod), {"metadata": {"labels": {"tier": chance.choice(synthetic.TIERS)}}})
    except ApiError as error:
        print(f"change {number} was refused: {error}", file=sys.stderr)
        return False
    return True


def newcomer(pods: list[Pod], number: int) -> Pod:
    """A pod like another, with a name and an address that nobody else has."""
    like = pods[number % len(pods)]
    address = like.addresses[0]._replace(value=synthetic.FIRST_ADDRESS + PODS + number)
    return replace(like, key=like.key._replace(name=f"new-{number}"), addresses=(address,))


if __name__ == "__main__":
    main()
