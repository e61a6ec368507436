"""Which nodes need which policy and set, kept up to date one change at a time: the span.

    set_/remove_ pod ----+--> LabelIndex (pod <-> policy) --> pods and nodes of each policy
    set_/remove_ policy -+--> sets of each policy ----------> nodes of each set

A node needs a set when it runs a pod that a policy selects which names it. It is told of every policy of the namespaces of
its pods: then a label that changes on one of them never has to wait for anybody. A pod counts from the moment it is bound to
a node, before it has an address: policies and sets are on their way while it starts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.policy.ir import CompiledPolicy
from netpol_compiler.policy.label_index import GroupSelector, LabelIndex


@dataclass(eq=False, slots=True)
class _Policy:
    """The sets that a policy names, and how many pods it selects on each node; nodes without any are left out."""

    sets: frozenset[str]
    nodes: Counter[str] = field(default_factory=Counter)


class Dirty(NamedTuple):
    """Policies whose counts, sets whose nodes, and namespaces whose nodes may have changed."""

    policies: frozenset[Key]
    sets: frozenset[str]
    namespaces: frozenset[str]


class Spans:
    """See the module's docstring. Not thread-safe."""

    def __init__(self) -> None:
        # Which policies select which counting pods, and those pods' nodes.
        self._labels: LabelIndex[Key, Key] = LabelIndex()
        self._pods: dict[Key, str] = {}
        # The policies by key, by namespace, and by the sets that they name.
        self._policies: dict[Key, _Policy] = {}
        self._by_namespace: dict[str, set[Key]] = defaultdict(set)
        self._users: dict[str, set[Key]] = defaultdict(set)
        # How many counting pods of a namespace run on each node.
        self._namespaces: dict[str, Counter[str]] = defaultdict(Counter)
        # See `Dirty`.
        self._dirty_policies: set[Key] = set()
        self._dirty_sets: set[str] = set()
        self._dirty_namespaces: set[str] = set()

    # -- what there is -----------------------------------------------------------------------------

    def set_pod(self, pod: Pod) -> None:
        node = pod.node if pod.is_live else ""
        if node and node == self._pods.get(pod.key) and pod.labels == self._labels.labels_of(pod.key):
            return
        self.remove_pod(pod.key)
        if node:
            self._pods[pod.key] = node
            self._labels.set_entity(pod.key, pod.key.namespace, pod.labels)
            self._count(pod.key, node, +1)

    def remove_pod(self, key: Key) -> None:
        node = self._pods.pop(key, None)
        if node is not None:
            self._count(key, node, -1)
            self._labels.remove_entity(key)

    def set_policy(self, policy: CompiledPolicy) -> None:
        key, sets = policy.key, policy.set_names
        if key not in self._policies:
            self._policies[key] = _Policy(frozenset())
            self._by_namespace[key.namespace].add(key)
            self._dirty_policies.add(key)
        known = self._policies[key]
        change = self._labels.set_group(key, GroupSelector(key.namespace, None, policy.pod_selector))
        for pods, step in ((change.gained, +1), (change.lost, -1)):
            for pod in pods:
                self._count_policy(key, self._pods[pod], step)
        self._use(key, known.sets, sets)
        known.sets = sets

    def remove_policy(self, key: Key) -> None:
        old = self._policies.pop(key, None)
        if old is None:
            return
        self._labels.remove_group(key)
        self._by_namespace[key.namespace].discard(key)
        self._use(key, old.sets, frozenset())
        self._dirty_policies.add(key)

    # -- what follows ------------------------------------------------------------------------------

    def nodes(self, policy: Key) -> Mapping[str, int]:
        """Node -> how many pods of it the policy selects; nodes without any are left out."""
        found = self._policies.get(policy)
        return found.nodes if found else {}

    def nodes_of_set(self, name: str) -> frozenset[str]:
        """The nodes that need a set."""
        return frozenset(node for key in self._users.get(name, ()) for node in self._policies[key].nodes)

    def nodes_of_namespace(self, namespace: str) -> frozenset[str]:
        """The nodes that run a pod of a namespace, and so are told of its policies."""
        return frozenset(self._namespaces.get(namespace, ()))

    def policies_of(self, namespace: str) -> frozenset[Key]:
        """The policies of a namespace."""
        return frozenset(self._by_namespace.get(namespace, ()))

    def take_dirty(self) -> Dirty:
        """What may have changed since the last call."""
        dirty = Dirty(frozenset(self._dirty_policies), frozenset(self._dirty_sets), frozenset(self._dirty_namespaces))
        self._dirty_policies, self._dirty_sets, self._dirty_namespaces = set(), set(), set()
        return dirty

    # -- inside ------------------------------------------------------------------------------------

    def _use(self, key: Key, before: frozenset[str], after: frozenset[str]) -> None:
        for name in before - after:
            self._users[name].discard(key)
            if not self._users[name]:
                del self._users[name]
        for name in after - before:
            self._users[name].add(key)
        self._dirty_sets |= before ^ after

    def _count(self, pod: Key, node: str, step: int) -> None:
        """Count a pod in (+1) or out (-1), while the label index has it."""
        here = self._namespaces[pod.namespace]
        if _add(here, node, step):
            self._dirty_namespaces.add(pod.namespace)
        if not here:
            del self._namespaces[pod.namespace]
        for key in self._labels.groups_of(pod):
            self._count_policy(key, node, step)

    def _count_policy(self, key: Key, node: str, step: int) -> None:
        policy = self._policies[key]
        self._dirty_policies.add(key)
        if _add(policy.nodes, node, step):
            self._dirty_sets |= policy.sets


def _add(counter: Counter[str], node: str, step: int) -> bool:
    """Count one more or less. Returns whether the node came or went with that."""
    known = node in counter
    counter[node] += step
    if not counter[node]:
        del counter[node]
    return known != (node in counter)
