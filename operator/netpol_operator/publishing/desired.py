"""The IR as it should be: what the pipeline has compiled, for which nodes, of which generation of each NetworkPolicy.

    Feed --> Pipeline, Spans --flush--> DesiredIR: policies, sets, generations, buckets of nodes
                                            '--> IRChanges: what has to be compared with the API server

No I/O, one thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netpol_api import resources
from netpol_compiler.model.objects import Key
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy, IRDelta
from netpol_compiler.policy.pipeline import Pipeline
from netpol_compiler.policy.span import Spans
from netpol_operator.inputs.feed import Feed
from netpol_operator.publishing.observed import Item
from netpol_operator.serving.metrics import OperatorMetrics


@dataclass(frozen=True, slots=True)
class IRChanges:
    """What one flush changed. `items`: all that must be compared, also where only a span has changed.

    `counts`: policies whose pods or nodes have changed, so that their status is no longer true.
    """

    delta: IRDelta
    items: frozenset[Item]
    counts: frozenset[Key]


class DesiredIR:
    """`policies` and `sets` as they were last compiled; `generations`: of the NetworkPolicy that a policy was compiled from."""

    def __init__(self, feed: Feed, pipeline: Pipeline, spans: Spans, metrics: OperatorMetrics) -> None:
        self.policies: dict[Key, CompiledPolicy] = {}
        self.sets: dict[str, AddressSet] = {}
        self.generations: dict[Key, int] = {}
        self._feed = feed
        self._pipeline = pipeline
        self._spans = spans
        self._metrics = metrics
        self._member_count = 0

    def flush(self) -> IRChanges:
        """Compile what has changed."""
        with self._metrics.compile.time():
            delta = self._pipeline.flush()
        for address_set in delta.sets_up:
            old = self.sets.get(address_set.name)
            self._member_count += len(address_set.members) - (len(old.members) if old else 0)
            self.sets[address_set.name] = address_set
        for name in delta.sets_down:
            self._member_count -= len(self.sets.pop(name).members)
        for policy in delta.policies_up:
            self.policies[policy.key] = policy
            self._spans.set_policy(policy)
        for key in delta.policies_down:
            self.policies.pop(key, None)
            self.generations.pop(key, None)
            self._spans.remove_policy(key)
        dirty = self._spans.take_dirty()
        sets = {s.name for s in delta.sets_up}.union(delta.sets_down, dirty.sets)
        policies = {p.key for p in delta.policies_up}.union(delta.policies_down, *map(self._spans.policies_of, dirty.namespaces))
        self._set_gauges()
        return IRChanges(delta, frozenset(sets | policies), dirty.policies)

    def note_generations(self, items: Iterable[Item]) -> None:
        """Remember the generations of policies that are about to be compared.

        Taken with the content that was compiled of them: while a batch waits for its writes, newer ones are handed over.
        """
        changed = [item for item in items if isinstance(item, Key) and item in self.policies]
        self.generations.update((key, self._feed.generations.get(key, 0)) for key in changed)

    def is_wanted(self, item: Item) -> bool:
        """Whether a set or policy should be at the API server at all."""
        return item in (self.policies if isinstance(item, Key) else self.sets)

    def buckets(self, item: Item) -> frozenset[int]:
        """The buckets of the nodes that need a set, or are told of a policy."""
        spans = self._spans
        nodes = spans.nodes_of_namespace(item.namespace) if isinstance(item, Key) else spans.nodes_of_set(item)
        return frozenset(map(resources.bucket, nodes))

    def node_count(self, key: Key) -> int:
        """How many nodes run a pod that the policy selects."""
        return len(self._spans.nodes(key))

    def _set_gauges(self) -> None:
        self._metrics.sets.set(len(self.sets))
        self._metrics.members.set(self._member_count)
        self._metrics.policies.set(len(self.policies))
        self._metrics.pods.set(len(self._feed.cached["Pod"]))
        self._metrics.rejected.set(len(self._feed.problems))
