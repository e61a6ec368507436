"""What has to be measured from inside a lab: requests to its API server and what can be seen of their consequences, processes.

    python inside.py rounds|fill|add|costs ARGUMENTS      ARGUMENTS and what is printed are JSON; times are CLOCK_MONOTONIC, ns

rounds  {kubeconfig, rounds, pause, steps: [request], watches: [path]}: the steps in turn, each a request on one kept-alive
        connection, as {method, path, body, type}; prints {writes: [[begun, answered]], seen: [[at, kind, type, name]]}
fill    {kubeconfig, namespaces, pods, policies}: a synthetic cluster
add     {kubeconfig, namespaces, pods, policies, count, seconds}: `count` pods more in that cluster, evenly over so many seconds
costs   {pids: {name: pid}}: prints {name: {cpu, resident, share}} in seconds and bytes
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import cluster_operator
import process
import synthetic

from netpol_api.api_objects import Json
from netpol_compiler.model.objects import Cluster
from netpol_kube.client import ApiClient
from netpol_kube.credentials import Credentials, from_kubeconfig

SILENCE_SECONDS, START_SECONDS = 600, 1.0


class Connection:
    """One kept-alive connection to the API server. Raises RuntimeError when it says no."""

    def __init__(self, credentials: Credentials) -> None:
        parts = urlsplit(credentials.server)
        self._headers = {"Authorization": f"Bearer {credentials.bearer()}"}
        self._connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port or 443, timeout=SILENCE_SECONDS, context=credentials.tls()
        )

    def open(self, method: str, path: str, body: Json | None = None, kind: str = "application/json") -> http.client.HTTPResponse:
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, content, {**self._headers, "Content-Type": kind})
        answer = self._connection.getresponse()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.read().decode(errors='replace')}")
        return answer

    def ask(self, method: str, path: str, body: Json | None = None, kind: str = "application/json") -> Json:
        answer: Json = json.loads(self.open(method, path, body, kind).read())
        return answer


def rounds(credentials: Credentials, wanted: Json) -> Json:
    """The requests in turn, with a pause that is never the same after each."""
    seen: list[tuple[int, str, str, str]] = []
    for path in wanted["watches"]:
        threading.Thread(target=follow, args=(credentials, path, seen), daemon=True).start()
    connection, chance, writes = Connection(credentials), random.Random(4), []
    connection.ask("GET", "/version")
    time.sleep(START_SECONDS)
    for _ in range(wanted["rounds"]):
        for step in wanted["steps"]:
            begun = time.monotonic_ns()
            connection.ask(step["method"], step["path"], step.get("body"), step.get("type", "application/json"))
            writes.append((begun, time.monotonic_ns()))
            time.sleep(wanted["pause"] * chance.uniform(0.8, 1.2))
    return {"writes": writes, "seen": seen}


def follow(credentials: Credentials, path: str, seen: list[tuple[int, str, str, str]]) -> None:
    """Note every change of a kind from now on."""
    version = Connection(credentials).ask("GET", f"{path}?limit=1")["metadata"]["resourceVersion"]
    lines = Connection(credentials).open("GET", f"{path}?watch=1&resourceVersion={version}")
    while line := lines.readline():
        at, event = time.monotonic_ns(), json.loads(line)
        seen.append((at, event["object"].get("kind", ""), event["type"], event["object"].get("metadata", {}).get("name", "")))


async def fill(credentials: Credentials, wanted: Json) -> Json:
    async with ApiClient(credentials, "npctl-bench") as client:
        await cluster_operator.fill(client, cluster_of(wanted))
    return {}


async def add(credentials: Credentials, wanted: Json) -> Json:
    pods, begun = list(cluster_of(wanted).pods.values()), time.monotonic()
    async with ApiClient(credentials, "npctl-bench") as client:
        for number in range(wanted["count"]):
            await asyncio.sleep(max(0.0, begun + number * wanted["seconds"] / wanted["count"] - time.monotonic()))
            await cluster_operator.create_pod(client, cluster_operator.newcomer(pods, number))
    return {}


def cluster_of(wanted: Json) -> Cluster:
    return synthetic.cluster(wanted["namespaces"], wanted["pods"], wanted["policies"])


def costs(wanted: Json) -> Json:
    found = {}
    for name, pid in wanted["pids"].items():
        with contextlib.suppress(OSError):
            used = process.memory(pid)
            found[name] = {"cpu": process.cpu_seconds(pid), "resident": used.resident, "share": used.share}
    return found


def main(mode: str, wanted: Json) -> Json:
    if mode == "costs":
        return costs(wanted)
    credentials = from_kubeconfig(Path(wanted["kubeconfig"]))
    if mode == "rounds":
        return rounds(credentials, wanted)
    return asyncio.run((fill if mode == "fill" else add)(credentials, wanted))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
