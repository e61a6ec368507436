"""A node's report as a NodeReport of the API: what `npctl wait`, `npctl status` and the operator read.

In: the agent's reports, one after each step. Out: the object, owned by its Node, so that it goes when the Node goes. Written at
once when something changed that somebody may wait for, else every HEARTBEAT_SECONDS, and never more often than a reader can
use. One write is on its way at a time; the newest report is the one that is written; enforcement never waits for any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from netpol_agent.reporting.agent_report import AgentReport
from netpol_api.resources import API_VERSION, NODE_REPORT_SCHEMA, NODE_REPORTS, NODES, node_report_path
from netpol_kube.backoff import Backoff
from netpol_kube.client import ApiClient, ApiError, KubeError

log = logging.getLogger("agent")

Json = dict[str, Any]

HEARTBEAT_SECONDS = 60.0
"""Between two writes at most."""
LEAST_WRITE_INTERVAL_SECONDS = 0.1
INCOMPLETE_GRACE_SECONDS = 10.0
"""Until an agent that has just started, and whose inputs do not become complete, reports that."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.2, 10.0
"""Between two tries to write; doubled each time."""
MOST = 30
"""Failures and problems in one report at most; `failureCount` counts them all."""
LONGEST = 1000
"""Characters of one of them at most."""


@dataclass(frozen=True, slots=True)
class AgentPod:
    """Where the agent can be asked for what its kernel has, through the API server's proxy."""

    namespace: str
    pod: str
    port: int


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
                await self._put(self._status(self._latest))
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

    async def _put(self, status: Json) -> None:
        """Replace the whole status, which a JSON patch does without knowing what is there."""
        operations: list[Json] = [{"op": "add", "path": "/status", "value": status}]
        if not self._owned:
            owners = [await self._owner()]
            operations.append({"op": "add", "path": "/metadata/ownerReferences", "value": owners})
        try:
            await self._client.patch(node_report_path(self._node), operations, kind="json")
        except ApiError as error:
            if not error.is_not_found:
                raise
            await self._create(status)
        self._owned = True

    async def _create(self, status: Json) -> None:
        # There is none, perhaps because the Node was replaced by another of its name: its uid is asked for anew.
        metadata = {"name": self._node, "ownerReferences": [await self._owner()]}
        self._owned = False
        await self._client.create(
            NODE_REPORTS, {"apiVersion": API_VERSION, "kind": "NodeReport", "metadata": metadata, "status": status}
        )

    async def _owner(self) -> Json:
        """Raises ApiError when there is no Node: then there is no report either, because nobody would remove it."""
        node = await self._client.get(f"{NODES}/{self._node}")
        return {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]}

    def _status(self, report: AgentReport) -> Json:
        where = {"namespace": self._pod.namespace, "pod": self._pod.pod, "port": self._pod.port} if self._pod else None
        return {
            "schema": NODE_REPORT_SCHEMA,
            "node": self._node,
            "version": self._version,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **({"agent": where} if where else {}),
            **status_of(report),
        }


def status_of(report: AgentReport) -> Json:
    """The part of a NodeReport's status that the agent's own report gives."""
    failures = [{"what": f.what, "text": f.text[:LONGEST], "error": f.error[:LONGEST]} for f in report.failures[:MOST]]
    more = [f"and {len(report.problems) - MOST} problems more"] if len(report.problems) > MOST else []
    return {
        "backend": report.backend.value,
        "families": [int(f) for f in report.families],
        "inSync": report.in_sync,
        "complete": report.complete,
        "revisions": {kind: report.revisions.get(kind, "") for kind in ("pods", "addressSets", "compiledPolicies")},
        "policies": dict(report.policies),
        "policyCount": len(report.policies),
        "failures": failures,
        "failureCount": len(report.failures),
        "problems": [p[:LONGEST] for p in report.problems[:MOST]] + more,
        "sizes": report.sizes,
        "syncs": report.syncs,
        "repairs": report.repairs,
        "connectionsCut": report.cut,
    }


def _matters(report: AgentReport) -> tuple[Mapping[str, str], tuple[object, ...]]:
    """What somebody may wait for, or should know at once."""
    return report.policies, (report.in_sync, report.complete, report.failures, report.problems, report.backend, report.families)


def own_version() -> str:
    try:
        return version("npctl")
    except PackageNotFoundError:
        return "unknown"
