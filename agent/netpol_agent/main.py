"""Wires an agent to folders or to the Kubernetes API, and runs it until it is told to stop.

    folders:  FolderSource -> Agent -> FolderReporter                      one thread, plus one if there is a port
    API:      ApiSource ---> Agent -> NodeReporter                        the agent's thread and the background's
              ApiClient, watches, reports, HTTP: all in the background

What it may do comes from the capabilities NET_ADMIN (tables, sets, conntrack) and NET_RAW (the set match of iptables opens a raw
socket to ask for its version, and legacy tables are read through one). Loading modules takes SYS_MODULE; without it the node
must have them, and the report says what is missing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from netpol_agent.dataplane.backend import STARTED_AHEAD
from netpol_agent.dataplane.runner import Processes
from netpol_agent.errors import AgentError
from netpol_agent.guard.state import Mode
from netpol_agent.inputs.folder_source import FolderSource
from netpol_agent.loop import Agent, AgentOptions
from netpol_agent.reporting.agent_report import FolderReporter

if TYPE_CHECKING:
    from netpol_agent.serving.metrics import AgentMetrics
    from netpol_agent.threads.background import Background

log = logging.getLogger("agent")

LOCK_FOLDER = Path("/run/npctl")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to serve; an empty host is every address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class FolderInputs:
    """The lab's folders, in place of an API server."""

    objects: Path
    ir: Path
    reports: Path


@dataclass(frozen=True, slots=True)
class ApiInputs:
    """How to reach the API server: a kubeconfig, or None for the pod's own service account. `pod`: the agent's own pod as
    (namespace, name), so that it can be asked through the API server's proxy."""

    kubeconfig: Path | None = None
    pod: tuple[str, str] | None = None


def run_agent(options: AgentOptions, inputs: FolderInputs | ApiInputs, listen: ListenAddress | None = None) -> None:
    """Enforce policies on `options.node` until SIGTERM or SIGINT. Raises AgentError (what, remedy)."""
    locks, name = (
        (inputs.reports, f".{options.node}.lock") if isinstance(inputs, FolderInputs) else (LOCK_FOLDER, _lock_name(options))
    )
    with only_one(locks, name, options.node), stop_signals() as stopped, closing(Processes(ahead=STARTED_AHEAD)) as run:
        if isinstance(inputs, FolderInputs):
            _on_folders(options, inputs, listen, stopped, run)
        else:
            _on_api(options, inputs, listen, stopped, run)
    log.info("stopped; enforcement stays in place")


def _lock_name(options: AgentOptions) -> str:
    return f"agent-{options.node}.lock"


def _on_folders(options: AgentOptions, folders: FolderInputs, listen: ListenAddress | None, stopped: int, run: Processes) -> None:
    source = FolderSource(options.node, folders.objects, folders.ir)
    reporter = FolderReporter(folders.reports, options.node)
    if listen is None:
        Agent(options, source, reporter, run).run(stopped)
        return
    with background() as work:
        metrics = _metrics({})
        agent = Agent(options, source, reporter, run, metrics)
        _serve(work, agent, options.node, metrics, listen)
        agent.run(stopped)


def _on_api(options: AgentOptions, api: ApiInputs, listen: ListenAddress | None, stopped: int, run: Processes) -> None:
    # Imported here: an agent on folders needs no HTTP client, which is a third of its memory.
    from netpol_agent.guard.node_blocks import NodeBlocks
    from netpol_agent.inputs.api_source import ApiSource
    from netpol_agent.reporting.node_report import NodeReporter
    from netpol_api.node_report import AgentPod
    from netpol_kube.client import ApiClient
    from netpol_kube.credentials import CredentialsError, find

    try:
        client = ApiClient(find(api.kubeconfig), user_agent="npctl-agent", connections=16)
    except CredentialsError as error:
        raise AgentError(str(error), error.remedy) from error
    pod = AgentPod(*api.pod, listen.port) if api.pod and listen else None
    # Two threads: a change must not wait 5 ms (Python's own choice) for the other one, which may be parsing.
    sys.setswitchinterval(0.0005)
    with background() as work:
        work.at_end(client.close)
        source = ApiSource(options.node, client, work)
        reporter = NodeReporter(options.node, client, work.loop, pod)
        metrics = None
        if listen is not None:
            metrics = _metrics(
                {
                    "watch_gaps": lambda: source.gaps,
                    "watch_failures": lambda: source.failures,
                    "report_write_errors": lambda: reporter.errors,
                    "api_requests": lambda: client.requests,
                    "background_faults": lambda: work.faults,
                }
            )
        source.start()
        blocks = NodeBlocks(options.node, client)
        agent = Agent(options, source, reporter, run, metrics, lambda: options.guard.blocks or blocks.blocks)
        work.run("writing reports", reporter.run)
        if options.guard.mode is not Mode.OFF and not options.guard.blocks:
            work.run("reading the node's blocks", blocks.run)
        if metrics is not None and listen is not None:
            _serve(work, agent, options.node, metrics, listen)
        agent.run(stopped)


@contextmanager
def background() -> Iterator[Background]:
    """A running background thread."""
    from netpol_agent.threads.background import Background

    work = Background()
    work.start()
    try:
        yield work
    finally:
        work.stop()


def _metrics(counters: dict[str, Callable[[], float]]) -> AgentMetrics:
    from netpol_agent.serving.metrics import AgentMetrics

    return AgentMetrics(counters)


def _serve(work: Background, agent: Agent, node: str, metrics: AgentMetrics, listen: ListenAddress) -> None:
    from netpol_agent.serving.http import AgentEndpoints, AgentServer
    from netpol_agent.serving.pod_rules import pod_view

    metrics.follow(agent)
    run = Processes()
    endpoints = AgentEndpoints(
        alive_at=lambda: agent.alive_at,
        ready=lambda: _unready(agent),
        metrics=metrics.text,
        view=lambda key: pod_view(agent, node, key, run),
    )
    server = AgentServer(endpoints)
    port = work.wait_for(server.start(listen.host, listen.port))
    work.at_end(server.stop)
    log.info("serving on %s:%d", listen.host, port)


def _unready(agent: Agent) -> str:
    """Why this node's rules are not in force for the first time yet; empty when they are."""
    if agent.enforcement.programmed:
        return ""
    report = agent.report
    if report is None or not report.complete:
        problems = report.problems if report is not None else ()
        return "; ".join(("the inputs are not complete yet", *problems[:3]))
    return "; ".join(("nothing is programmed yet", *(f.words for f in report.failures[:3])))


@contextmanager
def only_one(folder: Path, name: str, node: str) -> Iterator[None]:
    """Holds the node's lock: two agents of one node would undo each other's work. Raises AgentError."""
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "w", encoding="ascii")  # noqa: SIM115  # closed below, when the lock is given up
    except OSError as error:
        raise AgentError(
            f"the lock {path}, which keeps a second agent off node {node}, cannot be made: {error.strerror}",
            f"make {folder} writable for the agent, as the chart does with a hostPath",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AgentError(f"an agent for node {node} is running already", f"end it first; it holds {path}") from error
        yield


@contextmanager
def stop_signals() -> Iterator[int]:
    """A file descriptor that becomes readable on SIGTERM and SIGINT, which do nothing else any more."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    old = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)
