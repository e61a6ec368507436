"""YAML text to plain values with line numbers, safe against hostile text.

In: one text of any number of documents. Out: for each the value and a tree of line numbers of the same shape, or the
faults found in it. Built from libyaml's events, without intermediate nodes, because `npctl explain` reads whole folders.
Scalars mean what they mean to the API server's decoder (YAML 1.1 with `yes` and `on` as booleans, but dates and `1:30`
as text). Excluded: what a document says; that is `manifests`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import yaml

MAX_DEPTH = 100
MAX_ALIASED = 100_000  # values that aliases may repeat in one document: a bomb makes billions of a few lines
MAX_TAG_DIRECTIVES = 100  # libyaml compares each with all before it, and no manifest has one

Lines = tuple[int, "dict[str, Lines] | list[Lines] | None"]
"""Line of a value (1-based; of its key, inside a mapping) and the same for its children. Line 0: unknown."""
NO_LINES: Lines = (0, None)

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"))
_FALSE = frozenset(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"))
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0[0-7_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")
_TAG_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}
_TAG = "tag:yaml.org,2002:"
_TAG_DIRECTIVE = re.compile("^%TAG", re.MULTILINE)
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_TOO_DEEP_REMEDY = "no Kubernetes object is that deep: check brackets, braces and indentation"
_MAX_DIGITS = 40
_MAX_SHOWN = 60  # characters of the text that a message repeats
_REMEDIES = (
    ("mapping values are not allowed", "check the indentation, and quote text that contains ': '"),
    ("did not find expected key", "check the indentation of this line and the ones above"),
    ("could not find expected ':'", "check for a missing ':' and the indentation"),
    ("did not find expected '-' indicator", "check the indentation: entries of one list begin in the same column"),
    ("did not find expected ',' or", "a bracket or brace is not closed, or a comma is missing"),
    ("found unexpected end of stream", "a quote is not closed"),
    ("cannot start any token", "quote text that begins with @, ` or %"),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the text, at which line (1-based), and how to put it right."""

    line: int
    reason: str


@dataclass(slots=True)
class RawDocument:
    """One document. `faults`: what made it ambiguous or unreadable; then do not use its value. `last`: reading ends here."""

    value: Any = None
    lines: Lines = NO_LINES
    faults: list[Fault] = field(default_factory=list)
    last: bool = False


class _Unusable(Exception):
    """The document cannot be read further; carries the fault."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.fault = Fault(line, reason)


@dataclass(frozen=True, slots=True)
class _Built:
    value: Any
    lines: Lines
    size: int  # values in it, aliases counted with all that they repeat
    height: int = 0  # levels below it; aliases bring theirs along


def read_documents(text: str) -> Iterator[RawDocument]:
    """Every document of `text`, in order. After a fault in the syntax or a bottomless nesting nothing more is read, and that
    document is the last."""
    refused = _refused_unread(text)
    if refused:
        yield RawDocument(faults=[refused])
        return
    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        event = parser.get_event()
        while not isinstance(event, yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                document = _DocumentReader(parser).read()
                yield document
                if document.last:
                    return
            event = parser.get_event()
    except yaml.YAMLError as error:
        yield RawDocument(faults=[_syntax_fault(error, text)])
    finally:
        parser.dispose()


def _refused_unread(text: str) -> Fault | None:
    """What must not reach the parser."""
    control = _CONTROL.search(text)
    if control:
        reason = f"character U+{ord(control.group()):04X} is not allowed in YAML; is this a text file in UTF-8?"
        return Fault(text.count("\n", 0, control.start()) + 1, reason)
    directive = next(islice(_TAG_DIRECTIVE.finditer(text), MAX_TAG_DIRECTIVES, None), None)
    if directive:
        reason = f"more than {MAX_TAG_DIRECTIVES} lines begin with %TAG; leave them out"
        return Fault(text.count("\n", 0, directive.start()) + 1, reason)
    return None


def _syntax_fault(error: yaml.YAMLError, text: str) -> Fault:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or error)
    lines = text.split("\n")  # not splitlines(), which also splits where YAML does not
    line = min(mark.line + 1 if mark else 1, len(lines) - (len(lines) > 1 and not lines[-1]))
    shown = lines[line - 1]
    if "\t" in shown[: len(shown) - len(shown.lstrip())] or (mark and shown[mark.column : mark.column + 1] == "\t"):
        remedy = "indent with spaces: YAML does not allow tabs"
    else:
        remedy = next((remedy for part, remedy in _REMEDIES if part in problem), "check this line and the one above")
    context = getattr(error, "context_mark", None)
    began = f" (begun in line {context.line + 1})" if context and context.line + 1 < line else ""
    return Fault(line, f"not valid YAML: {problem}{began}; {remedy}")


class _DocumentReader:
    """Builds one document from the parser's events, up to and including its end."""

    def __init__(self, parser: Any) -> None:
        self._next = parser.get_event
        self._anchors: dict[str, _Built] = {}
        self._aliased = 0
        self._faults: list[Fault] = []

    def read(self) -> RawDocument:
        try:
            built = self._build(self._next(), 0)
        except _Unusable as unusable:
            return RawDocument(faults=[*self._faults, unusable.fault], last=not self._skip_rest())
        self._next()  # the document's end
        return RawDocument(built.value, built.lines, self._faults)

    def _skip_rest(self) -> bool:
        """Read to the end of a document that was given up; False if that takes too long.

        For every token the scanner looks at every open bracket, so that a bottomless nesting costs the square of its length.
        """
        depth = 0
        while not isinstance(event := self._next(), yaml.DocumentEndEvent):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                return False
        return True

    def _build(self, event: Any, depth: int) -> _Built:
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise _Unusable(line, f"{_TOO_DEEP}; {_TOO_DEEP_REMEDY}")
        if isinstance(event, yaml.ScalarEvent):
            built = _Built(_scalar(event, line), (line, None), 1)
        elif isinstance(event, yaml.MappingStartEvent):
            built = self._mapping(line, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            built = self._sequence(line, depth)
        else:
            return self._alias(event.anchor, line, depth)
        if event.anchor:
            self._anchors[event.anchor] = built  # only now, so that no value can contain itself
        return built

    def _alias(self, anchor: str, line: int, depth: int) -> _Built:
        built = self._anchors.get(anchor)
        if built is None:
            shown = anchor[:_MAX_SHOWN]
            raise _Unusable(
                line, f"alias *{shown} refers to nothing before it, or to a value that contains it; write the value out"
            )
        if depth + built.height > MAX_DEPTH:
            raise _Unusable(line, f"{_TOO_DEEP} by *{anchor[:_MAX_SHOWN]}; {_TOO_DEEP_REMEDY}")
        self._aliased += built.size
        if self._aliased > MAX_ALIASED:
            raise _Unusable(line, f"aliases repeat more than {MAX_ALIASED} values; write them out, or make several files")
        return built

    def _sequence(self, line: int, depth: int) -> _Built:
        values, lines, size, height = [], list[Lines](), 1, 0
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            built = self._build(event, depth + 1)
            values.append(built.value)
            lines.append(built.lines)
            size += built.size
            height = max(height, built.height + 1)
        return _Built(values, (line, lines), size, height)

    def _mapping(self, line: int, depth: int) -> _Built:
        values: dict[str, Any] = {}
        lines: dict[str, Lines] = {}
        merged: list[tuple[int, _Built]] = []
        size, height = 1, 0
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            key = self._key(event, key_line)
            built = self._build(self._next(), depth + 1)
            size += built.size
            height = max(height, built.height + 1)
            if key == "<<":
                merged.append((key_line, built))
            elif key in values:
                reason = f"key {key[:_MAX_SHOWN]!r} is there twice (first in line {lines[key][0]}); keep one of them"
                self._faults.append(Fault(key_line, reason))
            else:
                values[key] = built.value
                lines[key] = (key_line, built.lines[1])
        for key_line, built in merged:
            _merge(built, key_line, values, lines)
        return _Built(values, (line, lines), size, height)

    def _key(self, event: Any, line: int) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise _Unusable(line, "a key must be plain text, not a list, mapping or alias; is a '{' of a template left over?")
        value = _scalar(event, line)
        if value is None or isinstance(value, bool):
            raise _Unusable(line, f"key {event.value[:_MAX_SHOWN]!r} does not mean text in YAML; write it in quotes")
        return value if isinstance(value, str) else str(event.value)


def _merge(built: _Built, line: int, values: dict[str, Any], lines: dict[str, Lines]) -> None:
    """Apply a `<<` key: add what is not there yet."""
    sources = built.value if isinstance(built.value, list) else [built.value]
    children = built.lines[1] if isinstance(built.lines[1], list) else [built.lines]
    for source, child in zip(sources, children, strict=True):
        if not isinstance(source, dict) or not isinstance(child[1], dict):
            raise _Unusable(line, "'<<' merges a mapping or a list of mappings, nothing else")
        for key, value in source.items():
            if key not in values:
                values[key] = value
                lines[key] = child[1][key]


def _scalar(event: Any, line: int) -> Any:
    text: str = event.value
    if event.tag is None or event.tag == "!":
        return _plain(text) if event.implicit[0] else text
    tag = event.tag.removeprefix(_TAG)
    if tag in ("str", "timestamp"):
        return text
    value = _plain(text)
    expected = _TAG_TYPES.get(tag)
    if expected is None:
        raise _Unusable(line, f"tag {event.tag[:_MAX_SHOWN]!r} is not allowed here")
    if not isinstance(value, expected) or (isinstance(value, bool) and tag != "bool"):
        raise _Unusable(line, f"{text[:_MAX_SHOWN]!r} is not of the type that its tag {tag} says")
    return value


def _plain(text: str) -> Any:
    """What an unquoted scalar means."""
    if text in _NULLS:
        return None
    if text[0] not in "+-.0123456789":
        return True if text in _TRUE else False if text in _FALSE else text
    if _INTEGER.fullmatch(text) and len(text) <= _MAX_DIGITS:
        return _integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", "") if text[-1].isdigit() or text[-1] == "." else text.lower().replace(".", ""))
    return text


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    sign = -1 if text.startswith("-") else 1
    for prefix, base in (("0x", 16), ("0b", 2), ("0o", 8)):
        if digits.startswith(prefix):
            return sign * int(digits[2:] or "0", base)
    return sign * int(digits, 8 if digits.startswith("0") and len(digits) > 1 else 10)
