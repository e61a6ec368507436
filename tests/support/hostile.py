"""Text and bytes that nobody should send, and what reading them costs: memory and calls, counted, never timed.

In: good examples. Out: the same with bytes cut out, doubled, swapped or replaced; and how a reader's cost grows with its input.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from hypothesis import strategies as st

from draws import below, pick

T = TypeVar("T", str, bytes)

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 65536, 2**31, 2**63, 10**30, 1.5, float("inf"), float("-inf"), float("nan"), "", "x", "\0",
    "1e9", "\ud800", "10.0.0.1", "10.0.0.0/0", "::ffff:10.0.0.1", "In", "TCP", [], [[]], [None], {}, {"x": 1}, {"": None},
    ["x"] * 50,
)  # fmt: skip
"""Values that JSON can carry, for a place where something else belongs."""


@st.composite
def spoiled(draw: st.DrawFn, text: T, words: tuple[T, ...]) -> T:
    """`text` changed at up to six places; `words` are put in."""
    for _ in range(draw(st.integers(1, 6))):
        begin = draw(below(len(text) + 1))
        end = min(len(text), begin + draw(below(31)))
        part = text[begin:end]
        put = pick(draw, [*words, text[:0], part + part, part[::-1]])
        text = text[:begin] + put + text[end:]
    return text


@st.composite
def spoiled_json(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value in which something nasty stands at one place, or from which something is gone."""
    children = range(len(value)) if isinstance(value, list) else sorted(value) if isinstance(value, dict) else []
    if not children or draw(below(5)) == 0:
        return pick(draw, NASTY)
    key = pick(draw, children)
    changed = value.copy()
    if draw(below(10)) == 0:
        del changed[key]
    else:
        changed[key] = draw(spoiled_json(value[key]))
    return changed


def deep(depth: int) -> list[Any]:
    """Lists in lists. A JSON reader takes nearly as many as the stack has; who walks through them has less of it left."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def peak(read: Callable[[], object]) -> int:
    """Bytes at most that Python held for `read` at one time, beyond what was there before."""
    read()  # what is only made once, by the first call, is not its input's fault
    gc.collect()  # nor may what that call let go be taken again uncounted
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def calls(read: Callable[[], object]) -> int:
    """How many functions were called, Python's and C's."""
    count = 0

    def note(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    read()
    sys.setprofile(note)
    try:
        read()
    finally:
        sys.setprofile(None)
    return count


def assert_linear(make: Callable[[int], object], read: Callable[[Any], object], size: int) -> None:
    """Four times the input costs about four times as much, in memory and in calls, or less; growing lists take a little more."""
    small, large = make(size), make(4 * size)
    for cost in (peak, calls):
        one, two = cost(lambda: read(small)), cost(lambda: read(large))
        assert two <= 6 * one + 20_000, f"{cost.__name__} of {make} at {size} and four times that: {one}, {two}"
