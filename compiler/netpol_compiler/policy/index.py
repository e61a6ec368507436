"""The incremental index: which addresses does each set spec have now?

Pods with equal labels in one namespace form a group; a spec is matched against groups, never against pods,
and both sides are looked up by one wanted label, so that neither a new pod nor a new spec scans the other side.

In: `set_namespace`, `set_pod`, `want`. Out: `members(name)`, and the names that changed since `take_dirty()`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.objects import NAMESPACE_NAME_LABEL, Key, Labels, Namespace, Pod
from netpol_compiler.model.selectors import Operator, Selector
from netpol_compiler.policy.ir import Endpoint, SetKind, SetSpec


@dataclass(eq=False, slots=True)
class _Group:
    """The pods of one namespace that have equal labels, and the sets that match them."""

    namespace: str
    labels: Labels
    pods: dict[Key, Pod] = field(default_factory=dict)
    sets: set[str] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class _Set:
    """A wanted spec, how many policies want it, and its members now."""

    spec: SetSpec
    uses: int = 0
    members: set[Address | Endpoint] = field(default_factory=set)


_Anchor = tuple[str | None, str, str]


class Index:
    """See the module's docstring. Not thread-safe; no I/O."""

    def __init__(self) -> None:
        self._namespaces: dict[str, Labels] = {}
        self._pods: dict[Key, Pod] = {}
        self._groups: dict[tuple[str, Labels], _Group] = {}
        self._groups_by_namespace: dict[str, set[_Group]] = defaultdict(set)
        self._groups_by_label: dict[tuple[str, str], set[_Group]] = defaultdict(set)
        self._sets: dict[str, _Set] = {}
        self._sets_by_anchor: dict[_Anchor, set[str]] = defaultdict(set)
        self._claims: dict[Address, dict[Key, Pod]] = defaultdict(dict)
        self._holders: dict[Address, Pod] = {}
        self._dirty: set[str] = set()

    # -- what is wanted --------------------------------------------------------------------------------

    def want(self, name: str, spec: SetSpec) -> None:
        """Keep the set `name` filled from now on; call `unwant` as often as this was called."""
        wanted = self._sets.get(name)
        if wanted is None:
            wanted = self._sets[name] = _Set(spec)
            self._dirty.add(name)
            for anchor in _anchors(spec):
                self._sets_by_anchor[anchor].add(name)
            for group in list(self._candidate_groups(spec)):
                if self._matches(spec, group):
                    self._link(group, name)
        wanted.uses += 1

    def unwant(self, name: str) -> None:
        wanted = self._sets[name]
        wanted.uses -= 1
        if wanted.uses:
            return
        for group in list(self._candidate_groups(wanted.spec)):
            group.sets.discard(name)
        for anchor in _anchors(wanted.spec):
            self._sets_by_anchor[anchor].discard(name)
        del self._sets[name]
        self._dirty.add(name)

    def spec(self, name: str) -> SetSpec | None:
        """The spec of a wanted set; None when nobody wants it (any more)."""
        wanted = self._sets.get(name)
        return wanted.spec if wanted else None

    def members(self, name: str) -> frozenset[Address] | frozenset[Endpoint]:
        return frozenset(self._sets[name].members)  # type: ignore[return-value]  # one kind per set, by its spec

    def take_dirty(self) -> frozenset[str]:
        """Names whose members may have changed, or that came or went, since the last call."""
        dirty, self._dirty = frozenset(self._dirty), set()
        return dirty

    # -- what there is ---------------------------------------------------------------------------------

    def set_namespace(self, namespace: Namespace) -> None:
        self._relabel(namespace.name, namespace.labels)

    def remove_namespace(self, name: str) -> None:
        """Forget a namespace's labels. Its pods, if any are left, count by the namespace's name alone."""
        self._relabel(name, None)

    def _relabel(self, name: str, labels: Labels | None) -> None:
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels
        for group in self._groups_by_namespace.get(name, ()):
            self._rematch(group)

    def set_pod(self, pod: Pod) -> None:
        old = self._pods.get(pod.key)
        if old == pod:
            return
        self._pods[pod.key] = pod
        if old is not None and (old.labels, old.is_endpoint) != (pod.labels, pod.is_endpoint):
            self._leave(old)
            old = None
        if pod.is_endpoint:
            self._enter(pod, old)

    def remove_pod(self, key: Key) -> None:
        old = self._pods.pop(key, None)
        if old is not None:
            self._leave(old)

    # -- addresses and their holders -------------------------------------------------------------------

    def _enter(self, pod: Pod, old: Pod | None) -> None:
        self._group_of(pod).pods[pod.key] = pod
        gone = set(old.addresses if old else ()) - set(pod.addresses)
        for address in gone:
            self._claims[address].pop(pod.key, None)
        for address in pod.addresses:
            self._claims[address][pod.key] = pod
        for address in (*gone, *pod.addresses):
            self._settle(address)

    def _leave(self, pod: Pod) -> None:
        if not pod.is_endpoint:
            return
        for address in pod.addresses:
            self._claims[address].pop(pod.key, None)
            self._settle(address)
        group = self._group_of(pod)
        group.pods.pop(pod.key, None)
        if not group.pods:
            self._drop_group(group)

    def _settle(self, address: Address) -> None:
        """Give `address` to the pod that holds it now, and carry its memberships over."""
        claims = self._claims[address]
        holder = max(claims.values(), key=lambda p: (p.created, p.uid, p.key)) if claims else None
        if not claims:
            del self._claims[address]
        before = self._holders.get(address)
        if before is holder:
            return
        if before is not None:
            self._change(before, address, joined=False)
            del self._holders[address]
        if holder is not None:
            self._holders[address] = holder
            self._change(holder, address, joined=True)

    def _change(self, pod: Pod, address: Address, joined: bool) -> None:
        for name in self._group_of(pod).sets:
            self._apply(name, pod, address, joined)

    def _apply(self, name: str, pod: Pod, address: Address, joined: bool) -> None:
        wanted = self._sets[name]
        entries = _entries(wanted.spec, pod, address)
        if entries:
            (wanted.members.update if joined else wanted.members.difference_update)(entries)
            self._dirty.add(name)

    # -- groups and sets ------------------------------------------------------------------------------

    def _group_of(self, pod: Pod) -> _Group:
        identity = (pod.key.namespace, pod.labels)
        group = self._groups.get(identity)
        if group is None:
            group = self._groups[identity] = _Group(*identity)
            self._groups_by_namespace[group.namespace].add(group)
            for label in group.labels.items():
                self._groups_by_label[label].add(group)
            self._rematch(group)
        return group

    def _drop_group(self, group: _Group) -> None:
        del self._groups[(group.namespace, group.labels)]
        self._groups_by_namespace[group.namespace].discard(group)
        for label in group.labels.items():
            self._groups_by_label[label].discard(group)

    def _rematch(self, group: _Group) -> None:
        now = {n for n in self._candidate_sets(group) if self._matches(self._sets[n].spec, group)}
        for name in group.sets - now:
            self._unlink(group, name)
        for name in now - group.sets:
            self._link(group, name)

    def _link(self, group: _Group, name: str) -> None:
        group.sets.add(name)
        for pod, address in self._held(group):
            self._apply(name, pod, address, joined=True)

    def _unlink(self, group: _Group, name: str) -> None:
        group.sets.discard(name)
        for pod, address in self._held(group):
            self._apply(name, pod, address, joined=False)

    def _held(self, group: _Group) -> Iterator[tuple[Pod, Address]]:
        for pod in group.pods.values():
            for address in pod.addresses:
                if self._holders.get(address) is pod:
                    yield pod, address

    def _matches(self, spec: SetSpec, group: _Group) -> bool:
        if spec.namespace_selector is None:
            if spec.namespace != group.namespace:
                return False
        elif not spec.namespace_selector.matches(self._namespace_labels(group.namespace)):
            return False
        return spec.pod_selector.matches(group.labels)

    def _namespace_labels(self, name: str) -> Labels:
        """A namespace that nobody told of still carries its name (SEMANTICS 5)."""
        return self._namespaces.get(name) or Labels({NAMESPACE_NAME_LABEL: name})

    # -- finding the other side without scanning it ----------------------------------------------------

    def _candidate_groups(self, spec: SetSpec) -> Iterator[_Group]:
        if spec.namespace_selector is None:
            yield from self._groups_by_namespace.get(spec.namespace or "", ())
            return
        wanted = _wanted_labels(spec.pod_selector)
        if wanted:
            for label in wanted:
                yield from self._groups_by_label.get(label, ())
        else:
            yield from self._groups.values()

    def _candidate_sets(self, group: _Group) -> Iterator[str]:
        for scope in (group.namespace, None):
            yield from self._sets_by_anchor.get((scope, "", ""), ())
            for key, value in group.labels.items():
                yield from self._sets_by_anchor.get((scope, key, value), ())


def _wanted_labels(selector: Selector) -> tuple[tuple[str, str], ...]:
    """The (key, value) pairs of the first In requirement: a match must have one of them. Empty: no such anchor."""
    for requirement in selector.requirements:
        if requirement.operator is Operator.IN:
            return tuple((requirement.key, value) for value in requirement.values)
    return ()


def _anchors(spec: SetSpec) -> list[_Anchor]:
    scope = spec.namespace if spec.namespace_selector is None else None
    return [(scope, key, value) for key, value in _wanted_labels(spec.pod_selector)] or [(scope, "", "")]


def _entries(spec: SetSpec, pod: Pod, address: Address) -> tuple[Address, ...] | tuple[Endpoint, ...]:
    """What one held address of one matching pod puts into a set."""
    if spec.kind is SetKind.ADDRESS or spec.named_port is None:
        return (address,)
    port = spec.named_port
    return tuple(Endpoint(address, port.protocol, n) for n in pod.named_port(port.name, port.protocol))
