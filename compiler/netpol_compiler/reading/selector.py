"""metav1.LabelSelector, from a mapping to the canonical `Selector`.

What to do about a requirement that was not understood differs by place (see `parse_policy`), so the reader only says
that there was one: it returns the selector of the requirements that were understood, and whether these are all.
"""

from __future__ import annotations

from netpol_compiler.model.selectors import EVERYTHING, Operator, Requirement, Selector, make_selector
from netpol_compiler.reading.fields import Path, Problems, describe, label_key_error, label_value_error, read_label

_OPERATORS = {operator.value: operator for operator in Operator}
_WITH_VALUES = (Operator.IN, Operator.NOT_IN)


def read_selector(value: object, path: Path, problems: Problems) -> tuple[Selector, bool]:
    """Read a selector that is there (the caller decides what null means).

    Returns (selector of what was understood, whether that was everything). Problems are noted with their path.
    """
    data = problems.mapping(value, path)
    if data is None:
        return EVERYTHING, False
    complete = not problems.unknown_fields(data, ("matchLabels", "matchExpressions"), path)
    requirements: list[Requirement | None] = []
    labels = problems.mapping(data.get("matchLabels"), (*path, "matchLabels"))
    for key, text in (labels or {}).items():
        ok = read_label(key, text, (*path, "matchLabels", str(key)), problems)
        requirements.append(Requirement(key, Operator.IN, (text,)) if ok else None)
    expressions = problems.sequence(data.get("matchExpressions"), (*path, "matchExpressions"))
    for index, expression in enumerate(expressions or ()):
        requirements.append(_read_expression(expression, (*path, "matchExpressions", index), problems))
    understood = [r for r in requirements if r is not None]
    complete = complete and labels is not None and expressions is not None and len(understood) == len(requirements)
    return make_selector(understood), complete


def _read_expression(value: object, path: Path, problems: Problems) -> Requirement | None:
    if value is None:
        problems.wrong_type(path, value, "a mapping with key, operator and values")
        return None
    data = problems.mapping(value, path)
    if data is None:
        return None
    complete = not problems.unknown_fields(data, ("key", "operator", "values"), path)
    key = problems.text(data.get("key"), (*path, "key"))
    if key is not None and (error := label_key_error(key)):
        problems.add((*path, "key"), error)
        key = None
    operator = _OPERATORS.get(data["operator"]) if isinstance(data.get("operator"), str) else None
    if operator is None:
        problems.add((*path, "operator"), f"expected In, NotIn, Exists or DoesNotExist, got {describe(data.get('operator'))}")
    values = _read_values(data.get("values"), (*path, "values"), problems)
    if operator is None or key is None or values is None or not complete:
        return None
    if operator in _WITH_VALUES and not values:
        problems.add((*path, "values"), f"{operator.value} needs at least one value")
        return None
    if operator not in _WITH_VALUES and values:
        problems.add((*path, "values"), f"{operator.value} takes no values")
        return None
    return Requirement(key, operator, tuple(sorted(set(values))))


def _read_values(value: object, path: Path, problems: Problems) -> list[str] | None:
    items = problems.sequence(value, path)
    if items is None:
        return None
    before = len(problems.found)
    values = [problems.text(item, (*path, index)) for index, item in enumerate(items)]
    for index, text in enumerate(values):
        if text is not None and (error := label_value_error(text)):
            problems.add((*path, index), error)
    return [v for v in values if v is not None] if len(problems.found) == before else None
