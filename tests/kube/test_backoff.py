"""How long to wait before the next try."""

from __future__ import annotations

from netpol_kube.backoff import Backoff


def waits(backoff: Backoff, count: int, **options: float) -> list[float]:
    return [backoff.next_seconds(**options) for _ in range(count)]


def test_waits_grow_by_the_factor_up_to_the_maximum_and_a_success_begins_anew() -> None:
    backoff = Backoff(0.1, 1.0, factor=3.0)
    assert [round(s, 3) for s in waits(backoff, 5)] == [0.1, 0.3, 0.9, 1.0, 1.0]
    backoff.reset()
    assert waits(backoff, 1) == [0.1]


def test_a_maximum_below_the_first_wait_holds_from_the_second_on() -> None:
    assert waits(Backoff(2.0, 1.0), 3) == [2.0, 1.0, 1.0]


def test_jitter_shortens_a_wait_by_its_part_at_most_and_does_not_slow_the_growth() -> None:
    chances = iter([0.0, 1.0, 0.5])
    assert waits(Backoff(1.0, 4.0, jitter=0.5, random=lambda: next(chances)), 3) == [1.0, 1.0, 3.0]


def test_what_the_server_asks_for_is_the_least_and_counts_for_this_wait_only() -> None:
    backoff = Backoff(1.0, 8.0)
    assert waits(backoff, 2, at_least=5.0) == [5.0, 5.0]
    assert waits(backoff, 2) == [4.0, 8.0]
