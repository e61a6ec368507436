"""Reading one field of an untrusted object: the type checks, the name rules, and the list of what was wrong.

In: values as YAML or JSON decoders make them. Out: the value in its expected type, or None with a `Rejected` noted in
`Problems`. Nothing here raises on bad input, and nothing here knows what a field means: that is `parse` and its kin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from netpol_compiler.model.kinds import Protocol
from netpol_compiler.model.objects import Rejected

Path = tuple[str | int, ...]

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PROTOCOLS = {protocol.value: protocol for protocol in Protocol}
_ENDS = "beginning and ending with a letter or digit"
_SHOWN = 60  # characters of a bad value that an error message repeats


@dataclass(slots=True)
class Problems:
    """The object being read, and everything about it that was not understood so far."""

    kind: str
    namespace: str = ""
    name: str = ""
    found: list[Rejected] = field(default_factory=list)

    def add(self, path: Path, reason: str) -> None:
        """Note that the field at `path` was not understood, and why."""
        self.found.append(Rejected(self.kind, self.namespace, self.name, path, reason))

    def identify(self, namespace: str, name: str) -> None:
        """Set the object's identity, also on the problems that were found before it was known."""
        self.namespace, self.name = namespace, name
        self.found[:] = [replace(r, namespace=namespace, name=name) for r in self.found]

    def wrong_type(self, path: Path, value: object, expected: str) -> None:
        self.add(path, f"expected {expected}, got {describe(value)}")

    def mapping(self, value: object, path: Path) -> Mapping[Any, Any] | None:
        """`value` if it is a mapping, an empty one if it is null; else None, noted."""
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return value
        self.wrong_type(path, value, "a mapping")
        return None

    def sequence(self, value: object, path: Path) -> list[Any] | None:
        """`value` if it is a list, an empty one if it is null; else None, noted."""
        if value is None:
            return []
        if isinstance(value, list | tuple):
            return list(value)
        self.wrong_type(path, value, "a list (its entries begin with '- ')")
        return None

    def text(self, value: object, path: Path) -> str | None:
        """`value` if it is text; else None, noted (null too)."""
        if isinstance(value, str):
            return value
        remedy = "; write it in quotes" if isinstance(value, int | float) else ""
        self.add(path, f"expected text, got {describe(value)}{remedy}")
        return None

    def integer(self, value: object, path: Path, first: int, last: int) -> int | None:
        """`value` if it is a whole number from `first` to `last`; else None, noted."""
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong_type(path, value, f"a whole number from {first} to {last}")
            return None
        if not first <= value <= last:
            self.add(path, f"{describe(value)} is out of range: {first} to {last}")
            return None
        return value

    def boolean(self, value: object, path: Path) -> bool | None:
        """`value` if it is true or false; else None, noted."""
        if isinstance(value, bool):
            return value
        self.wrong_type(path, value, "true or false")
        return None

    def unknown_fields(
        self, data: Mapping[Any, Any], known: Iterable[str], path: Path, remedies: Mapping[str, str] | None = None
    ) -> bool:
        """Note every key of `data` that is not `known`. Returns whether there was one."""
        names = tuple(known)
        unknown = [key for key in data if key not in names]
        for key in unknown:
            remedy = (remedies or {}).get(str(key)) or _near(str(key), names)
            self.add((*path, str(key)), f"unknown field; {remedy}")
        return bool(unknown)


def as_mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one: for objects whose faults were noted elsewhere."""
    return value if isinstance(value, Mapping) else {}


def describe(value: object) -> str:
    """What a bad value is, for people: type, and the value itself where it is short."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}" if abs(value) < 10**_SHOWN else "a huge number"
    if isinstance(value, str):
        return f"the text {shorten(value)!r}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a value of type {type(value).__name__}"


def shorten(text: str) -> str:
    """`text`, cut to what fits into an error message."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _near(word: str, names: tuple[str, ...]) -> str:
    from difflib import get_close_matches  # only an error needs it, and starting up must be fast

    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(names)}"


def dns_label_error(text: str) -> str:
    """Why `text` cannot name a namespace or Service (RFC 1123 label), or empty text."""
    if len(text) > 63:
        return f"a name has at most 63 characters, this one {len(text)}"
    if not _DNS_LABEL.fullmatch(text):
        return f"{shorten(text)!r} is not a valid name: lower-case a-z, 0-9 and '-', {_ENDS}"
    return ""


def dns_subdomain_error(text: str) -> str:
    """Why `text` cannot name a pod, policy or node (RFC 1123 subdomain), or empty text."""
    if len(text) > 253:
        return f"a name has at most 253 characters, this one {len(text)}"
    if not all(_DNS_LABEL.fullmatch(part) for part in text.split(".")):
        return f"{shorten(text)!r} is not a valid name: lower-case a-z, 0-9, '-' and '.', {_ENDS}"
    return ""


def label_key_error(key: str) -> str:
    """Why `key` cannot be a label's key (`[prefix/]name`), or empty text."""
    prefix, slash, name = key.rpartition("/")
    if slash and (not prefix or dns_subdomain_error(prefix)):
        return f"label key {shorten(key)!r}: the part before '/' must be a DNS name of at most 253 characters"
    if len(name) > 63:
        return f"label key {shorten(key)!r}: the name has at most 63 characters, this one {len(name)}"
    if not _LABEL_NAME.fullmatch(name):
        return f"label key {shorten(key)!r}: only ASCII letters, digits, '-', '_' and '.', {_ENDS}"
    return ""


def label_value_error(value: str) -> str:
    """Why `value` cannot be a label's value, or empty text. The empty value is legal."""
    if len(value) > 63:
        return f"label value {shorten(value)!r}: at most 63 characters, this one has {len(value)}"
    if value and not _LABEL_NAME.fullmatch(value):
        return f"label value {shorten(value)!r}: only ASCII letters, digits, '-', '_' and '.', {_ENDS}"
    return ""


def port_name_error(name: str) -> str:
    """Why `name` cannot name a port (IANA_SVC_NAME), or empty text."""
    if name.isascii() and name.isdigit():
        return f"port {name!r} is text; write the number without quotes"
    if len(name) > 15:
        return f"a port's name has at most 15 characters, {shorten(name)!r} has {len(name)}"
    if not _DNS_LABEL.fullmatch(name) or "--" in name or not any(c.isalpha() for c in name):
        return f"{name!r} is not a port's name: lower-case a-z, 0-9 and single '-', at least one letter, {_ENDS}"
    return ""


def read_labels(value: object, path: Path, problems: Problems) -> dict[str, str]:
    """The valid labels of a mapping; what is not valid is noted and left out."""
    labels: dict[str, str] = {}
    for key, text in (problems.mapping(value, path) or {}).items():
        if read_label(key, text, (*path, str(key)), problems):
            labels[key] = text
    return labels


def read_label(key: object, value: object, path: Path, problems: Problems) -> bool:
    """Whether `key` and `value` make a valid label; if not, that is noted at `path`."""
    key_text = problems.text(key, path)
    value_text = problems.text(value, path)
    if key_text is None or value_text is None:
        return False
    error = label_key_error(key_text) or label_value_error(value_text)
    if error:
        problems.add(path, error)
    return not error


def read_protocol(value: object, path: Path, problems: Problems) -> Protocol | None:
    """A transport protocol's name; TCP where it is missing. None, noted, for anything else."""
    if value is None:
        return Protocol.TCP
    protocol = _PROTOCOLS.get(value) if isinstance(value, str) else None
    if protocol is None:
        problems.add(path, f"expected TCP, UDP or SCTP, got {describe(value)}")
    return protocol
