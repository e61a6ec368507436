"""Draws of Hypothesis that are made over and over: quick ones.

A strategy that is made for one draw costs more than the draw: Hypothesis looks into all that it is made of, and `sampled_from`
hashes every value. So what can be is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")

booleans = st.booleans()


@cache
def below(limit: int) -> st.SearchStrategy[int]:
    """A number from 0 on."""
    return st.integers(0, limit - 1)


def pick(draw: st.DrawFn, values: Sequence[T]) -> T:
    """One of `values`, as `sampled_from` gives it."""
    return values[draw(below(len(values)))]
