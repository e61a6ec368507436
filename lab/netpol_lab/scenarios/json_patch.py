"""JSON patch, as far as a scenario needs it: add, replace and remove.

In: a JSON value and operations of {op, path, value}. Out: a new value; the old one stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from netpol_lab.errors import LabError


def patched(value: Any, operations: Iterable[Mapping[str, Any]]) -> Any:
    """`value` after `operations`, in their order. Raises LabError with the path that does not fit."""
    result = copy.deepcopy(value)
    for operation in operations:
        _apply(result, operation)
    return result


def _apply(value: Any, operation: Mapping[str, Any]) -> None:
    op, path = operation.get("op"), str(operation.get("path", ""))
    parts = [p.replace("~1", "/").replace("~0", "~") for p in path.split("/")[1:]]
    if op not in ("add", "replace", "remove") or not parts:
        raise LabError(f"the patch {dict(operation)} is not one of add, replace, remove with a path")
    try:
        for part in parts[:-1]:
            value = value[int(part) if isinstance(value, list) else part]
        _change(value, op, parts[-1], operation.get("value"))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise LabError(f"the patch of {path} does not fit the object: there is no {error}") from error


def _change(parent: Any, op: str, last: str, new: Any) -> None:
    key: Any = last
    if isinstance(parent, list):
        key = len(parent) if last == "-" else int(last)
    if op == "add" and isinstance(parent, list):
        parent.insert(key, new)
    elif op == "add":
        parent[key] = new
    elif op == "replace":
        parent[key]  # what is replaced must be there
        parent[key] = new
    else:
        del parent[key]
