"""Times of the Kubernetes API, which are RFC 3339 texts in UTC: made from a clock, and read. The only clock of this package."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """The time now to the second, as `metav1.Time` is written."""
    return text_of(datetime.now(UTC))


def now_micro() -> str:
    """The time now to the microsecond, as `metav1.MicroTime` is written."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def text_of(when: datetime) -> str:
    """A time to the second."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age_seconds(text: str, when: datetime | None = None) -> float | None:
    """Seconds from the time that `text` says to `when` (None: now); None if `text` is no time with a zone."""
    try:
        return ((when or datetime.now(UTC)) - datetime.fromisoformat(text)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
