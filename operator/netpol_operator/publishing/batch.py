"""A batch of the work queue, written phase by phase; what fails is logged once, and stays on the queue's list.

    WorkQueue --take--> for each Phase: items, less those blocked by a failure --IRWriter--> done or failed --finish--> WorkQueue

That a namespace is being deleted is no failure of ours and nobody's tampering: the API server deletes the CompiledPolicies in it
and lets nobody make them anew, until the NetworkPolicies are deleted too. It is logged at INFO.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable

from netpol_compiler.model.objects import Key
from netpol_kube.client import ApiError, KubeError
from netpol_operator.publishing.desired import DesiredIR
from netpol_operator.publishing.ir_writer import IRWriter
from netpol_operator.publishing.observed import Item, ObservedIR, kind_of
from netpol_operator.publishing.work_queue import Phase, WorkQueue, blocked_of, items_of
from netpol_operator.serving.metrics import OperatorMetrics

log = logging.getLogger("npctl.publish")


class BatchRunner:
    """Works off the queue's batches, one at a time."""

    def __init__(
        self, queue: WorkQueue, desired: DesiredIR, observed: ObservedIR, writer: IRWriter, metrics: OperatorMetrics
    ) -> None:
        self._queue = queue
        self._desired = desired
        self._observed = observed
        self._writer = writer
        self._metrics = metrics
        self._errors: dict[Item, KubeError] = {}
        self._deleted_by_others: set[Item] = set()

    def note_deletion(self, item: Item) -> None:
        """Somebody else deleted a policy's object. Why shows when it is written again."""
        self._deleted_by_others.add(item)

    async def run(self) -> int:
        """Write all that is queued. Returns how many objects were written or deleted. Raises NotLeading."""
        batch = self._queue.take()
        deleted = self._deleted_by_others & batch
        self._deleted_by_others -= deleted
        failed, done = set(self._queue.failed - batch), 0
        try:
            for phase in Phase:
                items = items_of(phase, batch, self._desired)
                blocked = blocked_of(phase, items, failed, self._desired, self._observed)
                work = self._writer.write if phase in (Phase.WRITE_SETS, Phase.WRITE_POLICIES) else self._writer.delete
                newly_failed, count = await self._each(work, items - blocked)
                failed |= blocked | newly_failed
                done += count
        except BaseException:
            # Also when cancelled or not leading any more: nothing that was to be compared is forgotten.
            self._queue.put_back(batch)
            raise
        self._queue.finish(batch, failed)
        self._explain(deleted)
        return done

    async def _each(self, work: Callable[[Item], Awaitable[int]], items: Iterable[Item]) -> tuple[set[Item], int]:
        """Do `work` for all items at once. Returns those that failed, and the sum of the others. Raises NotLeading."""
        wanted = list(items)
        results = await asyncio.gather(*map(work, wanted), return_exceptions=True)
        failed: set[Item] = set()
        done = 0
        for item, result in zip(wanted, results, strict=True):
            if isinstance(result, int):
                done += result
                if self._errors.pop(item, None) is not None:
                    log.info("%s: up to date again", item)
            elif isinstance(result, KubeError):
                self._log_failure(item, result)
                failed.add(item)
            else:
                raise result
        return failed, done

    def _log_failure(self, item: Item, error: KubeError) -> None:
        is_new = str(self._errors.get(item)) != str(error)
        self._errors[item] = error
        if _namespace_is_deleted(item, error):
            if is_new:
                log.info("%s: not written, as its namespace is being deleted", item)
            return
        self._metrics.errors.inc()
        if is_new:
            log.warning("%s: not written, to be tried again: %s", item, error)

    def _explain(self, deleted: Collection[Item]) -> None:
        """Say why objects were deleted by others, now that it is known what became of them."""
        for item in deleted:
            kind = kind_of(item)
            if not self._desired.is_wanted(item):
                log.info("%s %s was deleted; its NetworkPolicy is deleted too", kind, item)
            elif _namespace_is_deleted(item, self._errors.get(item)):
                log.info("%s %s was deleted with its namespace", kind, item)
            else:
                self._metrics.repairs.labels(kind).inc()
                log.warning("%s %s was deleted by somebody else; writing it again", kind, item)


def _namespace_is_deleted(item: Item, error: KubeError | None) -> bool:
    """Whether a write failed because the policy's namespace is being deleted, or is deleted already."""
    if not isinstance(item, Key) or not isinstance(error, ApiError):
        return False
    terminating = error.status == 403 and "being terminated" in error.message
    return terminating or (error.is_not_found and f'namespaces "{item.namespace}" not found' in error.message)
