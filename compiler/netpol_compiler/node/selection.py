"""Which policies select which local pods, kept up to date from both sides.

Each change tells which pods have to be bundled again. That is not every selected pod: a policy that keeps its
directions and its named ports leaves the bundles as they are, and only the bodies are lowered again.
"""

from __future__ import annotations

from collections import defaultdict

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key, NamedPort, Pod
from netpol_compiler.model.selectors import Selector
from netpol_compiler.policy.ir import CompiledPolicy

_Shape = tuple[frozenset[Direction], frozenset[tuple[Direction, NamedPort]]]


class Selection:
    def __init__(self) -> None:
        self._pods: dict[str, dict[Key, Pod]] = defaultdict(dict)
        self._selectors: dict[str, dict[Key, Selector]] = defaultdict(dict)
        self._shapes: dict[Key, _Shape] = {}
        self._chosen: dict[Key, set[Key]] = {}

    def of(self, pod: Key) -> frozenset[Key]:
        """The policies that select `pod`."""
        return frozenset(self._chosen.get(pod, ()))

    def set_pod(self, pod: Pod) -> None:
        old = self._pods[pod.key.namespace].get(pod.key)
        self._pods[pod.key.namespace][pod.key] = pod
        if old is None or old.labels != pod.labels:
            selectors = self._selectors[pod.key.namespace]
            self._chosen[pod.key] = {key for key, selector in selectors.items() if selector.matches(pod.labels)}

    def remove_pod(self, key: Key) -> None:
        self._pods[key.namespace].pop(key, None)
        self._chosen.pop(key, None)

    def set_policy(self, policy: CompiledPolicy) -> set[Key]:
        """A policy, or its new version. Returns the pods to bundle again."""
        self._selectors[policy.key.namespace][policy.key] = policy.pod_selector
        shape = _shape(policy)
        same_shape = self._shapes.get(policy.key) == shape
        self._shapes[policy.key] = shape
        changed = set()
        for pod in self._pods[policy.key.namespace].values():
            chosen = self._chosen[pod.key]
            was, now = policy.key in chosen, policy.pod_selector.matches(pod.labels)
            if now:
                chosen.add(policy.key)
            else:
                chosen.discard(policy.key)
            if was != now or (now and not same_shape):
                changed.add(pod.key)
        return changed

    def remove_policy(self, key: Key) -> set[Key]:
        """Forget a policy. Returns the pods to bundle again."""
        self._selectors[key.namespace].pop(key, None)
        self._shapes.pop(key, None)
        changed = set()
        for pod in self._pods[key.namespace]:
            if key in self._chosen[pod]:
                self._chosen[pod].discard(key)
                changed.add(pod)
        return changed


def _shape(policy: CompiledPolicy) -> _Shape:
    return policy.directions, frozenset((r.direction, n) for r in policy.rules for n in r.named_ports)
