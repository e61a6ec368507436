"""The operator's publisher: makes the IR at the API server as it should be, in the order that keeps every reader safe.

    Feed --> Pipeline, Spans                         reflectors: AddressSets, CompiledPolicies
                  | flush                                   | on_update, on_delete
                  v                                         v
              DesiredIR ------------ differences -------- ObservedIR <-----.
                  |                       |                 | on_foreign   | answers
                  '-- IRChanges --> WorkQueue <-------------'              |
                                          | batch, phase by phase          |
                                          v                                |
                                      BatchRunner --> IRWriter --> CheckedRequests --> API server

One batch at a time; what changes meanwhile is in the next one. A regular audit compares everything, piece by piece. This module
decides when; what is written is IRWriter's, and in which order the work queue's.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from netpol_api import resources
from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key
from netpol_compiler.policy.ir import IRDelta
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.policy.span import Spans
from netpol_kube.client import ApiClient, Json
from netpol_operator.inputs.feed import Feed
from netpol_operator.publishing.batch import BatchRunner
from netpol_operator.publishing.desired import DesiredIR
from netpol_operator.publishing.ir_writer import IRWriter
from netpol_operator.publishing.observed import ObservedIR, item_of, kind_of
from netpol_operator.publishing.pace import BatchProgress, RetryTimer, Wakeup, rest
from netpol_operator.publishing.requests import CheckedRequests, NotLeading
from netpol_operator.publishing.work_queue import WorkQueue
from netpol_operator.serving.metrics import OperatorMetrics

log = logging.getLogger("npctl.publish")

OBJECTS_PER_PIECE = 50
"""Objects that a regular audit compares at once: all of a large cluster take seconds, in which no change may wait."""
LOGGED_CHANGES = 5
"""Changes of a batch that get a line each in the log; more are logged as a sum."""


class Publisher:
    """The cluster's one writer of IR, once `ready()` and while `leading()`.

    `published_once`: whether the IR was once complete at the API server. `dirty_counts`: policies whose status is to be written.
    `to_compare`: the paths that a regular audit has not compared yet.
    """

    def __init__(
        self,
        client: ApiClient,
        feed: Feed,
        pipeline: Pipeline,
        spans: Spans,
        metrics: OperatorMetrics,
        leading: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        self.published_once = False
        self.dirty_counts: set[Key] = set()
        self.to_compare: deque[str] = deque()
        self.desired = DesiredIR(feed, pipeline, spans, metrics)
        self.observed = ObservedIR(self._on_foreign)
        self.requests = CheckedRequests(client, self.observed, metrics, leading)
        self.queue = WorkQueue()
        self.progress = BatchProgress()
        self._writer = IRWriter(self.desired, self.observed, self.requests, self.progress.step)
        self._batches = BatchRunner(self.queue, self.desired, self.observed, self._writer, metrics)
        self._retry = RetryTimer(self._retry_failed)
        self._wakeup = Wakeup()
        self._metrics = metrics
        self._leading = leading
        self._ready = ready

    # -- what others say -------------------------------------------------------------------------------

    def kick(self) -> None:
        """Something has changed: look."""
        self._wakeup.set()

    def on_policy(self, key: Key) -> None:
        """A NetworkPolicy was handed over, perhaps only with a new generation."""
        self.queue.add(key)

    def compare_all(self) -> None:
        """Compare everything desired with everything observed, at once: after a start or a change of leader."""
        for path in self._all_paths():
            self._mark(path)
        self.kick()

    def compare_gradually(self) -> None:
        """The same as part of a regular audit, piece by piece, and let spans shrink; whatever changes meanwhile goes first."""
        self.to_compare = deque(self._all_paths())
        self.kick()

    def _all_paths(self) -> list[str]:
        """What is desired or observed, in the order that keeps readers safe: sets, policies, sets that nobody wants any more."""
        sets = [resources.address_set_path(name, 0) for name in self.desired.sets]
        policies = [resources.compiled_policy_path(key) for key in self.desired.policies]
        observed = sorted(self.observed.objects, key=self._is_unwanted_set)
        return list(dict.fromkeys((*sets, *policies, *observed)))

    def _is_unwanted_set(self, path: str) -> bool:
        item = item_of(path)
        return not isinstance(item, Key) and not self.desired.is_wanted(item)

    def _take_piece(self) -> None:
        """Queue the next objects that a regular audit compares."""
        for _ in range(min(OBJECTS_PER_PIECE, len(self.to_compare))):
            path = self.to_compare.popleft()
            self._writer.let_shrink(path)
            self._mark(path)

    def _mark(self, path: str) -> None:
        self.queue.add(item_of(path))
        self._writer.mark_stale(path)

    def _on_foreign(self, path: str, data: Json | None) -> None:
        """Somebody else wrote or deleted an IR object: an earlier run, the leading replica, or a hand."""
        item, repairs = item_of(path), self.published_once and self._leading()
        if not isinstance(item, Key) and data is not None and not repairs:
            self._writer.adopt(data)
        self._mark(path)
        if repairs and data is None and isinstance(item, Key):
            self._batches.note_deletion(item)
        elif repairs:
            kind, what = kind_of(item), "deleted" if data is None else "written"
            self._metrics.repairs.labels(kind).inc()
            log.warning("%s %s was %s by somebody else; comparing it again", kind, item, what)
        self.kick()

    # -- the loop --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            begun, computing = await self._wakeup.wait(), time.process_time()
            self._take_piece()
            delta = self._collect()
            if self._ready() and self._leading():
                try:
                    done = await self._run_batch()
                except NotLeading:
                    continue
                if done:
                    self._metrics.publish.observe(time.perf_counter() - begun)
                    self._log_changes(delta, time.perf_counter() - begun)
                self._after_batch()
            self._metrics.backlog.set(self.queue.backlog)
            if self.to_compare:
                self.kick()
            await rest(time.process_time() - computing)

    def _collect(self) -> IRDelta:
        """Compile what has changed and queue what has to be compared."""
        changes = self.desired.flush()
        self.queue.add(*changes.items)
        self.dirty_counts |= changes.counts
        self.desired.note_generations(self.queue.queued)
        return changes.delta

    async def _run_batch(self) -> int:
        self.progress.begin()
        try:
            return await self._batches.run()
        finally:
            self.progress.end()

    def _after_batch(self) -> None:
        self._retry.after_batch(failed=bool(self.queue.failed))
        if not self.published_once and not self.queue.queued:
            self.published_once = True
            late = f", {self.queue.backlog} objects not written yet" if self.queue.backlog else ""
            log.info("the IR is complete: %d policies, %d sets%s", len(self.desired.policies), len(self.desired.sets), late)

    def _retry_failed(self) -> None:
        self.queue.retry()
        self.kick()

    def _log_changes(self, delta: IRDelta, seconds: float) -> None:
        """One line for each change; many are logged as a sum."""
        took = f"in {seconds * 1000:.0f} ms"
        if len(delta.policies_up) + len(delta.policies_down) > LOGGED_CHANGES:
            log.info("%d policies published, %d removed, %d sets %s", len(delta.policies_up), len(delta.policies_down),
                     len(delta.sets_up), took)  # fmt: skip
            return
        for policy in delta.policies_up:
            isolates = ",".join(d.api_name for d in Direction if d in policy.directions)
            log.info("policy %s published %s: isolates %s, %d rules, %d sets, %d rejected parts, for %d nodes", policy.key, took,
                     isolates or "nothing", len(policy.rules), len(policy.set_names), len(policy.rejected),
                     self.desired.node_count(policy.key))  # fmt: skip
        for key in delta.policies_down:
            log.info("policy %s removed %s", key, took)
