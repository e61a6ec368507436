"""An agent's inputs from the Kubernetes API: three watches in the background thread, `NodeInputs` between them and the agent.

    pods, spec.nodeName=NODE ------+
    CompiledPolicies of the bucket +--> NodeInputs --> Mailbox --eventfd--> the agent's loop
    AddressSets of the bucket -----+        |
    CompiledPolicies by namespace, <--------+
    AddressSets by name

The watches bring only what a node of this node's bucket needs, because everything else grows with the cluster. A pod's isolation
never waits for the operator to learn where the pod runs: what the labels do not bring yet is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from netpol_agent.inputs.mailbox import Mailbox
from netpol_agent.inputs.node_inputs import NodeInputs
from netpol_agent.inputs.source import Delta
from netpol_agent.threads.background import Background
from netpol_api.address_set import SET_LABEL
from netpol_api.api_objects import Json, version_number
from netpol_api.compiled_policy import compiled_policy_path
from netpol_api.kinds import ADDRESS_SET, COMPILED_POLICY, POD
from netpol_api.spans import bucket, span_label
from netpol_compiler.model.objects import Key
from netpol_kube.client import ApiClient, ApiError, KubeError, checked_object
from netpol_kube.reflector import Reflector

log = logging.getLogger("agent")


WATCH_CHECK_SECONDS = 1.0
"""Between two looks at how the watches stand; their events are handled at once."""
WATCH_PROBLEM_SECONDS = 10.0
"""An API server that does not answer for longer is a problem to report."""
RETRY_SECONDS = 1.0
"""Between two requests, when the first was not answered."""
PARALLEL_REQUESTS = 4
"""Lists and fetches at the same time at most."""


class ApiSource:
    """A `Source`. Everything in it but the `Source` methods runs in the background's thread."""

    def __init__(self, node: str, client: ApiClient, background: Background) -> None:
        self._client = client
        """Asks for what the watches do not bring."""
        self._background = background
        """Runs the watches and requests."""
        self._mailbox = Mailbox()
        """What the agent's thread takes."""
        self._inputs = NodeInputs(self._mailbox, bucket(node))
        """Decides what matters here, and when it is handed over."""
        self._settling = False
        """Whether a step is to be handed over after the events that have arrived."""
        self._timer: asyncio.TimerHandle | None = None
        """When to settle although nothing comes in."""
        self._slots = asyncio.Semaphore(PARALLEL_REQUESTS)
        """Bounds the requests under way."""
        self._confirming: set[Key] = set()
        """Policies that are asked for by name."""
        of_node, of_bucket = {"fieldSelector": f"spec.nodeName={node}"}, {"labelSelector": span_label(bucket(node))}
        soon = self._settle_soon
        self._pods = Reflector(client, POD.path(), _Sink(self._put_pod, self._delete_pod), of_node, on_listed=soon)
        """Brings the pods of this node."""
        policies, sets = _Sink(self._put_policy, self._unwatch_policy), _Sink(self._put_set, self._unwatch_set)
        self._policies = Reflector(client, COMPILED_POLICY.path(), policies, of_bucket, on_listed=self._policies_listed)
        """Brings the policies that carry the label of this node's bucket."""
        self._sets = Reflector(client, ADDRESS_SET.path(), sets, of_bucket, on_listed=soon)
        """Brings the slices of sets that carry the label of this node's bucket."""

    def start(self) -> None:
        for reflector in self._reflectors:
            self._background.run(f"watching {reflector.path}", reflector.run)
        self._background.run("looking after the watches", self._check_watches)

    # -- Source: the agent's thread --------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        return self._mailbox.taken.complete

    @property
    def problems(self) -> tuple[str, ...]:
        return self._mailbox.status.problems

    @property
    def gaps(self) -> int:
        """How often events may have been missed, so that everything was listed again."""
        return sum(r.gaps for r in self._reflectors)

    @property
    def failures(self) -> int:
        """Requests to the API server for lists and watches that failed."""
        return sum(r.failures for r in self._reflectors)

    def changes(self) -> Delta:
        return self._mailbox.take()

    def fileno(self) -> int:
        return self._mailbox.fileno()

    def drain(self) -> None:
        self._mailbox.drain()

    # -- events of the watches -------------------------------------------------------------------------

    @property
    def _reflectors(self) -> tuple[Reflector, ...]:
        return (self._pods, self._policies, self._sets)

    @property
    def _now(self) -> float:
        return self._background.loop.time()

    def _put_pod(self, data: Json) -> None:
        self._inputs.put_pod(data, self._now)
        self._settle_soon()

    def _delete_pod(self, namespace: str, name: str) -> None:
        self._inputs.delete_pod(Key(namespace, name), self._now)
        self._settle_soon()

    def _put_policy(self, data: Json) -> None:
        self._inputs.put_policy(data, self._now)
        self._settle_soon()

    def _unwatch_policy(self, namespace: str, name: str) -> None:
        key = Key(namespace, name)
        if self._inputs.unwatch_policy(key) and key not in self._confirming:
            self._confirming.add(key)
            self._background.spawn(f"confirming that policy {key} was deleted", partial(self._confirm, key))
        self._settle_soon()

    def _put_set(self, data: Json) -> None:
        self._inputs.sets.put(data, self._now)
        self._settle_soon()

    def _unwatch_set(self, _: str, name: str) -> None:
        self._inputs.sets.unwatch(name)
        self._settle_soon()

    def _policies_listed(self) -> None:
        self._inputs.watch_listed({Key(*identity) for identity in self._policies.held}, self._now)
        self._settle_soon()

    # -- settling --------------------------------------------------------------------------------------

    def _settle_soon(self) -> None:
        """After all events that have arrived already, which makes them one step."""
        if not self._settling:
            self._settling = True
            self._background.loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = False
        now = self._now
        if all(r.synced for r in self._reflectors):
            self._inputs.synced(now)
        kinds = {"pods": self._pods, "addressSets": self._sets, "compiledPolicies": self._policies}
        self._inputs.reached({kind: reflector.resource_version for kind, reflector in kinds.items()})
        self._inputs.settle(now)
        for name in self._inputs.sets.fetches.take_due(now):
            self._background.spawn(f"fetching set {name}", partial(self._fetch, name))
        for namespace in self._inputs.namespaces.take_due(now):
            self._background.spawn(f"listing the policies of namespace {namespace}", partial(self._list_namespace, namespace))
        if self._timer is not None:
            self._timer.cancel()
        due = self._inputs.due(now)
        self._timer = None if due is None else self._background.loop.call_at(due, self._settle_soon)

    # -- requests --------------------------------------------------------------------------------------

    async def _fetch(self, name: str) -> None:
        """All slices of a set, whatever their labels."""
        found = await self._all_pages(f"fetching set {name}", ADDRESS_SET.path(), labelSelector=f"{SET_LABEL}={name}")
        if found is None:
            self._inputs.sets.fetch_failed(name, RETRY_SECONDS, self._now)
        else:
            self._inputs.sets.fetched(name, *found, self._now)
        self._settle_soon()

    async def _list_namespace(self, namespace: str) -> None:
        """All policies of a namespace, whatever their labels."""
        found = await self._all_pages(f"listing the policies of namespace {namespace}", COMPILED_POLICY.path(namespace))
        if found is None:
            self._inputs.namespaces.failed(namespace, RETRY_SECONDS, self._now)
        else:
            self._inputs.namespace_listed(namespace, *found, self._now)
        self._settle_soon()

    async def _all_pages(self, what: str, path: str, **params: Any) -> tuple[list[Json], int] | None:
        """The objects of a list and its resourceVersion; None when the API server does not answer."""
        items: list[Json] = []
        version = ""
        try:
            async with self._slots:
                async for page in self._client.pages(path, **params):
                    items += page.items
                    version = page.resource_version
        except KubeError as error:
            log.warning("%s: %s", what, error)
            return None
        return items, version_number(version)

    async def _confirm(self, key: Key) -> None:
        """Whether a policy that left the watch was deleted, or has only lost our label. Until that is known it stays.

        Asked as of the moment at which the watch stands: that answer comes from the API server's cache, not from etcd.
        """
        path = compiled_policy_path(key)
        while True:
            version = self._policies.resource_version
            try:
                data = checked_object(path, await self._client.get(path, **({"resourceVersion": version} if version else {})))
            except KubeError as error:
                if isinstance(error, ApiError) and error.is_not_found:
                    self._inputs.delete_policy(key, self._now)
                    break
                log.warning("policy %s: %s", key, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._inputs.put_policy(data, self._now)
                self._inputs.namespaces.policy_unlabelled(key.namespace, self._now)
                break
        self._confirming.discard(key)
        self._settle_soon()

    async def _check_watches(self) -> None:
        while True:
            for reflector in self._reflectors:
                if reflector.problem:
                    self._inputs.problems.report(reflector.path, reflector.problem, self._now, WATCH_PROBLEM_SECONDS)
                else:
                    self._inputs.problems.clear(reflector.path)
            self._settle_soon()
            await asyncio.sleep(WATCH_CHECK_SECONDS)


class _Sink:
    """Two functions as a reflector's sink."""

    def __init__(self, put: Callable[[Json], None], gone: Callable[[str, str], None]) -> None:
        self.put = put
        """An object is new or has changed."""
        self.gone = gone
        """An object was deleted, or does not match the watch any more."""
