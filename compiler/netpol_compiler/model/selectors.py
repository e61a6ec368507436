"""Label selectors with one canonical form: equal meaning written differently gives equal values.

In: parsed requirements. Out: a frozen `Selector` that matches label mappings and can be read by people.
The rules are those of metav1.LabelSelector (API text): all requirements are ANDed, and NotIn and
DoesNotExist match objects that lack the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


class Operator(str, Enum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"

    __hash__ = str.__hash__  # Enum's own is written in Python, and selectors are hashed all the time


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition on one key. `values` is sorted and without repeats; empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator is Operator.IN:
            return value in self.values
        if self.operator is Operator.NOT_IN:
            return value not in self.values
        return (value is not None) == (self.operator is Operator.EXISTS)

    @property
    def words(self) -> str:
        """kubectl's selector notation: `app=x`, `app in (x,y)`, `!app`."""
        if self.operator is Operator.EXISTS:
            return self.key
        if self.operator is Operator.DOES_NOT_EXIST:
            return f"!{self.key}"
        if len(self.values) == 1:
            return f"{self.key}{'=' if self.operator is Operator.IN else '!='}{self.values[0]}"
        return f"{self.key} {'in' if self.operator is Operator.IN else 'notin'} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """A conjunction of requirements, sorted and without repeats. Empty: matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        for requirement in self.requirements:  # noqa: SIM110  # all() over a generator takes twice as long
            if not requirement.matches(labels):
                return False
        return True

    @property
    def words(self) -> str:
        """kubectl's notation; empty text for the selector that matches everything."""
        return ",".join(r.words for r in self.requirements)

    @property
    def canonical(self) -> tuple[object, ...]:
        """Nested tuples of text: the identity that names and hashes are made from."""
        return tuple((r.key, r.operator.value, r.values) for r in self.requirements)


EVERYTHING = Selector()


def make_selector(requirements: Iterable[Requirement]) -> Selector:
    """Build the canonical selector: sorted, repeats dropped."""
    return Selector(tuple(sorted(set(requirements), key=lambda r: (r.key, r.operator.value, r.values))))


def label_selector(**labels: str) -> Selector:
    """A selector of plain `key=value` conditions, for tests and tools."""
    return make_selector(Requirement(k, Operator.IN, (v,)) for k, v in labels.items())
