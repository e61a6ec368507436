"""The numbers that people see with `kubectl get compiledpolicies`: pods selected, nodes in force of nodes that need it.

    Spans (pods, nodes) + NodeReports (what is in force) --coalesced, at most RATE a second--> CompiledPolicy.status

Nothing waits for these numbers (`npctl wait` reads the reports itself), so they come late and never in a flood.
NodeReports of nodes that are gone are removed here too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from netpol_api import resources
from netpol_compiler.model.objects import Key
from netpol_compiler.policy.span import Spans
from netpol_kube.client import ApiClient, ApiError, Json, KubeError
from netpol_operator.publishing.publisher import Publisher
from netpol_operator.publishing.requests import NotLeading

log = logging.getLogger("npctl.status")

RATE = 20
"""Status writes in a second, at most."""
TURN_SECONDS = 0.25


class ReportSink:
    """NodeReports, as far as they say what is in force where. One of another schema says nothing that is counted."""

    def __init__(self, on_change: Callable[[Key], None], on_new: Callable[[], None]) -> None:
        self.in_force: dict[str, dict[str, str]] = {}
        self._on_change = on_change
        self._on_new = on_new

    def put(self, data: Json) -> None:
        status = data.get("status")
        policies = None
        if isinstance(status, dict) and status.get("schema") == resources.NODE_REPORT_SCHEMA:
            policies = status.get("policies")
        self._change(str(data["metadata"]["name"]), dict(policies) if isinstance(policies, dict) else {})

    def gone(self, namespace: str, name: str) -> None:
        self._change(name, {})
        del self.in_force[name]

    def _change(self, node: str, new: dict[str, str]) -> None:
        if node not in self.in_force:
            # Its node may be gone already: an agent that outlives its Node reports once more.
            self._on_new()
        old = self.in_force.get(node, {})
        self.in_force[node] = new
        for text in {k for k, v in old.items() ^ new.items()}:
            namespace, _, name = text.partition("/")
            self._on_change(Key(namespace, name))


class NodeSink:
    """The names of the nodes there are."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.names: set[str] = set()
        self._on_change = on_change

    def put(self, data: Json) -> None:
        self.names.add(str(data["metadata"]["name"]))

    def gone(self, namespace: str, name: str) -> None:
        self.names.discard(name)
        self._on_change()


class StatusWriter:
    """Keeps the status of CompiledPolicies, and removes reports of nodes that are gone, while `leading()`."""

    def __init__(
        self, client: ApiClient, publisher: Publisher, spans: Spans, leading: Callable[[], bool], nodes_known: Callable[[], bool]
    ) -> None:
        self._nodes_changed = True
        self.reports = ReportSink(publisher.dirty_counts.add, self.look_at_nodes)
        self.nodes = NodeSink(self.look_at_nodes)
        self._client = client
        self._publisher = publisher
        self._spans = spans
        self._leading = leading
        self._nodes_known = nodes_known

    def look_at_nodes(self) -> None:
        """Reports of nodes that are gone may be there."""
        self._nodes_changed = True

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(TURN_SECONDS)
            if not self._leading() or not self._publisher.published_once:
                continue
            try:
                if self._nodes_changed and self._nodes_known():
                    self._nodes_changed = False
                    await self._remove_orphans()
                await self._turn()
            except NotLeading:
                continue
            except KubeError as error:
                self._nodes_changed = True
                log.warning("status: %s", error)

    async def _turn(self) -> None:
        dirty = self._publisher.dirty_counts
        wrote = 0
        while dirty and wrote < RATE * TURN_SECONDS:
            key = dirty.pop()
            policy, path = self._publisher.desired.policies.get(key), resources.compiled_policy_path(key)
            known = self._publisher.observed.objects.get(path)
            if policy is None or known is None:
                continue
            wanted = self.numbers(key, policy.digest)
            if known.status == wanted:
                continue
            wrote += 1
            try:
                await self._publisher.requests.write_status(path, wanted)
            except BaseException:
                dirty.add(key)
                raise

    def numbers(self, key: Key, digest: str) -> Json:
        """The status of one policy."""
        nodes = self._spans.nodes(key)
        name = str(key)
        in_force = sum(self.reports.in_force.get(node, {}).get(name) == digest for node in nodes)
        return {"pods": sum(nodes.values()), "nodes": len(nodes), "nodesInForce": in_force, "inForce": f"{in_force}/{len(nodes)}"}

    async def _remove_orphans(self) -> None:
        for name in sorted(set(self.reports.in_force) - self.nodes.names):
            try:
                await self._client.get(f"{resources.NODES}/{name}")
                continue
            except ApiError as error:
                if not error.is_not_found:
                    raise
            try:
                await self._client.delete(resources.node_report_path(name))
                log.info("node %s is gone: its report is removed", name)
            except ApiError as error:
                if not error.is_not_found:
                    raise
