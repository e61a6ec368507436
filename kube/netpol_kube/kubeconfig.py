"""Kubeconfig files as one, merged as kubectl merges them.

In: the paths, in the order of KUBECONFIG. Out: contexts, clusters and users by name, each with the folder of its file, which its
relative paths start from. The first file that says something wins; files that are missing are skipped. Left out: what it means.
No error names a value: it may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpol_kube.errors import CredentialsError


@dataclass(frozen=True, slots=True)
class Entry:
    """One context, cluster or user. `file` is where it stands."""

    kind: str
    name: str
    fields: Mapping[str, Any]
    file: Path

    @property
    def where(self) -> str:
        return f"kubeconfig {self.file}: {self.kind} {self.name!r}"

    def text(self, field: str) -> str:
        """A field that is text; empty when it is not there. Raises CredentialsError for anything else."""
        value = self.fields.get(field)
        if isinstance(value, dict | list):
            raise CredentialsError(f"{self.where}: {field} is not text")
        return "" if value is None else str(value)

    def path(self, field: str) -> Path | None:
        """A field that names a file."""
        text = self.text(field)
        return self.file.parent / text if text else None

    def pem(self, field: str) -> str:
        """A certificate or key, given as data or as a file. Raises CredentialsError."""
        if self.fields.get(f"{field}-data", "") is None:
            # Whoever wrote that meant a certificate: without it the server would only say that nobody has logged in.
            raise CredentialsError(f"{self.where}: {field}-data is empty")
        if data := self.text(f"{field}-data"):
            try:
                return base64.b64decode(data, validate=True).decode("ascii")
            except (binascii.Error, ValueError) as error:
                raise CredentialsError(f"{self.where}: {field}-data: {error}") from error
        path = self.path(field)
        return read_text(path) if path else ""


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """`current` is the name of the current context; empty when no file says one."""

    paths: tuple[Path, ...]
    current: str
    contexts: Mapping[str, Entry]
    clusters: Mapping[str, Entry]
    users: Mapping[str, Entry]

    @property
    def where(self) -> str:
        return f"kubeconfig {os.pathsep.join(map(str, self.paths))}"

    def context(self, name: str | None = None) -> Entry:
        """The context of that name, or the current one. Raises CredentialsError."""
        wanted = name or self.current
        if not wanted:
            raise CredentialsError(f"{self.where}: no context is the current one", "name one: kubectl config use-context NAME")
        if wanted not in self.contexts:
            known = ", ".join(self.contexts) or "none"
            raise CredentialsError(f"{self.where}: there is no context {wanted!r}", f"the contexts are {known}")
        return self.contexts[wanted]

    def named(self, entries: Mapping[str, Entry], context: Entry, field: str) -> Entry:
        """The cluster or user that a context names. Raises CredentialsError."""
        name = context.text(field)
        if name not in entries:
            raise CredentialsError(f"{self.where}: no {field} {name!r}", "kubectl config view lists what there is")
        return entries[name]


def read(paths: Sequence[Path]) -> Kubeconfig:
    """Raises CredentialsError for a file that cannot be read, unless it is one of several and missing."""
    files = [(p, _file(p)) for p in paths if len(paths) == 1 or p.exists()]
    current = next((str(data["current-context"]) for _, data in files if data.get("current-context")), "")
    merged = [_merged(files, section, kind) for section, kind in _SECTIONS.items()]
    return Kubeconfig(tuple(p for p, _ in files), current, *merged)


_SECTIONS = {"contexts": "context", "clusters": "cluster", "users": "user"}


def _merged(files: Sequence[tuple[Path, Mapping[str, Any]]], section: str, kind: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for path, data in files:
        for entry in _entries(data, section, kind, path):
            found.setdefault(entry.name, entry)
    return found


def _entries(data: Mapping[str, Any], section: str, kind: str, path: Path) -> Iterator[Entry]:
    items = data.get(section) or []
    if not isinstance(items, list):
        raise CredentialsError(f"kubeconfig {path}: {section} is not a list")
    for item in items:
        fields = item.get(kind) or {} if isinstance(item, dict) else None
        if not isinstance(fields, dict) or not isinstance(item.get("name"), str | int | float):
            raise CredentialsError(f"kubeconfig {path}: an entry of {section} is not a named {kind}")
        yield Entry(kind, str(item["name"]), fields, path)


def _file(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError) as error:
        raise CredentialsError(f"kubeconfig {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise CredentialsError(f"kubeconfig {path}: not YAML{line}") from error
    if not isinstance(data, dict):
        raise CredentialsError(f"kubeconfig {path}: not a kubeconfig")
    return data


def read_text(path: Path) -> str:
    """A file of credentials. Raises CredentialsError."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{path}: {getattr(error, 'strerror', None) or 'not text'}") from error
