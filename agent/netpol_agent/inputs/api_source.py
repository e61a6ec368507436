"""An agent's inputs from the Kubernetes API: three watches in the background thread, `NodeInputs` between them and the agent.

    pods, spec.nodeName=NODE ------+
    CompiledPolicies of the bucket +--> NodeInputs --> Inbox --eventfd--> the agent's loop
    AddressSets of the bucket -----+        |
    CompiledPolicies by namespace, <--------+
    AddressSets by name

The watches bring only what a node of this node's bucket needs, because everything else grows with the cluster. A pod's isolation
never waits for the operator to learn where the pod runs: what the labels do not bring yet is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from netpol_agent.inputs.background import Background
from netpol_agent.inputs.mailbox import Inbox
from netpol_agent.inputs.node_inputs import NodeInputs
from netpol_agent.inputs.source import Delta
from netpol_api.address_set import SET_LABEL
from netpol_api.api_objects import version_number
from netpol_api.compiled_policy import compiled_policy_path
from netpol_api.kinds import ADDRESS_SET, COMPILED_POLICY, POD
from netpol_api.spans import bucket, span_label
from netpol_compiler.model.objects import Key
from netpol_kube.client import ApiClient, ApiError, KubeError, checked_object
from netpol_kube.reflector import Reflector

log = logging.getLogger("agent")

Json = dict[str, Any]

LOOK_SECONDS = 1.0
"""Between two looks at how the watches stand; their events are told at once."""
AWAY_SECONDS = 10.0
"""An API server that does not answer for longer is a problem to report."""
RETRY_SECONDS = 1.0
FETCHES = 4
"""Sets that are fetched at the same time at most."""


class KubeSource:
    """A `Source`. Everything in it but the `Source` methods runs in the background's thread."""

    def __init__(self, node: str, client: ApiClient, background: Background) -> None:
        self._client = client
        self._background = background
        self._loop = background.loop
        self._inbox = Inbox()
        self._inputs = NodeInputs(self._inbox, bucket(node))
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._fetches: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(FETCHES)
        self._confirming: set[Key] = set()
        selectors = {"fieldSelector": f"spec.nodeName={node}"}, {"labelSelector": span_label(bucket(node))}
        soon = self._settle_soon
        pods = _Sink(self._put_pod, lambda ns, n: self._gone_pod(Key(ns, n)))
        policies = _Sink(self._put_policy, lambda ns, n: self._left_policy(Key(ns, n)))
        sets = _Sink(self._put_set, lambda _, n: self._left_set(n))
        self._pods = Reflector(client, POD.path(), pods, selectors[0], on_listed=soon)
        self._policies = Reflector(client, COMPILED_POLICY.path(), policies, selectors[1], on_listed=self._policies_listed)
        self._sets = Reflector(client, ADDRESS_SET.path(), sets, selectors[1], on_listed=soon)

    def start(self) -> None:
        for reflector in self._reflectors:
            self._background.forever(f"watching {reflector.path}", reflector.run)
        self._background.forever("looking after the watches", self._look)

    # -- Source: the agent's thread --------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        return self._inbox.standing.complete

    @property
    def problems(self) -> tuple[str, ...]:
        return self._inbox.standing.problems

    @property
    def gaps(self) -> int:
        """How often events may have been missed, so that everything was listed again."""
        return sum(r.gaps for r in self._reflectors)

    @property
    def failures(self) -> int:
        """Requests to the API server for lists and watches that failed."""
        return sum(r.failures for r in self._reflectors)

    def changes(self) -> Delta:
        return self._inbox.take()

    def fileno(self) -> int:
        return self._inbox.fileno()

    def drain(self) -> None:
        self._inbox.drain()

    # -- what the watches tell -------------------------------------------------------------------------

    @property
    def _reflectors(self) -> tuple[Reflector, ...]:
        return (self._pods, self._policies, self._sets)

    def _put_pod(self, data: Json) -> None:
        self._inputs.put_pod(data, self._loop.time())
        self._settle_soon()

    def _gone_pod(self, key: Key) -> None:
        self._inputs.gone_pod(key, self._loop.time())
        self._settle_soon()

    def _put_policy(self, data: Json) -> None:
        self._inputs.put_policy(data, self._loop.time())
        self._settle_soon()

    def _left_policy(self, key: Key) -> None:
        if self._inputs.left_policy(key) and key not in self._confirming:
            self._confirming.add(key)
            self._do(self._confirm(key), f"confirming that policy {key} is gone")
        self._settle_soon()

    def _put_set(self, data: Json) -> None:
        self._inputs.put_set(data, self._loop.time())
        self._settle_soon()

    def _left_set(self, name: str) -> None:
        self._inputs.left_set(name)
        self._settle_soon()

    def _policies_listed(self) -> None:
        self._inputs.watch_listed({Key(*identity) for identity in self._policies.held}, self._loop.time())
        self._settle_soon()

    # -- settling --------------------------------------------------------------------------------------

    def _settle_soon(self) -> None:
        """After all events that have arrived already, which makes them one step."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._soon = False
        now = self._loop.time()
        if all(r.synced for r in self._reflectors):
            self._inputs.synced(now)
        self._inputs.watermark = version_number(self._sets.resource_version) or self._inputs.watermark
        self._inputs.revisions = {
            "pods": self._pods.resource_version,
            "addressSets": self._sets.resource_version,
            "compiledPolicies": self._policies.resource_version,
        }
        self._inputs.settle(now)
        for name in self._inputs.take_fetches(now):
            self._do(self._fetch(name), f"fetching set {name}")
        for namespace in self._inputs.known.take_asks(now):
            self._do(self._ask(namespace), f"listing the policies of namespace {namespace}")
        self._again(now)

    def _do(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    def _again(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self._inputs.due(now)
        self._timer = None if due is None else self._loop.call_at(due, self._settle_soon)

    async def _fetch(self, name: str) -> None:
        items: list[Json] = []
        version = ""
        try:
            async with self._slots:
                async for page in self._client.pages(ADDRESS_SET.path(), labelSelector=f"{SET_LABEL}={name}"):
                    items += page.items
                    version = page.resource_version
        except KubeError as error:
            log.warning("fetching set %s: %s", name, error)
            self._inputs.unfetched(name, RETRY_SECONDS, self._loop.time())
        else:
            self._inputs.fetched(name, items, version_number(version), self._loop.time())
        self._settle_soon()

    async def _ask(self, namespace: str) -> None:
        """All policies of a namespace, whatever their labels."""
        items: list[Json] = []
        version = ""
        try:
            async with self._slots:
                async for page in self._client.pages(COMPILED_POLICY.path(namespace)):
                    items += page.items
                    version = page.resource_version
        except KubeError as error:
            log.warning("listing the policies of namespace %s: %s", namespace, error)
            self._inputs.known.unlisted(namespace, RETRY_SECONDS, self._loop.time())
        else:
            self._inputs.listed(namespace, items, version_number(version), self._loop.time())
        self._settle_soon()

    async def _confirm(self, key: Key) -> None:
        """Whether a policy that left the watch is gone, or has only lost our label. Until that is known it stays.

        Asked as of the moment at which the watch stands: that answer comes from the API server's cache, not from etcd.
        """
        while True:
            version = self._policies.resource_version
            try:
                path = compiled_policy_path(key)
                data = checked_object(path, await self._client.get(path, **({"resourceVersion": version} if version else {})))
            except ApiError as error:
                if error.is_not_found:
                    self._inputs.gone_policy(key, self._loop.time())
                    break
                log.warning("policy %s: %s", key, error)
            except KubeError as error:
                log.warning("policy %s: %s", key, error)
            else:
                self._inputs.put_policy(data, self._loop.time())
                self._inputs.known.unlabelled(key.namespace, self._loop.time())
                break
            await asyncio.sleep(RETRY_SECONDS)
        self._confirming.discard(key)
        self._settle_soon()

    async def _look(self) -> None:
        while True:
            now = self._loop.time()
            for reflector in self._reflectors:
                if reflector.problem:
                    self._inputs.complaints.say(reflector.path, reflector.problem, now, AWAY_SECONDS)
                else:
                    self._inputs.complaints.clear(reflector.path)
            self._settle_soon()
            await asyncio.sleep(LOOK_SECONDS)


class _Sink:
    """Two functions as a reflector's sink."""

    def __init__(self, put: Callable[[Json], None], gone: Callable[[str, str], None]) -> None:
        self.put = put
        self.gone = gone
