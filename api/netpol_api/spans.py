"""Labels that say which nodes need an object, so that an agent can watch only what its own node needs. Pure.

In: node names. Out: bucket numbers, the labels for them, and the numbers that an object's labels name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from netpol_api.kinds import GROUP

BUCKETS = 256
"""Buckets of nodes: an object's labels stay bounded however many nodes there are."""
_PREFIX = f"span.{GROUP}/b"


def bucket(node: str) -> int:
    """The bucket of a node, 0 to 255: a hash of its name, equal in every process."""
    return hashlib.sha256(node.encode()).digest()[0]


def span_label(number: int) -> str:
    """The label that an object has when a node of bucket `number` needs it; an agent's watch selects it."""
    return f"{_PREFIX}{number}"


def span_labels(buckets: Iterable[int]) -> dict[str, str]:
    return {span_label(number): "" for number in sorted(set(buckets))}


def span_of(labels: Mapping[str, str]) -> frozenset[int]:
    """The buckets that an object's labels name."""
    numbers = (label.removeprefix(_PREFIX) for label in labels if label.startswith(_PREFIX))
    return frozenset(int(n) for n in numbers if n.isascii() and n.isdigit() and len(n) <= len(str(BUCKETS)))
