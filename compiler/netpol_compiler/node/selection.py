"""Which policies select which local pods, kept up to date from both sides.

Each change tells which pods have to be bundled again. That is not every selected pod: a policy that keeps its
directions and its named ports leaves the bundles as they are, and only the bodies are lowered again.
"""

from __future__ import annotations

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key, NamedPort, Pod
from netpol_compiler.policy.ir import CompiledPolicy
from netpol_compiler.policy.label_index import GroupSelector, LabelIndex

_Shape = tuple[frozenset[Direction], frozenset[tuple[Direction, NamedPort]]]


class Selection:
    """See the module's docstring."""

    def __init__(self) -> None:
        # Which policies select which pods.
        self._labels: LabelIndex[Key, Key] = LabelIndex()
        # What of each policy enters its pods' bundles, beside its name.
        self._shapes: dict[Key, _Shape] = {}

    def of(self, pod: Key) -> frozenset[Key]:
        """The policies that select `pod`."""
        return self._labels.groups_of(pod)

    def set_pod(self, pod: Pod) -> None:
        self._labels.set_entity(pod.key, pod.key.namespace, pod.labels)

    def remove_pod(self, key: Key) -> None:
        self._labels.remove_entity(key)

    def set_policy(self, policy: CompiledPolicy) -> frozenset[Key]:
        """A policy, or its new version. Returns the pods to bundle again."""
        change = self._labels.set_group(policy.key, GroupSelector(policy.key.namespace, None, policy.pod_selector))
        old, shape = self._shapes.get(policy.key), _shape(policy)
        self._shapes[policy.key] = shape
        again = self._labels.entities_of(policy.key) if old not in (None, shape) else frozenset()
        return change.gained | change.lost | again

    def remove_policy(self, key: Key) -> frozenset[Key]:
        """Forget a policy. Returns the pods to bundle again."""
        self._shapes.pop(key, None)
        return self._labels.remove_group(key).lost


def _shape(policy: CompiledPolicy) -> _Shape:
    return policy.directions, frozenset((r.direction, n) for r in policy.rules for n in r.named_ports)
