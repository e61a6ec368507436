"""Which groups select which entities, kept up to date one change at a time. The only place where selectors meet labels in bulk.

    entity --- label set --- selector --- group
    (an address, a pod)      (a set, a policy)

Entities with equal labels in one namespace share a label set, groups with equal selectors share a selector, and each pair of
the two is matched once. Both sides are looked up by one wanted label, so that neither a new label set nor a new selector scans
the other side.

In: `set_entity`, `set_group`, `set_namespace` and their removals, in any order. Out: `groups_of`, `entities_of`, and what each
call made a group gain or lose. Left out: what entities and groups are. Not thread-safe; no I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from netpol_compiler.model.objects import NAMESPACE_NAME_LABEL, Labels
from netpol_compiler.model.selectors import Operator, Selector

E = TypeVar("E", bound=Hashable)
G = TypeVar("G", bound=Hashable)


class GroupSelector(NamedTuple):
    """What a group selects: by labels, in one namespace, or (`namespace` is None) in those that `namespace_selector` matches."""

    namespace: str | None
    namespace_selector: Selector | None
    pod_selector: Selector


class Change(NamedTuple, Generic[G, E]):
    """The entities that one group gained and lost."""

    group: G
    gained: frozenset[E] = frozenset()
    lost: frozenset[E] = frozenset()


@dataclass(eq=False, slots=True)
class _LabelSet(Generic[E, G]):
    """One namespace and labels, the entities that have them, and the selectors that match them."""

    namespace: str
    labels: Labels
    entities: set[E] = field(default_factory=set)
    selectors: set[_SharedSelector[E, G]] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class _SharedSelector(Generic[E, G]):
    """One selector, the groups that have it, and the label sets that it matches."""

    selector: GroupSelector
    groups: tuple[G, ...] = ()
    label_sets: set[_LabelSet[E, G]] = field(default_factory=set)


_Label = tuple[str, str]
_Anchor = tuple[str | None, str, str]
"""Where a selector is looked up: its namespace (None: any) and one label that it wants (empty: it wants none)."""


class LabelIndex(Generic[E, G]):
    """See the module's docstring."""

    def __init__(self) -> None:
        # The labels of the namespaces that are known, by name.
        self._namespaces: dict[str, Labels] = {}
        # The label set of each entity, and the selector of each group.
        self._entities: dict[E, _LabelSet[E, G]] = {}
        self._groups: dict[G, _SharedSelector[E, G]] = {}
        # Every label set that has an entity, and every selector that has a group, by what makes them equal.
        self._label_sets: dict[tuple[str, Labels], _LabelSet[E, G]] = {}
        self._selectors: dict[GroupSelector, _SharedSelector[E, G]] = {}
        # The same again by what the other side looks for.
        self._by_namespace: dict[str, set[_LabelSet[E, G]]] = defaultdict(set)
        self._by_label: dict[_Label, set[_LabelSet[E, G]]] = defaultdict(set)
        self._by_anchor: dict[_Anchor, tuple[_SharedSelector[E, G], ...]] = {}

    # -- what is asked ---------------------------------------------------------------------------------

    def groups_of(self, entity: E) -> frozenset[G]:
        """The groups that select `entity`; none for one that is not here."""
        label_set = self._entities.get(entity)
        return frozenset().union(*(s.groups for s in label_set.selectors)) if label_set else frozenset()

    def entities_of(self, group: G) -> frozenset[E]:
        """The entities that `group` selects; none for one that is not here."""
        shared = self._groups.get(group)
        return _entities(shared.label_sets) if shared else frozenset()

    def selects_any(self, group: G) -> bool:
        """Whether `group` selects an entity: as `entities_of`, without counting them."""
        shared = self._groups.get(group)
        return shared is not None and bool(shared.label_sets)

    def labels_of(self, entity: E) -> Labels | None:
        """The labels that `entity` was last given; None when it is not here."""
        label_set = self._entities.get(entity)
        return label_set.labels if label_set else None

    # -- entities --------------------------------------------------------------------------------------

    def set_entity(self, entity: E, namespace: str, labels: Labels) -> None:
        """An entity, or its new labels."""
        old = self._entities.get(entity)
        if old is not None and (old.namespace, old.labels) == (namespace, labels):
            return
        self.remove_entity(entity)
        label_set = self._label_sets.get((namespace, labels)) or self._new_label_set(namespace, labels)
        label_set.entities.add(entity)
        self._entities[entity] = label_set

    def remove_entity(self, entity: E) -> None:
        label_set = self._entities.pop(entity, None)
        if label_set is not None:
            label_set.entities.discard(entity)
            if not label_set.entities:
                self._drop_label_set(label_set)

    # -- groups ----------------------------------------------------------------------------------------

    def set_group(self, group: G, selector: GroupSelector) -> Change[G, E]:
        """A group, or its new selector. Returns what it gained and lost."""
        old = self._groups.get(group)
        if old is not None and old.selector == selector:
            return Change(group)
        new = self._selectors.get(selector) or self._new_selector(selector)
        new.groups = (*new.groups, group)
        self._groups[group] = new
        if old is None:
            return Change(group, _entities(new.label_sets))
        change = Change(group, _entities(new.label_sets - old.label_sets), _entities(old.label_sets - new.label_sets))
        self._release(group, old)
        return change

    def remove_group(self, group: G) -> Change[G, E]:
        """Forget a group. Returns what it lost."""
        old = self._groups.pop(group, None)
        if old is None:
            return Change(group)
        change = Change(group, lost=_entities(old.label_sets))
        self._release(group, old)
        return change

    def _release(self, group: G, shared: _SharedSelector[E, G]) -> None:
        shared.groups = tuple(each for each in shared.groups if each != group)
        if not shared.groups:
            self._drop_selector(shared)

    # -- namespaces ------------------------------------------------------------------------------------

    def set_namespace(self, name: str, labels: Labels | None) -> list[Change[G, E]]:
        """A namespace's labels; None: it is not known (any more). Returns what each group gained and lost."""
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels
        changes: list[Change[G, E]] = []
        for label_set in self._by_namespace.get(name, ()):
            old, label_set.selectors = label_set.selectors, self._matching(label_set)
            here = frozenset(label_set.entities)
            for shared in label_set.selectors - old:
                shared.label_sets.add(label_set)
                changes += (Change(group, gained=here) for group in shared.groups)
            for shared in old - label_set.selectors:
                shared.label_sets.discard(label_set)
                changes += (Change(group, lost=here) for group in shared.groups)
        return changes

    # -- label sets and selectors ----------------------------------------------------------------------

    def _new_label_set(self, namespace: str, labels: Labels) -> _LabelSet[E, G]:
        label_set: _LabelSet[E, G] = _LabelSet(namespace, labels)
        self._label_sets[(namespace, labels)] = label_set
        self._by_namespace[namespace].add(label_set)
        for label in labels.items():
            self._by_label[label].add(label_set)
        label_set.selectors = self._matching(label_set)
        for shared in label_set.selectors:
            shared.label_sets.add(label_set)
        return label_set

    def _drop_label_set(self, label_set: _LabelSet[E, G]) -> None:
        del self._label_sets[(label_set.namespace, label_set.labels)]
        _discard(self._by_namespace, label_set.namespace, label_set)
        for label in label_set.labels.items():
            _discard(self._by_label, label, label_set)
        for shared in label_set.selectors:
            shared.label_sets.discard(label_set)

    def _new_selector(self, selector: GroupSelector) -> _SharedSelector[E, G]:
        shared: _SharedSelector[E, G] = _SharedSelector(selector)
        self._selectors[selector] = shared
        for anchor in _anchors(selector):
            self._by_anchor[anchor] = (*self._by_anchor.get(anchor, ()), shared)
        shared.label_sets = {label_set for label_set in self._candidates(selector) if self._matches(selector, label_set)}
        for label_set in shared.label_sets:
            label_set.selectors.add(shared)
        return shared

    def _drop_selector(self, shared: _SharedSelector[E, G]) -> None:
        del self._selectors[shared.selector]
        for anchor in _anchors(shared.selector):
            self._by_anchor[anchor] = tuple(each for each in self._by_anchor[anchor] if each is not shared)
            if not self._by_anchor[anchor]:
                del self._by_anchor[anchor]
        for label_set in shared.label_sets:
            label_set.selectors.discard(shared)

    # -- matching, without scanning the other side -----------------------------------------------------

    def _matches(self, selector: GroupSelector, label_set: _LabelSet[E, G]) -> bool:
        if selector.namespace_selector is None:
            if selector.namespace != label_set.namespace:
                return False
        elif not selector.namespace_selector.matches(self._namespace_labels(label_set.namespace)):
            return False
        return selector.pod_selector.matches(label_set.labels)

    def _namespace_labels(self, name: str) -> Labels:
        """A namespace that is not known yet still carries its name (SEMANTICS 5)."""
        return self._namespaces.get(name) or Labels({NAMESPACE_NAME_LABEL: name})

    def _matching(self, label_set: _LabelSet[E, G]) -> set[_SharedSelector[E, G]]:
        labels = (("", ""), *label_set.labels.items())
        anchors = ((scope, key, value) for scope in (label_set.namespace, None) for key, value in labels)
        candidates = (shared for anchor in anchors for shared in self._by_anchor.get(anchor, ()))
        return {shared for shared in candidates if self._matches(shared.selector, label_set)}

    def _candidates(self, selector: GroupSelector) -> Iterator[_LabelSet[E, G]]:
        if selector.namespace_selector is None:
            yield from self._by_namespace.get(selector.namespace or "", ())
            return
        wanted = _wanted_labels(selector.pod_selector)
        for label in wanted:
            yield from self._by_label.get(label, ())
        if not wanted:
            yield from self._label_sets.values()


def _entities(label_sets: set[_LabelSet[E, G]]) -> frozenset[E]:
    return frozenset().union(*(label_set.entities for label_set in label_sets))


def _wanted_labels(selector: Selector) -> tuple[_Label, ...]:
    """The labels of the first In requirement: what matches has one of them. Empty: there is no such requirement."""
    for requirement in selector.requirements:
        if requirement.operator is Operator.IN:
            return tuple((requirement.key, value) for value in requirement.values)
    return ()


def _anchors(selector: GroupSelector) -> list[_Anchor]:
    scope = selector.namespace if selector.namespace_selector is None else None
    return [(scope, key, value) for key, value in _wanted_labels(selector.pod_selector) or (("", ""),)]


K = TypeVar("K")
V = TypeVar("V")


def _discard(sets: dict[K, set[V]], key: K, value: V) -> None:
    """Take `value` out of the set of `key`, and forget the set when it is empty."""
    sets[key].discard(value)
    if not sets[key]:
        del sets[key]
