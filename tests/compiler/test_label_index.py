"""The label index: after any events it says what a loop over all selectors and labels says, and so does each call's change."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from builders import has, lacks
from netpol_compiler.model.objects import NAMESPACE_NAME_LABEL, Labels
from netpol_compiler.model.selectors import EVERYTHING, Operator, Requirement, Selector, label_selector, make_selector
from netpol_compiler.policy.label_index import GroupSelector, LabelIndex
from search import searched

NAMESPACES = ("a", "b", "c")
LABELS = [Labels(each) for each in ({}, {"app": "x"}, {"app": "y"}, {"app": "x", "tier": "1"}, {"tier": "2"}, {"zone": ""})]
SELECTORS = [
    EVERYTHING,
    label_selector(app="x"),
    label_selector(app="x", tier="1"),
    label_selector(zone=""),
    make_selector([Requirement("app", Operator.IN, ("x", "y"))]),
    make_selector([Requirement("app", Operator.NOT_IN, ("x",))]),
    make_selector([has("tier")]),
    make_selector([lacks("app"), has("tier")]),
    Selector((Requirement("app", Operator.IN, ("x",)), Requirement("app", Operator.IN, ("y",)))),
]
NAMESPACE_SELECTORS = [
    EVERYTHING,
    label_selector(app="x"),
    label_selector(**{NAMESPACE_NAME_LABEL: "b"}),
    make_selector([lacks("app")]),
]


@dataclass
class Naive:
    """What is there, and a loop over all of it."""

    namespaces: dict[str, Labels] = field(default_factory=dict)
    entities: dict[int, tuple[str, Labels]] = field(default_factory=dict)
    groups: dict[str, GroupSelector] = field(default_factory=dict)

    def selects(self, selector: GroupSelector, namespace: str, labels: Labels) -> bool:
        of_namespace = self.namespaces.get(namespace, Labels({NAMESPACE_NAME_LABEL: namespace}))
        if selector.namespace_selector is None:
            return namespace == selector.namespace and selector.pod_selector.matches(labels)
        return selector.namespace_selector.matches(of_namespace) and selector.pod_selector.matches(labels)

    def entities_of(self, group: str) -> frozenset[int]:
        selector = self.groups.get(group)
        return frozenset(e for e, (ns, labels) in self.entities.items() if selector and self.selects(selector, ns, labels))


selectors = st.one_of(
    st.builds(GroupSelector, st.sampled_from(NAMESPACES), st.none(), st.sampled_from(SELECTORS)),
    st.builds(GroupSelector, st.none(), st.sampled_from(NAMESPACE_SELECTORS), st.sampled_from(SELECTORS)),
)
namespace_labels = st.sampled_from(NAMESPACES).flatmap(
    lambda name: st.tuples(
        st.just(name), st.none() | st.sampled_from([Labels({**each, NAMESPACE_NAME_LABEL: name}) for each in LABELS])
    )
)
entity_events = st.tuples(
    st.just("entity"), st.integers(0, 5), st.none() | st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(LABELS))
)
group_events = st.tuples(st.just("group"), st.sampled_from("pqrs"), st.none() | selectors)
namespace_events = namespace_labels.map(lambda named: ("namespace", *named))


@searched(400)
@given(st.lists(st.one_of(entity_events, group_events, namespace_events), max_size=40))
def test_after_any_events_the_index_is_what_a_loop_over_everything_finds(events: list[tuple]) -> None:  # type: ignore[type-arg]
    index: LabelIndex[int, str] = LabelIndex()
    naive = Naive()
    for kind, name, value in events:
        before = {group: naive.entities_of(group) for group in "pqrs"}
        changes = []
        if kind == "entity":
            if value is None:
                index.remove_entity(name)
                naive.entities.pop(name, None)
            else:
                index.set_entity(name, *value)
                naive.entities[name] = value
        elif kind == "group":
            changes = [index.remove_group(name) if value is None else index.set_group(name, value)]
            naive.groups.pop(name, None)
            naive.groups.update({name: value} if value else {})
        else:
            changes = index.set_namespace(name, value)
            naive.namespaces.pop(name, None)
            naive.namespaces.update({name: value} if value is not None else {})
        after = {group: naive.entities_of(group) for group in "pqrs"}
        _agree(index, naive, after)
        if kind != "entity":
            for group in "pqrs":
                mine = [change for change in changes if change.group == group]
                assert frozenset().union(*(change.gained for change in mine)) == after[group] - before[group]
                assert frozenset().union(*(change.lost for change in mine)) == before[group] - after[group]


def _agree(index: LabelIndex[int, str], naive: Naive, expected: dict[str, frozenset[int]]) -> None:
    assert {group: index.entities_of(group) for group in "pqrs"} == expected
    assert {group for group in "pqrs" if index.selects_any(group)} == {group for group, found in expected.items() if found}
    for entity in range(6):
        assert index.groups_of(entity) == {group for group, found in expected.items() if entity in found}
        assert index.labels_of(entity) == naive.entities.get(entity, (None, None))[1]


@searched(100)
@given(st.lists(st.one_of(entity_events, group_events, namespace_events), max_size=30))
def test_an_index_from_which_all_was_removed_holds_nothing(events: list[tuple]) -> None:  # type: ignore[type-arg]
    """What is shared goes with the last that shares it: an index must not grow with what was once there."""
    index: LabelIndex[int, str] = LabelIndex()
    for kind, name, value in events:
        if kind == "entity" and value is not None:
            index.set_entity(name, *value)
        elif kind == "group" and value is not None:
            index.set_group(name, value)
        elif kind == "namespace":
            index.set_namespace(name, value)
    for entity in range(6):
        index.remove_entity(entity)
    for group in "pqrs":
        index.remove_group(group)
    for namespace in NAMESPACES:
        index.set_namespace(namespace, None)
    assert {name: held for name, held in vars(index).items() if held} == {}


class CountedSelector(Selector):
    """Counts how often it is matched."""

    matched = 0

    def matches(self, labels: object) -> bool:
        CountedSelector.matched += 1
        return super().matches(labels)  # type: ignore[arg-type]


def test_equal_labels_and_equal_selectors_are_matched_once() -> None:
    index: LabelIndex[int, int] = LabelIndex()
    CountedSelector.matched = 0
    for entity in range(100):
        index.set_entity(entity, "a", LABELS[1 + entity % 2])
    for group in range(50):
        index.set_group(group, GroupSelector("a", None, CountedSelector(label_selector(app="x").requirements)))
    for entity in range(100, 200):
        index.set_entity(entity, "a", LABELS[1 + entity % 2])
    assert CountedSelector.matched == 2
    assert all(len(index.entities_of(group)) == 100 for group in range(50))


def test_a_selector_is_not_compared_with_labels_that_lack_what_it_wants() -> None:
    index: LabelIndex[int, int] = LabelIndex()
    CountedSelector.matched = 0
    wanted = CountedSelector(label_selector(app="x").requirements)
    for number in range(100):
        index.set_entity(number, f"n{number}", Labels({"app": f"other-{number}"}))
        index.set_group(number, GroupSelector(None, EVERYTHING, dataclasses.replace(wanted)))
    index.set_entity(100, "a", LABELS[1])
    assert (CountedSelector.matched, index.groups_of(100)) == (1, frozenset(range(100)))
