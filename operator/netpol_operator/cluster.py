"""The operator on the Kubernetes API: the one file in which its parts are wired.

    kopf: NetworkPolicy, Namespace --event--+
    pod reflector (paged) ------------------+--> Feed --> Pipeline, Spans --> Publisher --> IR objects
    audit: paged metadata lists ------------+      |                             ^         '<-- reflectors: others' changes
    Election (Lease): who publishes ---------------|-----------------------------+
    NodeReports, Nodes --> StatusWriter            '--> Events on NetworkPolicies

kopf is the runtime: login, start, stop, and the handlers. It writes nothing to users' objects: there are only event
handlers. All of it runs in one loop in one thread. Nothing is published before every kind is completely listed and the
lease is held.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import kopf
import uvloop

from netpol_api import resources
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.policy.span import Spans
from netpol_kube.client import ApiClient
from netpol_kube.credentials import Credentials, CredentialsError
from netpol_kube.reflector import Reflector
from netpol_operator.election import Election
from netpol_operator.inputs.audit import Audit
from netpol_operator.inputs.feed import Feed, ParsedPolicy, PodSink
from netpol_operator.inputs.kopf_storage import NoDiffBase, NoProgress
from netpol_operator.publishing.events import EventRecorder
from netpol_operator.publishing.observed import ObservedSink
from netpol_operator.publishing.publisher import Publisher
from netpol_operator.publishing.status import StatusWriter
from netpol_operator.serving.http import HttpServer
from netpol_operator.serving.metrics import OperatorMetrics

log = logging.getLogger("npctl.operator")

GC_THRESHOLDS = 50_000, 50, 1_000
"""Python looks for circles of garbage seldom: a large cluster has few and millions of objects, and looking at them all again and
again took a quarter of the operator's start, and pauses afterwards."""
TOKEN_SECONDS = 300
"""kopf logs in again after so long, because a service account's token is rotated."""


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """`namespace`: where the lease is. `identity`: this replica's name. `http`: (address, port) to serve on, None not to."""

    credentials: Credentials
    namespace: str
    identity: str
    http: tuple[str, int] | None = None


class Backoffs:
    """kopf's pauses between tries of a request: short, and as many as an upgrade of the API server may last."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.1, 0.3, 0.5)
        yield from (1.0 for _ in range(600))


class ClusterOperator:
    """One replica. `registry` holds kopf's handlers; `start` and `stop` are its activities."""

    def __init__(self, options: OperatorOptions) -> None:
        self._options = options
        self.metrics = OperatorMetrics()
        self.pipeline = Pipeline()
        self.spans = Spans()
        self._tasks: list[asyncio.Task[None]] = []
        self.registry = self._handlers()

    # -- kopf ------------------------------------------------------------------------------------------

    def _handlers(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.startup(registry=registry)
        async def begin(settings: kopf.OperatorSettings, **_: Any) -> None:
            configure(settings)
            await self.start()

        @kopf.on.cleanup(registry=registry)
        async def end(**_: Any) -> None:
            await self.stop()

        @kopf.on.login(registry=registry)
        def login(**_: Any) -> kopf.ConnectionInfo:
            return connection(self._options.credentials)

        @kopf.on.event("networking.k8s.io", "v1", "networkpolicies", registry=registry)
        async def policy(event: Any, **_: Any) -> None:
            self.handed_over("NetworkPolicy", event)

        @kopf.on.event("", "v1", "namespaces", registry=registry)
        async def namespace(event: Any, **_: Any) -> None:
            self.handed_over("Namespace", event)

        return registry

    def handed_over(self, kind: str, event: Any) -> None:
        """One of kopf's events: type None for what a list gave, else ADDED, MODIFIED, DELETED."""
        how = event["type"]
        self.metrics.events.labels(kind, how or "LISTED").inc()
        if how == "DELETED":
            self.feed.on_delete_event(kind, event["object"])
        elif not self.feed.on_update(kind, event["object"]) and how is None and self.audit.complete:
            # kopf lists anew only after its watch broke: it never hands over what was deleted in between.
            self.metrics.gaps.labels(kind).inc()
            self.audit.request()

    # -- start and stop --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the parts in kopf's loop and let them run."""
        options = self._options
        self.client = client = ApiClient(options.credentials, user_agent="npctl-operator")
        self.election = Election(client, options.namespace, options.identity, self._leadership)
        leading = lambda: self.election.leading  # noqa: E731  # asked before every write, so it is the shortest there is
        self.events = EventRecorder(client, options.identity, leading)
        self.feed = Feed(self.pipeline, self.spans, self._on_change, self._on_policy, self.events.forget)
        self.publisher = Publisher(client, self.feed, self.pipeline, self.spans, self.metrics, leading, self.is_complete)
        self.audit = Audit(client, self.feed, self.metrics, self._audited)
        self.status = StatusWriter(client, self.publisher, self.spans, leading, self._nodes_known)
        self._pods = self._reflector(resources.PODS, PodSink(self.feed), "Pod")
        observed = self.publisher.observed
        sets = ObservedSink(observed, lambda _, name: f"{resources.ADDRESS_SETS}/{name}")
        policies = ObservedSink(observed, lambda space, name: f"{resources.compiled_policies_path(space)}/{name}")
        self._sets = self._reflector(resources.ADDRESS_SETS, sets, "AddressSet")
        self._policies = self._reflector(resources.COMPILED_POLICIES, policies, "CompiledPolicy")
        self._nodes = self._reflector(resources.NODES, self.status.nodes, "Node", metadata_only=True)
        self._reports = self._reflector(resources.NODE_REPORTS, self.status.reports, "NodeReport")
        watches = (self._pods, self._sets, self._policies, self._nodes, self._reports)
        parts = (self.election, self.publisher, self.audit, self.events, self.status)
        for work in (*watches, *parts):
            self._run(work.run(), type(work).__name__)
        if options.http is not None:
            self._http = HttpServer(*options.http, self.metrics.text, self.unhealthy, self.unready)
            await self._http.start()

    def _reflector(self, path: str, sink: Any, kind: str, metadata_only: bool = False) -> Reflector:
        def gap() -> None:
            self.metrics.gaps.labels(kind).inc()
            self.audit.request()

        return Reflector(self.client, path, sink, on_gap=gap, on_listed=self.publisher.kick, metadata_only=metadata_only)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_end_with)
        self._tasks.append(task)

    async def stop(self) -> None:
        """Give the lease back and end. What is published stays in force."""
        await self.election.release()
        for task in self._tasks:
            task.remove_done_callback(_end_with)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._options.http is not None:
            await self._http.stop()
        await self.client.close()

    # -- what follows from what ------------------------------------------------------------------------

    def is_complete(self) -> bool:
        """Whether every kind, and the IR itself, was completely listed: before that nothing may be published or deleted."""
        return self.audit.complete and self._pods.synced and self._sets.synced and self._policies.synced

    def _nodes_known(self) -> bool:
        return self._nodes.synced and self._reports.synced

    def _on_change(self) -> None:
        self.publisher.kick()

    def _on_policy(self, parsed: ParsedPolicy) -> None:
        self.publisher.on_policy(parsed.policy.key)
        self.events.on_policy(parsed)

    def _leadership(self, leads: bool) -> None:
        self.metrics.leader.set(leads)
        if leads:
            self.publisher.compare_all()

    def _audited(self, regular: bool) -> None:
        self.status.look_at_nodes()
        if regular:
            self.publisher.compare_gradually()
        else:
            self.publisher.kick()

    # -- health ----------------------------------------------------------------------------------------

    def unhealthy(self) -> str:
        """Why a restart would help; empty when it would not."""
        return self.publisher.progress.stuck if self.election.leading else ""

    def unready(self) -> str:
        """Why this replica could not take over now; empty when it could."""
        return "" if self.is_complete() else "the first lists are not complete"


def _end_with(task: asyncio.Task[None]) -> None:
    """A part has ended by itself: that is a fault. Log it and end, so that the kubelet starts us anew; enforcement stays."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("%s failed", task.get_name(), exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)


def configure(settings: kopf.OperatorSettings) -> None:
    """kopf as a runtime that only listens."""
    settings.posting.enabled = False  # Events are ours alone, one for each change
    settings.scanning.disabled = True  # we handle two kinds that every cluster has
    settings.networking.error_backoffs = Backoffs()
    settings.watching.reconnect_backoff = 0.1
    settings.watching.server_timeout = 300
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()


def connection(credentials: Credentials) -> kopf.ConnectionInfo:
    """Our credentials in kopf's form. Raises CredentialsError."""
    from datetime import UTC, datetime, timedelta

    rotated = credentials.token_file is not None
    token = credentials.bearer()
    name, _, password = ("" if token else credentials.basic).partition(":")
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_data=credentials.ca.encode() or None,
        insecure=credentials.insecure or None,
        scheme="Bearer",
        token=token or None,
        username=name or None,
        password=password or None,
        proxy_url=credentials.proxy or None,
        certificate_data=credentials.certificate.encode() or None,
        private_key_data=credentials.key.encode() or None,
        expiration=datetime.now(UTC) + timedelta(seconds=TOKEN_SECONDS) if rotated else None,
    )


def run_on_cluster(options: OperatorOptions) -> None:
    """Serve until SIGTERM or SIGINT. Raises CredentialsError for a kubeconfig that kopf cannot use."""
    if options.credentials.server_name:
        raise CredentialsError(
            "the operator cannot use a kubeconfig with tls-server-name", "name the server as its certificate does"
        )
    gc.set_threshold(*GC_THRESHOLDS)
    operator = ClusterOperator(options)
    for noisy in ("kopf", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Standalone for kopf's own peering alone: the Lease decides who publishes (see election).
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(kopf.operator(registry=operator.registry, clusterwide=True, standalone=True))
