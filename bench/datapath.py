"""The data path: what policies cost those who open connections, and one stream, between pods of two nodes.

Two labs stand side by side, one without agents ("no rules at all") and one with. Slices with and without rules take
turns, so that whatever else the machine does falls on both alike; a ratio is of two neighbouring slices.
The ends are wire.c, or wire.py where there is no C compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import Figure, progress

from netpol_lab.client import LabClient
from netpol_lab.errors import LabError

ROUNDS, CONNECT_SLICES, STREAM_SLICES, SECONDS = 4, 6, 2, 0.5
MANY, CROWD = 501, 250
SERVE_PORT, SINK_PORT = 9000, 9001
Manifest = Mapping[str, Any]


def node(number: int) -> Manifest:
    name = f"node-{number}"
    status = {"addresses": [{"type": "InternalIP", "address": f"172.31.8.{number}"}]}
    spec = {"podCIDR": f"10.201.{number * 2}.0/23"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec, "status": status}


def pod(name: str, on: int) -> Manifest:
    metadata = {"namespace": "bench", "name": name, "labels": {"app": name.partition("-")[0]}}
    spec = {"nodeName": f"node-{on}", "containers": [{"name": "main", "image": "none"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def policy(name: str, app: str, peer: str, *ports: int) -> Manifest:
    listed = [{"port": p} for p in ports]
    rules = [{"from": [{"podSelector": {"matchLabels": {"app": peer}}}], "ports": listed}]
    spec = {"podSelector": {"matchLabels": {"app": app}}, "ingress": rules}
    metadata = {"namespace": "bench", "name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


ALLOWS = policy("zz-allows", "server", "client", SERVE_PORT, SINK_PORT)
OTHERS = [policy(f"other-{i:03d}", "server", f"nobody{i}", 20000 + i) for i in range(MANY - 1)]


@dataclass(slots=True)
class State:
    """One state of the lab with agents. Per measurement ("connect", "stream"): slices as (without rules, with)."""

    name: str
    policies: list[Manifest] = field(default_factory=list)
    aim: str = ""
    slices: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"connect": [], "stream": []})


def wire(folder: Path) -> list[str]:
    """The command of the two ends."""
    source, compiler = Path(__file__).with_name("wire.c"), shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return [sys.executable, str(source.with_suffix(".py"))]
    subprocess.run([compiler, "-O2", "-o", str(folder / "wire"), str(source)], check=True)
    return [str(folder / "wire")]


def started(lab: LabClient, command: list[str]) -> None:
    """Start a server in the server's pod; returns when it is ready. It ends with its lab."""
    reading, writing = os.pipe()

    def serve() -> None:
        try:
            lab.exec("bench/server", command, files=(0, writing, 2))
        except LabError:
            pass  # the lab has ended, and the server with it
        finally:
            os.close(writing)

    threading.Thread(target=serve, daemon=True).start()
    with os.fdopen(reading) as output:
        if output.readline().strip() != "ready":
            raise RuntimeError(f"{command} did not start")


def measured(lab: LabClient, command: list[str]) -> float:
    """Run one client in the client's pod; returns the number it prints."""
    with tempfile.TemporaryFile("w+") as output:
        code = lab.exec("bench/client", command, files=(0, output.fileno(), 2))
        output.seek(0)
        if code != 0:
            raise RuntimeError(f"{command} ended with {code}")
        return float(output.read())


def lab_with(name: str, crowd: int, ends: list[str], stack: ExitStack, **up: Any) -> LabClient:
    """A lab of two nodes with both ends and a crowd on the server's node; it ends with `stack`."""
    progress(f"starting lab {name}")
    lab = LabClient(f"{name}-{os.getpid()}")
    pods = [pod("client", 1), pod("server", 2), *(pod(f"crowd-{i}", 2) for i in range(crowd))]
    lab.up([node(1), node(2), *pods], **up)
    stack.callback(lab.down)
    started(lab, [*ends, "serve", str(SERVE_PORT)])
    started(lab, [*ends, "sink", str(SINK_PORT)])
    return lab


def states() -> list[State]:
    crowd = policy("crowd", "crowd", "client", SERVE_PORT)
    return [
        State("agents run, no pod is isolated"),
        State("one policy on the pod", [ALLOWS], "95 % or more"),
        State(f"{MANY} policies on the pod, only the last allows", [*OTHERS, ALLOWS], "92 % or more"),
        State(f"{CROWD} isolated pods on the node, one policy each", [ALLOWS, crowd]),
    ]


def measure(state: State, plain: LabClient, agents: LabClient, ends: list[str]) -> None:
    """One round of one state: slices without and with its rules in turn."""
    if state.policies:
        agents.apply(state.policies)
    try:
        for mode, port, count in (("connect", SERVE_PORT, CONNECT_SLICES), ("stream", SINK_PORT, STREAM_SLICES)):
            for _ in range(count):
                pair = [measured(lab, [*ends, mode, address(lab), str(port), str(SECONDS)]) for lab in (plain, agents)]
                state.slices[mode].append((pair[0], pair[1]))
    finally:
        if state.policies:
            agents.delete(state.policies)


def address(lab: LabClient) -> str:
    return str(lab.get("Pod", "bench", "server")[0]["status"]["podIP"])


def figures() -> Iterator[Figure]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="npctl-bench-")))
        ends = wire(folder)
        plain = lab_with("bench-plain", 0, ends, stack, agents=False)
        agents = lab_with("bench-agents", CROWD, ends, stack)
        found = states()
        for turn in range(ROUNDS):
            for state in found:
                progress(f"round {turn + 1} of {ROUNDS}: {state.name}")
                measure(state, plain, agents, ends)
        progress("")
        yield from _figures(found, "connect", "connections/s", "1/s", 1)
        yield from _figures(found, "stream", "one stream", "Gbit/s", 8e-9)


def _figures(found: list[State], mode: str, what: str, unit: str, factor: float) -> Iterator[Figure]:
    yield Figure(f"{what}: no rules at all", unit, [factor * without for s in found for without, _ in s.slices[mode]])
    for state in found:
        yield Figure(f"{what}: {state.name}", unit, [factor * value for _, value in state.slices[mode]])
        ratios = [100 * value / without for without, value in state.slices[mode]]
        yield Figure("    of the slice before, without rules", "%", ratios, state.aim if mode == "connect" else "")
