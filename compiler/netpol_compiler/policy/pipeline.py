"""Objects in, IR out, one change at a time: the operator's core, without I/O, clock or kopf.

    set_/remove_ namespace ---------> Index -----+
    set_/remove_ pod ---------------> Index -----+--> flush() -> IRDelta
    set_/remove_ policy -> translate -> want ----+

`flush` after any order of events equals a compile from scratch; the tests hold that as a property.
"""

from __future__ import annotations

from netpol_compiler.model.objects import Cluster, Key, Namespace, Pod, Policy
from netpol_compiler.policy.index import Index
from netpol_compiler.policy.ir import IR, AddressSet, CompiledPolicy, IRDelta
from netpol_compiler.policy.translate import Translation, translate


class Pipeline:
    """The incremental compiler. Not thread-safe."""

    def __init__(self) -> None:
        self._index = Index()
        self._objects: dict[Key, Policy] = {}
        self._translations: dict[Key, Translation] = {}
        self._dirty_policies: set[Key] = set()
        self._sets: dict[str, AddressSet] = {}
        self._policies: dict[Key, CompiledPolicy] = {}

    def set_namespace(self, namespace: Namespace) -> None:
        self._index.set_namespace(namespace)

    def remove_namespace(self, name: str) -> None:
        self._index.remove_namespace(name)

    def set_pod(self, pod: Pod) -> None:
        self._index.set_pod(pod)

    def remove_pod(self, key: Key) -> None:
        self._index.remove_pod(key)

    def set_policy(self, policy: Policy) -> None:
        if self._objects.get(policy.key) == policy:
            return
        self._objects[policy.key] = policy
        self._replace(policy.key, translate(policy))

    def remove_policy(self, key: Key) -> None:
        if self._objects.pop(key, None) is not None:
            self._replace(key, None)

    def _replace(self, key: Key, new: Translation | None) -> None:
        """Want the new sets before the old ones are let go, so that shared ones are never emptied."""
        old = self._translations.pop(key, None)
        for name, spec in (new.specs if new else {}).items():
            self._index.want(name, spec)
        for name in old.specs if old else ():
            self._index.unwant(name)
        if new is not None:
            self._translations[key] = new
        self._dirty_policies.add(key)

    def flush(self) -> IRDelta:
        """What changed since the last flush, in publishing order. Falsy when nothing did."""
        sets_up, sets_down = self._flush_sets()
        policies_up, policies_down = [], []
        for key in sorted(self._dirty_policies):
            new = self._translations[key].policy if key in self._translations else None
            old = self._policies.get(key)
            if new is None and old is not None:
                del self._policies[key]
                policies_down.append(key)
            elif new is not None and new != old:
                self._policies[key] = new
                policies_up.append(new)
        self._dirty_policies.clear()
        return IRDelta(tuple(sets_up), tuple(policies_up), tuple(policies_down), tuple(sets_down))

    def _flush_sets(self) -> tuple[list[AddressSet], list[str]]:
        up, down = [], []
        for name in sorted(self._index.take_dirty()):
            spec, old = self._index.spec(name), self._sets.get(name)
            if spec is None:
                if old is not None:
                    del self._sets[name]
                    down.append(name)
                continue
            new = AddressSet(name, spec, self._index.members(name))
            if new != old:
                self._sets[name] = new
                up.append(new)
        return up, down

    @property
    def ir(self) -> IR:
        """The state as of the last flush (a copy)."""
        return IR(dict(self._sets), dict(self._policies))


def compile_cluster(cluster: Cluster) -> IR:
    """Compile a whole cluster at once."""
    return pipeline_of(cluster).ir


def pipeline_of(cluster: Cluster) -> Pipeline:
    """A pipeline that holds a whole cluster, flushed."""
    pipeline = Pipeline()
    for namespace in cluster.namespaces.values():
        pipeline.set_namespace(namespace)
    for pod in cluster.pods.values():
        pipeline.set_pod(pod)
    for policy in cluster.policies.values():
        pipeline.set_policy(policy)
    pipeline.flush()
    return pipeline
