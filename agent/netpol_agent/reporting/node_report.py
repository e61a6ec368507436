"""A node's report as a NodeReport of the API: what `npctl wait`, `npctl status` and the operator read.

In: the agent's reports, one after each step. Out: the object, owned by its Node, so that it goes when the Node goes. Written at
once when something changed that somebody may wait for, else every HEARTBEAT_SECONDS, and never more often than a reader can
use. One write is on its way at a time; the newest report is the one that is written; enforcement never waits for any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from netpol_agent.reporting.agent_report import AgentReport
from netpol_api import times
from netpol_api.api_objects import Json
from netpol_api.kinds import NODE, NODE_REPORT
from netpol_api.node_report import AgentPod, Failure, NodeReport, node_report_object, node_report_path, owner_reference, status_of
from netpol_kube.backoff import Backoff
from netpol_kube.client import ApiClient, ApiError, KubeError

log = logging.getLogger("agent")

HEARTBEAT_SECONDS = 60.0
"""Between two writes at most."""
LEAST_WRITE_INTERVAL_SECONDS = 0.1
INCOMPLETE_GRACE_SECONDS = 10.0
"""Until an agent that has just started, and whose inputs do not become complete, reports that."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.2, 10.0
"""Between two tries to write; doubled each time."""


class NodeReporter:
    """`write` is the agent's side; `run` is a task of the loop."""

    def __init__(self, node: str, client: ApiClient, loop: asyncio.AbstractEventLoop, pod: AgentPod | None = None) -> None:
        self.errors = 0
        """Writes that failed."""
        self.problem = ""
        """Why the last write failed; empty if it did not."""
        self._node = node
        """The node's name, which is the report's."""
        self._client = client
        """Writes."""
        self._loop = loop
        """The background's."""
        self._pod = pod
        """Where the agent can be asked; None: nowhere."""
        self._version = own_version()
        """Of the agent."""
        self._latest: AgentReport | None = None
        """The newest report, which is the one to write."""
        self._due = asyncio.Event()
        """Set when the newest report is to be written at once."""
        self._owned = False
        """Whether this agent has written a report, and its owner."""

    # -- the agent's thread ----------------------------------------------------------------------------

    def write(self, report: AgentReport) -> bool:
        """Returns whether the report is worth a write of its own."""
        before, self._latest = self._latest, report
        if before is not None and _matters(before) == _matters(report):
            return False
        # What the agent before this one reported is still in force while this one reads its inputs.
        if not (report.complete or self._owned):
            return False
        self._loop.call_soon_threadsafe(self._due.set)
        return True

    # -- the loop's thread -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until cancelled."""
        backoff = Backoff(RETRY_SECONDS, LONGEST_RETRY_SECONDS, jitter=0.5)
        while True:
            # After a while without news: the report says that the agent lives.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), HEARTBEAT_SECONDS if self._owned else INCOMPLETE_GRACE_SECONDS)
            if self._latest is None:
                continue
            self._due.clear()
            try:
                await self._put(node_report(self._latest, self._version, self._pod))
            except KubeError as error:
                self._failed(str(error))
                self._due.set()
                await asyncio.sleep(backoff.next_seconds())
            else:
                self.problem = ""
                backoff.reset()
                await asyncio.sleep(LEAST_WRITE_INTERVAL_SECONDS)

    def _failed(self, words: str) -> None:
        self.errors += 1
        if words != self.problem:
            log.warning("writing this node's report: %s", words)
        self.problem = words

    async def _put(self, report: NodeReport) -> None:
        """Replace the whole status, which a JSON patch does without knowing what is there."""
        operations: list[Json] = [{"op": "add", "path": "/status", "value": status_of(report)}]
        if not self._owned:
            owners = [owner_reference(self._node, await self._node_uid())]
            operations.append({"op": "add", "path": "/metadata/ownerReferences", "value": owners})
        try:
            await self._client.patch(node_report_path(self._node), operations, kind="json")
        except ApiError as error:
            if not error.is_not_found:
                raise
            # There is none, perhaps because the Node was replaced by another of its name: its uid is asked for anew.
            self._owned = False
            await self._client.create(NODE_REPORT.path(), node_report_object(report, await self._node_uid()))
        self._owned = True

    async def _node_uid(self) -> str:
        """Raises ApiError when there is no Node: then there is no report either, because nobody would remove it."""
        return str((await self._client.get(NODE.path(name=self._node)))["metadata"]["uid"])


def node_report(report: AgentReport, version: str, pod: AgentPod | None) -> NodeReport:
    """What the API's readers are told of the agent's own report, as of now."""
    return NodeReport(
        node=report.node,
        policies=report.policies,
        in_sync=report.in_sync,
        complete=report.complete,
        time=times.now(),
        version=version,
        backend=report.backend.value,
        families=tuple(int(f) for f in report.families),
        revisions=report.revisions,
        agent=pod,
        sizes=report.sizes,
        failures=tuple(Failure(f.what, f.text, f.error) for f in report.failures),
        failure_count=len(report.failures),
        problems=report.problems,
        syncs=report.syncs,
        repairs=report.repairs,
        connections_cut=report.cut,
    )


def _matters(report: AgentReport) -> tuple[Mapping[str, str], tuple[object, ...]]:
    """What somebody may wait for, or should know at once."""
    return report.policies, (report.in_sync, report.complete, report.failures, report.problems, report.backend, report.families)


def own_version() -> str:
    try:
        return version("npctl")
    except PackageNotFoundError:
        return "unknown"
