"""Which nodes need which policy and set, kept up to date one change at a time: the span.

    set_/remove_ pod ------> groups (namespace, labels) --match--> policies --> pods and nodes of each policy
    set_/remove_ policy --> selector, sets -----------------------------------> nodes of each set

A node needs a set when it runs a pod that a policy selects which names it. It is told of every policy of the namespaces of
its pods: then a label that changes on one of them never has to wait for anybody. A pod counts from the moment it is bound to
a node, before it has an address: policies and sets are on their way while it starts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpol_compiler.model.objects import Key, Labels, Pod
from netpol_compiler.model.selectors import Selector
from netpol_compiler.policy.ir import CompiledPolicy


@dataclass(eq=False, slots=True)
class _Group:
    """The counting pods of one namespace with equal labels, by node, and the policies that select them."""

    labels: Labels
    nodes: Counter[str] = field(default_factory=Counter)
    policies: set[Key] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class _Policy:
    selector: Selector
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
        self._pods: dict[Key, tuple[Labels, str]] = {}
        self._groups: dict[str, dict[Labels, _Group]] = defaultdict(dict)
        self._policies: dict[Key, _Policy] = {}
        self._by_namespace: dict[str, set[Key]] = defaultdict(set)
        self._users: dict[str, set[Key]] = defaultdict(set)
        self._namespaces: dict[str, Counter[str]] = defaultdict(Counter)
        self._dirty_policies: set[Key] = set()
        self._dirty_sets: set[str] = set()
        self._dirty_namespaces: set[str] = set()

    # -- what there is -----------------------------------------------------------------------------

    def set_pod(self, pod: Pod) -> None:
        counted = (pod.labels, pod.node) if _counts(pod) else None
        old = self._pods.get(pod.key)
        if counted == old:
            return
        if old is not None:
            self._count(pod.key.namespace, *old, -1)
            del self._pods[pod.key]
        if counted is not None:
            self._pods[pod.key] = counted
            self._count(pod.key.namespace, *counted, +1)

    def remove_pod(self, key: Key) -> None:
        old = self._pods.pop(key, None)
        if old is not None:
            self._count(key.namespace, *old, -1)

    def set_policy(self, policy: CompiledPolicy) -> None:
        key, sets = policy.key, policy.set_names
        old = self._policies.get(key)
        if old is not None and old.selector == policy.pod_selector:
            self._use(key, old.sets, sets)
            old.sets = sets
            return
        self.remove_policy(key)
        new = self._policies[key] = _Policy(policy.pod_selector, sets)
        self._by_namespace[key.namespace].add(key)
        for group in self._groups[key.namespace].values():
            if new.selector.matches(group.labels):
                group.policies.add(key)
                new.nodes.update(group.nodes)
        self._use(key, frozenset(), sets)
        self._dirty_policies.add(key)

    def remove_policy(self, key: Key) -> None:
        old = self._policies.pop(key, None)
        if old is None:
            return
        self._by_namespace[key.namespace].discard(key)
        for group in self._groups[key.namespace].values():
            group.policies.discard(key)
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

    def _count(self, namespace: str, labels: Labels, node: str, step: int) -> None:
        groups = self._groups[namespace]
        group = groups.get(labels)
        if group is None:
            matching = {k for k in self._by_namespace[namespace] if self._policies[k].selector.matches(labels)}
            group = groups[labels] = _Group(labels, policies=matching)
        _add(group.nodes, node, step)
        here = self._namespaces[namespace]
        known = node in here
        _add(here, node, step)
        if known != (node in here):
            self._dirty_namespaces.add(namespace)
        if not here:
            del self._namespaces[namespace]
        for key in group.policies:
            policy = self._policies[key]
            known = node in policy.nodes
            _add(policy.nodes, node, step)
            self._dirty_policies.add(key)
            if known != (node in policy.nodes):
                self._dirty_sets |= policy.sets
        if not group.nodes:
            del groups[labels]


def _counts(pod: Pod) -> bool:
    return bool(pod.node) and pod.is_live


def _add(counter: Counter[str], node: str, step: int) -> None:
    counter[node] += step
    if not counter[node]:
        del counter[node]
