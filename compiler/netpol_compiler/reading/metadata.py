"""The `metadata` that every object has: identity, labels, uid, creation time.

In: an object as a mapping. Out: `Metadata`, with `usable` False where the object cannot be identified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.objects import Key, Labels
from netpol_compiler.reading.fields import Problems, dns_label_error, dns_subdomain_error, read_labels

DEFAULT_NAMESPACE = "default"
_NAMED_BY_LABEL = ("Namespace", "Service")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Identity and labels. `key.namespace` is empty for objects of the whole cluster. `usable`: the identity is valid."""

    key: Key
    uid: str
    labels: Labels
    created: str
    usable: bool


def read_metadata(data: Mapping[str, Any], kind: str, *, namespaced: bool = True) -> tuple[Metadata, Problems]:
    """Read `metadata` of an object of `kind`. A missing namespace is `default`, as with the API server."""
    problems = Problems(kind)
    metadata = problems.mapping(data.get("metadata"), ("metadata",)) or {}
    name = _read_name(metadata.get("name"), "name", dns_label_error if kind in _NAMED_BY_LABEL else dns_subdomain_error, problems)
    namespace = ""
    if namespaced:
        written = metadata.get("namespace")
        missing = written is None or written == ""
        namespace = _read_name(DEFAULT_NAMESPACE if missing else written, "namespace", dns_label_error, problems)
    usable = not problems.found
    problems.identify(namespace, name)
    labels = Labels(read_labels(metadata.get("labels"), ("metadata", "labels"), problems))
    uid, created = (str(metadata.get(field) or "") for field in ("uid", "creationTimestamp"))
    return Metadata(Key(namespace, name), uid, labels, created, usable), problems


def _read_name(value: object, field: str, error_of: Callable[[str], str], problems: Problems) -> str:
    path = ("metadata", field)
    if value is None or value == "":
        problems.add(path, "is missing")
        return ""
    text = problems.text(value, path)
    if text is None:
        return str(value)
    error = error_of(text)
    if error:
        problems.add(path, error)
    return text
