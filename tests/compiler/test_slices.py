"""Members in slices: none moves, none is lost, and one change touches one slice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netpol_compiler.policy.slices import SLICE_SIZE, Slices, set_of_slice, slice_name


def test_one_member_more_changes_one_slice_and_one_less_that_one():
    slices: Slices[str] = Slices()
    members = {f"{n:05}" for n in range(2500)}
    assert slices.update(members) == {0, 1, 2}
    assert [len(p) for p in slices.parts] == [SLICE_SIZE, SLICE_SIZE, 500]
    assert slices.update(members | {"x"}) == {2}
    assert slices.update((members | {"x"}) - {"00001"}) == {0}
    assert slices.update((members | {"x", "y"}) - {"00001"}) == {0}, "what is new goes where there is room"


def test_slices_that_emptied_at_the_end_go_and_one_always_stays():
    slices: Slices[str] = Slices()
    slices.update({f"{n:05}" for n in range(1500)})
    slices.update({"00001"})
    assert len(slices.parts) == 1
    assert slices.update(frozenset()) == {0}
    assert slices.parts == [set()]


def test_what_was_published_before_stays_where_it_was():
    slices: Slices[str] = Slices()
    slices.mirror(1, ["a"])
    slices.mirror(0, ["b", "c"])
    assert slices.update({"a", "b", "c"}) == set()
    slices.mirror(1, ["a", "c"])
    slices.mirror(0, ["b"])
    assert slices.update({"a", "b", "c"}) == set()
    assert slices.parts == [{"b"}, {"a", "c"}]


@given(st.lists(st.frozensets(st.integers(0, 50)), max_size=10))
def test_the_slices_together_are_the_members_and_only_changed_ones_differ(steps):
    slices: Slices[int] = Slices()
    for members in steps:
        before = [set(p) for p in slices.parts]
        changed = slices.update(members)
        assert set().union(*slices.parts) == members
        assert sum(map(len, slices.parts)) == len(members)
        for index, part in enumerate(slices.parts):
            if index not in changed and index < len(before):
                assert part == before[index]


@pytest.mark.parametrize("name", ["a-web-0123456789abcdef", "e-x.y-z", ""])
def test_a_slices_name_says_which_set_it_belongs_to(name: str) -> None:
    assert {set_of_slice(slice_name(name, index)) for index in (0, 1, 12)} == {name}
    assert set_of_slice("no-slice") == ""
