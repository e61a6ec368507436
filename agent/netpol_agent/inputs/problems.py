"""Problems in words, by what they are about. One that passes within a moment is never shown.

In: a key, the words, and how long to wait before they count. Out: the words that count now, in the order of their keys.
"""

from __future__ import annotations


class Complaints:
    """Times are seconds of one clock, which the caller reads."""

    def __init__(self) -> None:
        self._words: dict[str, tuple[float, str]] = {}

    def say(self, key: str, words: str, now: float, after: float = 0.0) -> None:
        """`key` has a problem. Said again, it counts from the earliest time that was said, whatever the words."""
        since, _ = self._words.get(key, (now + after, ""))
        self._words[key] = (min(since, now + after), words)

    def clear(self, key: str) -> None:
        self._words.pop(key, None)

    def visible(self, now: float) -> tuple[str, ...]:
        return tuple(words for _, (since, words) in sorted(self._words.items()) if since <= now)

    def due(self, now: float) -> float | None:
        """When the next one will be visible; None: none is to come."""
        return min((since for since, _ in self._words.values() if since > now), default=None)
