"""What objects of every kind have in common: identity, resourceVersion, and the wire form of the IR in `spec`. Pure.

In: objects as the API server gives them, whose metadata the client has checked. Out: values, or a WireError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.wire import Json

JsonView = Mapping[str, Any]
"""A JSON object that is only read."""
_LONGEST_VERSION = 20
"""Digits of a resourceVersion at most."""


def key_of(item: JsonView) -> Key:
    """Namespace (empty for kinds of the whole cluster) and name."""
    return Key(item["metadata"].get("namespace") or "", item["metadata"]["name"])


def version_number(text: object) -> int:
    """A resourceVersion, which the API promises to be comparable as a number (KEP-5504); 0 for what is none."""
    if not isinstance(text, str) or len(text) > _LONGEST_VERSION or not (text.isascii() and text.isdigit()):
        return 0
    return int(text)


def document_of(item: JsonView) -> Json:
    """The wire form in an AddressSet or CompiledPolicy. Raises WireError when its schema is not ours, or it is no object."""
    spec = item.get("spec")
    if not isinstance(spec, dict):
        raise wire.WireError("no spec")
    return wire.checked(spec)


__all__ = ["Json", "JsonView", "document_of", "key_of", "version_number"]
