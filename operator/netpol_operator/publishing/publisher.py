"""What should be in the API server against what is: the differences, written in the order that keeps every reader safe.

    Pipeline.flush, Spans --collect--> wanted, dirty --batch--> sets up -> policies up -> policies down -> sets down --> Store

One batch at a time; what changes meanwhile is in the next one. What fails is late: it is tried again after a while and holds up
only what depends on it. Spans grow with the change that needs them and shrink at an audit only, so that a pod that moves to and
fro costs no writes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from netpol_api.address_set import address_set_object, address_set_path
from netpol_api.api_objects import document_of
from netpol_api.compiled_policy import compiled_policy_object, compiled_policy_path
from netpol_api.kinds import ADDRESS_SET
from netpol_api.spans import bucket, span_labels, span_of
from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy, IRDelta
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.policy.slices import Slices
from netpol_compiler.policy.span import Spans
from netpol_kube.client import ApiClient, Json, KubeError
from netpol_operator.inputs.feed import Feed
from netpol_operator.publishing.store import NotLeading, Store, digest_of
from netpol_operator.serving.metrics import Metrics

log = logging.getLogger("npctl.publish")

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 2.0
"""Until what failed is tried again: doubled as long as that is of no use."""
REST = 2.0
"""After a batch whose computing took T, the next one waits REST x T: bursts are taken together, a third of a core is the most."""
LONGEST_REST = 0.5
STUCK_SECONDS = 120.0
"""Longer than any request may take (see netpol_kube.client.REQUEST_SECONDS), tried again once."""
PIECE = 50
"""Objects that a regular audit compares at once: all of a large cluster take seconds, in which no change may wait."""
TELL_EACH = 5
"""Changes of a batch that get a line each in the log; more are told as a sum."""


class Publisher:
    """The cluster's one writer of IR, once `ready()` and while `leading()`."""

    def __init__(
        self,
        client: ApiClient,
        pipeline: Pipeline,
        spans: Spans,
        metrics: Metrics,
        leading: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        self.feed: Feed | None = None
        self.policies: dict[Key, CompiledPolicy] = {}
        self.sets: dict[str, AddressSet] = {}
        self.store = Store(client, metrics, leading, self._foreign)
        self.dirty_counts: set[Key] = set()
        self.progress_at = time.monotonic()
        self.published_once = False
        self._pipeline = pipeline
        self._spans = spans
        self._metrics = metrics
        self._leading = leading
        self._ready = ready
        self._generations: dict[Key, int] = {}
        self._slices: dict[str, Slices[Any]] = {}
        self._members = 0
        self._dirty_sets: set[str] = set()
        self._dirty_policies: set[Key] = set()
        self._late_sets: set[str] = set()
        self._late_policies: set[Key] = set()
        self._complaints: dict[Any, str] = {}
        self._pause = RETRY_SECONDS
        self._retry: asyncio.TimerHandle | None = None
        self._stale_slices: set[str] = set()
        self._shrinking: set[str] = set()
        self.to_compare: deque[str] = deque()
        self._working = False
        self._kick = asyncio.Event()
        self._since = 0.0

    # -- what others tell ------------------------------------------------------------------------------

    def kick(self) -> None:
        """Something changed: look."""
        if not self._kick.is_set():
            self._since = time.perf_counter()
            self._kick.set()

    def policy_seen(self, key: Key) -> None:
        """A NetworkPolicy was handed over, perhaps only with a new generation."""
        self._dirty_policies.add(key)

    def compare_all(self) -> None:
        """Compare everything wanted with everything there, at once: after a start or a change of leader."""
        for path in self._all_paths():
            self._mark(path)
        self.kick()

    def compare_gradually(self) -> None:
        """The same as part of a regular audit, piece by piece, and let spans shrink; whatever changes meanwhile goes first."""
        self.to_compare = deque(self._all_paths())
        self.kick()

    def _all_paths(self) -> list[str]:
        """What is wanted or there, in the order that keeps readers safe: sets, policies, sets that nobody wants any more."""
        wanted = [address_set_path(name, 0) for name in self.sets]
        policies = [compiled_policy_path(key) for key in self.policies]
        there = sorted(self.store.there, key=self._is_unwanted_set)
        return list(dict.fromkeys((*wanted, *policies, *there)))

    def _is_unwanted_set(self, path: str) -> bool:
        kind, _, name = split(path)
        return kind == "AddressSet" and name.rpartition(".")[0] not in self.sets

    def _take_piece(self) -> None:
        """Mark the next objects that a regular audit compares."""
        for _ in range(min(PIECE, len(self.to_compare))):
            path = self.to_compare.popleft()
            known = self.store.there.get(path)
            if known is not None and not known.span <= self._span(path):
                self._shrinking.add(path)
            self._mark(path)

    def _foreign(self, path: str, data: Json | None) -> None:
        """Somebody else wrote or deleted an IR object: an earlier run, the leading replica, or a hand."""
        if path.startswith(ADDRESS_SET.path()) and data is not None and not (self.published_once and self._leading()):
            self._mirror(data)
        self._mark(path)
        if self.published_once and self._leading():
            self._metrics.repairs.labels("AddressSet" if path.startswith(ADDRESS_SET.path()) else "CompiledPolicy").inc()
            log.warning("%s was %s by somebody else; comparing it again", path, "deleted" if data is None else "written")
        self.kick()

    def _mirror(self, data: Json) -> None:
        """Remember which slice holds which member, so that a restart or a take-over moves none."""
        try:
            document = document_of(data)
            name, index = str(document["name"]), int(document["slice"])
            self._slices.setdefault(name, Slices()).mirror(index, wire.members_from_wire(document))
        except (wire.WireError, KeyError, TypeError, ValueError) as error:
            log.warning("AddressSet %s: %s; it is written anew if it is wanted", data["metadata"].get("name"), error)

    def _mark(self, path: str) -> None:
        kind, namespace, name = split(path)
        if kind == "AddressSet":
            self._dirty_sets.add(name.rpartition(".")[0])
            self._stale_slices.add(path)
        else:
            self._dirty_policies.add(Key(namespace, name))

    # -- the loop --------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        return len(self._dirty_sets | self._late_sets) + len(self._dirty_policies | self._late_policies)

    @property
    def stuck(self) -> str:
        """Why nothing has come of the work there is, though it could be done; empty when all is well.

        Slow is not stuck, and an API server that does not answer is nothing that a restart would mend.
        """
        idle = time.monotonic() - self.progress_at
        if not self._working or idle < STUCK_SECONDS:
            return ""
        return f"a batch has been under way for {idle:.0f} s without one write"

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._kick.wait()
            self._kick.clear()
            begun, cpu = self._since, time.process_time()
            self._take_piece()
            delta = self._collect()
            if self._ready() and self._leading():
                self._working, self.progress_at = True, time.monotonic()
                try:
                    done = await self._batch()
                except NotLeading:
                    continue
                finally:
                    self._working = False
                if done:
                    self._metrics.publish.observe(time.perf_counter() - begun)
                    self._tell(delta, time.perf_counter() - begun)
                self._after_batch()
            self._metrics.backlog.set(self.backlog)
            if self.to_compare:
                self.kick()
            rest = min(REST * (time.process_time() - cpu), LONGEST_REST)
            if rest > 0.01:
                await asyncio.sleep(rest)

    def _after_batch(self) -> None:
        if not self._late_sets and not self._late_policies:
            self._pause = RETRY_SECONDS
        elif self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(self._pause, self._try_again)
            self._pause = min(2 * self._pause, LONGEST_RETRY_SECONDS)
        if not self.published_once and not self._dirty_sets and not self._dirty_policies:
            self.published_once = True
            late = f", {self.backlog} objects not written yet" if self.backlog else ""
            log.info("the IR is complete: %d policies, %d sets%s", len(self.policies), len(self.sets), late)

    def _try_again(self) -> None:
        """What failed is compared once more."""
        self._retry = None
        self._dirty_sets |= self._late_sets
        self._dirty_policies |= self._late_policies
        self.kick()

    def _collect(self) -> IRDelta:
        """Compile what changed and note what has to be compared."""
        with self._metrics.compile.time():
            delta = self._pipeline.flush()
        for address_set in delta.sets_up:
            old = self.sets.get(address_set.name)
            self._members += len(address_set.members) - (len(old.members) if old else 0)
            self.sets[address_set.name] = address_set
            self._dirty_sets.add(address_set.name)
        for name in delta.sets_down:
            self._members -= len(self.sets.pop(name).members)
            self._dirty_sets.add(name)
        for policy in delta.policies_up:
            self.policies[policy.key] = policy
            self._spans.set_policy(policy)
            self._dirty_policies.add(policy.key)
        for key in delta.policies_down:
            self.policies.pop(key, None)
            self._generations.pop(key, None)
            self._spans.remove_policy(key)
            self._dirty_policies.add(key)
        dirty = self._spans.take_dirty()
        self.dirty_counts |= dirty.policies
        self._dirty_sets |= dirty.sets
        for namespace in dirty.namespaces:
            self._dirty_policies |= self._spans.policies_of(namespace)
        if self.feed is not None:
            # Taken now, with the content that was compiled of it: while a batch waits for its writes, newer ones are handed over.
            changed = self._dirty_policies & self.policies.keys()
            self._generations.update((key, self.feed.generations.get(key, 0)) for key in changed)
        self._metrics.sets.set(len(self.sets))
        self._metrics.members.set(self._members)
        self._metrics.policies.set(len(self.policies))
        if self.feed is not None:
            self._metrics.pods.set(len(self.feed.held["Pod"]))
            self._metrics.rejected.set(len(self.feed.problems))
        return delta

    async def _batch(self) -> int:
        """Write what is dirty. Returns how many writes succeeded; what failed is late. Raises NotLeading."""
        names, self._dirty_sets = self._dirty_sets, set()
        keys, self._dirty_policies = self._dirty_policies, set()
        late_sets, late_policies = self._late_sets - names, self._late_policies - keys
        try:
            bad, done = await self._each(self._write_set, [n for n in names if n in self.sets])
            late_sets |= bad
            held_back = {k for k in keys if k in self.policies and self.policies[k].set_names & late_sets}
            late_policies |= held_back
            up, down = [k for k in keys if k in self.policies and k not in held_back], [k for k in keys if k not in self.policies]
            for work, wanted in ((self._write_policy, up), (self._delete_policy, down)):
                bad_keys, count = await self._each(work, wanted)
                late_policies |= bad_keys
                done += count
            leaving = {n for n in names if n not in self.sets}
            if any(compiled_policy_path(k) in self.store.there for k in late_policies):
                # A policy that still stands as it was may name a set that nobody else wants: its set stays too.
                late_sets |= leaving
            else:
                bad, count = await self._each(self._delete_set, leaving)
                late_sets |= bad
                done += count
        except BaseException:
            # Also when cancelled or not leading any more: nothing that was to be compared is forgotten.
            self._dirty_sets |= names
            self._dirty_policies |= keys
            raise
        self._late_sets, self._late_policies = late_sets, late_policies
        return done

    async def _each(self, work: Callable[[Any], Awaitable[int]], items: Iterable[Any]) -> tuple[set[Any], int]:
        """Do `work` for all items at once. Returns those that failed, and the sum of the others. Raises NotLeading."""
        wanted = list(items)
        results = await asyncio.gather(*(work(item) for item in wanted), return_exceptions=True)
        bad: set[Any] = set()
        done = 0
        for item, result in zip(wanted, results, strict=True):
            if isinstance(result, int):
                done += result
                if self._complaints.pop(item, None) is not None:
                    log.info("%s: as it should be again", item)
            elif isinstance(result, KubeError):
                if self._complaints.get(item) != str(result):
                    log.warning("%s: not written, to be tried again: %s", item, result)
                self._complaints[item] = str(result)
                self._metrics.errors.inc()
                bad.add(item)
            else:
                raise result
        return bad, done

    # -- one object ------------------------------------------------------------------------------------

    async def _write_set(self, name: str) -> int:
        """The slices of a set that differ from what is there. Returns how many were written. Raises KubeError."""
        address_set = self.sets[name]
        slices = self._slices.setdefault(name, Slices())
        before = len(slices.parts)
        changed = slices.update(address_set.members)
        buckets = self._set_buckets(name)
        writes = []
        for index, members in enumerate(slices.parts):
            path = address_set_path(name, index)
            if index in changed or before != len(slices.parts) or self._outdated(path, buckets):
                # Until it is written it counts as stale: a failed write must not be taken for done.
                self._stale_slices.add(path)
                document = wire.slice_to_wire(address_set, index, len(slices.parts), members)
                writes.append(self._write_slice(path, address_set_object(document, self._labelled(path, buckets))))
        wanted = {address_set_path(name, index) for index in range(len(slices.parts))}
        surplus = self.store.slices.get(name, set()) - wanted
        done = sum(await asyncio.gather(*writes))
        await asyncio.gather(*(self.store.delete(path) for path in surplus))
        self._stale_slices -= surplus
        return done + len(surplus)

    async def _write_slice(self, path: str, body: Json) -> int:
        known = self.store.there.get(path)
        same = known is not None and known.digest == digest_of(body)
        same = same and known is not None and known.span == span_of(body["metadata"]["labels"])
        if not same:
            await self.store.write(path, body)
            self.progress_at = time.monotonic()
        self._stale_slices.discard(path)
        self._shrinking.discard(path)
        return int(not same)

    def _outdated(self, path: str, buckets: frozenset[int]) -> bool:
        """Whether an object has to be compared although its own content did not change."""
        known = self.store.there.get(path)
        return known is None or not buckets <= known.span or path in self._stale_slices or path in self._shrinking

    def _labelled(self, path: str, buckets: frozenset[int]) -> frozenset[int]:
        """The span to write: what is there never shrinks but in an audit."""
        known = self.store.there.get(path)
        return buckets if known is None or path in self._shrinking else buckets | known.span

    async def _write_policy(self, key: Key) -> int:
        policy = self.policies[key]
        body = compiled_policy_object(policy, self._generations.get(key, 0), self._needs(policy))
        path = compiled_policy_path(key)
        buckets = self._policy_buckets(key.namespace)
        known = self.store.there.get(path)
        if known is not None and not self._outdated(path, buckets) and known.digest == digest_of(body):
            return 0
        body["metadata"]["labels"] = span_labels(self._labelled(path, buckets))
        await self.store.write(path, body)
        self.progress_at = time.monotonic()
        self._shrinking.discard(path)
        return 1

    async def _delete_policy(self, key: Key) -> int:
        path = compiled_policy_path(key)
        known = path in self.store.there
        await self.store.delete(path)
        return int(known)

    async def _delete_set(self, name: str) -> int:
        paths = list(self.store.slices.get(name, ()))
        await asyncio.gather(*(self.store.delete(path) for path in paths))
        self._slices.pop(name, None)
        self._stale_slices.difference_update(paths)
        return len(paths)

    def _needs(self, policy: CompiledPolicy) -> dict[str, str]:
        """The newest resourceVersion among the slices of each set that a policy names."""
        found: dict[str, str] = {}
        for name in policy.set_names:
            versions = [self.store.there[p].version for p in self.store.slices.get(name, ())]
            if versions:
                found[name] = str(max(versions))
        return found

    def _set_buckets(self, name: str) -> frozenset[int]:
        return frozenset(map(bucket, self._spans.nodes_of_set(name)))

    def _policy_buckets(self, namespace: str) -> frozenset[int]:
        return frozenset(map(bucket, self._spans.nodes_of_namespace(namespace)))

    def _span(self, path: str) -> frozenset[int]:
        kind, namespace, name = split(path)
        return self._set_buckets(name.rpartition(".")[0]) if kind == "AddressSet" else self._policy_buckets(namespace)

    def _tell(self, delta: IRDelta, seconds: float) -> None:
        """One line for each change worth a human's time; a flood is told as a sum."""
        took = f"in {seconds * 1000:.0f} ms"
        if len(delta.policies_up) + len(delta.policies_down) > TELL_EACH:
            log.info("%d policies published, %d removed, %d sets %s", len(delta.policies_up), len(delta.policies_down),
                     len(delta.sets_up), took)  # fmt: skip
            return
        for policy in delta.policies_up:
            isolates = ",".join(d.api_name for d in Direction if d in policy.directions)
            log.info("policy %s published %s: isolates %s, %d rules, %d sets, %d rejected parts, for %d nodes", policy.key, took,
                     isolates or "nothing", len(policy.rules), len(policy.set_names), len(policy.rejected),
                     len(self._spans.nodes(policy.key)))  # fmt: skip
        for key in delta.policies_down:
            log.info("policy %s removed %s", key, took)


def split(path: str) -> tuple[str, str, str]:
    """(kind, namespace, name) of an IR object's path."""
    *_, second, kind, name = path.split("/")
    return ("AddressSet", "", name) if kind == "addresssets" else ("CompiledPolicy", second, name)
