"""Problems in words, by what they are about. One that passes within a moment is never shown.

In: a key, the words, and how long to wait before they count. Out: the words that count now, in the order of their keys.
"""

from __future__ import annotations


class InputProblems:
    """Times are seconds of one clock, which the caller reads."""

    def __init__(self) -> None:
        self._problems: dict[str, tuple[float, str]] = {}
        """By key: from when on the problem counts, and its words."""

    def report(self, key: str, words: str, now: float, after: float = 0.0) -> None:
        """`key` has a problem. Reported again, it counts from the earliest time that was named, whatever the words."""
        since, _ = self._problems.get(key, (now + after, ""))
        self._problems[key] = (min(since, now + after), words)

    def clear(self, key: str) -> None:
        self._problems.pop(key, None)

    def visible(self, now: float) -> tuple[str, ...]:
        return tuple(words for _, (since, words) in sorted(self._problems.items()) if since <= now)

    def due(self, now: float) -> float | None:
        """When the next one will be visible; None: none is to come."""
        return min((since for since, _ in self._problems.values() if since > now), default=None)
