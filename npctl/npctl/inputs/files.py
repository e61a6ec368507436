"""-f PATH...: from files and folders to the documents in them, every problem of every file at once.

Out: `Documents`. A folder means all its *.yaml, *.yml and *.json, in the order of their paths; `-` is stdin. The same object
written twice is not an error: as with `kubectl apply -f FOLDER`, the last one counts, and it is said on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netpol_compiler.model.objects import Rejected
from netpol_compiler.reading.metadata import DEFAULT_NAMESPACE
from netpol_manifests.documents import Document, classify, decode, parse_yaml
from npctl.errors import CommandError, ExitCode, bad_input, usage

SUFFIXES = (".yaml", ".yml", ".json")
_NOT_NAMESPACED = ("Node", "Namespace")

Identity = tuple[str, str, str]
"""Kind, namespace (empty for objects of the whole cluster), name."""


@dataclass(frozen=True, slots=True)
class Documents:
    """What counts, in order of first appearance; and each document that a later one replaced, with that later one."""

    current: dict[Identity, Document]
    replaced: tuple[tuple[Document, Document], ...]
    sources: str


def read(paths: list[str]) -> Documents:
    """Read everything. Raises CommandError (bad input) naming every file and line that could not be read."""
    if not paths:
        raise usage("no files", "name files or folders with -f PATH (repeatable), or - for stdin")
    documents: list[Document] = []
    rejected: list[Rejected] = []
    for name, content in _contents(paths):
        text = decode(content, name)
        if isinstance(text, Rejected):
            rejected.append(text)
            continue
        found, problems = parse_yaml(text, name)
        documents += found
        rejected += problems
    if rejected:
        raise bad_input([*rejected, *_unknown_kinds(documents)])
    if not documents:
        raise CommandError(
            ExitCode.BAD_INPUT, f"{_sources(paths)}: there is no Kubernetes object in it", "name other files with -f"
        )
    current, replaced = _last_wins(documents)
    return Documents(current, replaced, _sources(paths))


def identity(document: Document) -> Identity:
    """Kind, namespace and name, with the API server's default namespace."""
    namespace = "" if document.kind in _NOT_NAMESPACED else document.namespace or DEFAULT_NAMESPACE
    return document.kind, namespace, document.name


def place(document: Document) -> str:
    """`file:line` of a document."""
    return f"{document.file}:{document.line_of()}"


def replaced_lines(documents: Documents) -> list[str]:
    """One line for each object that was written more than once: what counts, and what does not."""
    lost: dict[Identity, list[Document]] = {}
    for old, _ in documents.replaced:
        lost.setdefault(identity(old), []).append(old)
    lines = []
    for key, earlier in lost.items():
        kind, namespace, name = key
        who = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
        where = ", ".join(place(d) for d in earlier)
        lines.append(f"{place(documents.current[key])}: {who} replaces the one of {where} (the last one counts)")
    return lines


def _sources(paths: list[str]) -> str:
    return ", ".join("stdin" if p == "-" else p for p in paths)


def _contents(paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for text in paths:
        if text == "-":
            yield "stdin", sys.stdin.buffer.read()
            continue
        for path in _files(text):
            try:
                yield str(path), path.read_bytes()
            except OSError as error:
                raise usage(f"{path}: cannot be read: {error.strerror}") from error


def _files(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not found:
            raise usage(f"{text}: no file in this folder ends in {', '.join(SUFFIXES)}")
        return found
    if not path.exists():
        raise usage(f"{text}: no such file or folder", "check the path given with -f")
    return [path]


def _unknown_kinds(documents: list[Document]) -> list[Rejected]:
    """Told together with what could not be read, although reading is not what failed: all problems at once."""
    return [answer for document in documents if isinstance(answer := classify(document), Rejected)]


def _last_wins(documents: list[Document]) -> tuple[dict[Identity, Document], tuple[tuple[Document, Document], ...]]:
    current: dict[Identity, Document] = {}
    losers: list[Document] = []
    for document in documents:
        key = identity(document)
        if key in current:
            losers.append(current[key])
        current[key] = document
    return current, tuple((old, current[identity(old)]) for old in losers)
