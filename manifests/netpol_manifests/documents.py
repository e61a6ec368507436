"""Manifest texts (YAML or JSON) to `Document`s: one Kubernetes object each, with its file and line numbers.

In: bytes or text of a file. Out: documents and `Rejected` values with file, line and remedy; never an exception.
`kind: List` (and PodList and its kin) is flattened, empty documents are skipped. A document with a fault in it (a key
twice, an alias bomb, no name) is left out, for what it says is ambiguous: callers must treat its `Rejected` as an error
of the whole input and not go on with the rest as if it were complete. Excluded: what the objects' fields mean (`parse`),
and reading files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from netpol_api import kinds
from netpol_compiler.model.objects import Rejected
from netpol_compiler.reading.fields import Path, describe
from netpol_manifests.yaml_reader import NO_LINES, Lines, read_documents

_APPS, _RBAC, _STORAGE = "apps", "rbac.authorization.k8s.io", "storage.k8s.io"
_ADMISSION, _FLOW = "admissionregistration.k8s.io", "flowcontrol.apiserver.k8s.io"

USED_KINDS: Mapping[str, str] = {kind.kind: kind.api_version for kind in kinds.USED}
"""The kinds that make an answer, and the one apiVersion of each that is understood."""

_IRRELEVANT: Mapping[str, tuple[str, ...]] = {
    "": (
        "ConfigMap", "Secret", "ServiceAccount", "PersistentVolume", "PersistentVolumeClaim", "LimitRange", "ResourceQuota",
        "Endpoints", "Event", "PodTemplate", "Binding", "ComponentStatus",
    ),
    _APPS: ("ControllerRevision",),
    "batch": ("CronJob",),
    "networking.k8s.io": ("Ingress", "IngressClass", "IPAddress", "ServiceCIDR"),
    "discovery.k8s.io": ("EndpointSlice",),
    "autoscaling": ("HorizontalPodAutoscaler",),
    "policy": ("PodDisruptionBudget",),
    "node.k8s.io": ("RuntimeClass",),
    "scheduling.k8s.io": ("PriorityClass",),
    "coordination.k8s.io": ("Lease",),
    "certificates.k8s.io": ("CertificateSigningRequest",),
    "apiextensions.k8s.io": ("CustomResourceDefinition",),
    "apiregistration.k8s.io": ("APIService",),
    "events.k8s.io": ("Event",),
    _RBAC: ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"),
    _STORAGE: ("StorageClass", "VolumeAttachment", "CSIDriver", "CSINode", "CSIStorageCapacity"),
    _FLOW: ("FlowSchema", "PriorityLevelConfiguration"),
    _ADMISSION: (
        "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding",
    ),
}  # fmt: skip
"""Kinds of Kubernetes itself, by API group, that cannot change an answer about packets between pods."""

_OTHER_POLICIES = ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy", "GlobalNetworkPolicy")


class Use(Enum):
    """What becomes of a document: USED makes an answer, SKIPPED cannot change one (skipped and counted)."""

    USED = "used"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Document:
    """One object with its place. An object from the API has `data` only: then `file` is empty and every line 0."""

    data: Mapping[str, Any]
    file: str = ""
    lines: Lines = field(default=NO_LINES, repr=False, compare=False)

    @property
    def kind(self) -> str:
        return str(self.data.get("kind") or "")

    @property
    def api_version(self) -> str:
        return str(self.data.get("apiVersion") or "")

    @property
    def name(self) -> str:
        return str(self._metadata.get("name") or "")

    @property
    def namespace(self) -> str:
        """metadata.namespace as written; empty where it is missing."""
        return str(self._metadata.get("namespace") or "")

    @property
    def _metadata(self) -> Mapping[str, Any]:
        metadata = self.data.get("metadata")
        return metadata if isinstance(metadata, Mapping) else {}

    def line_of(self, path: Path = ()) -> int:
        """The line (1-based) of the deepest part of `path` that exists; 0 where lines are not known."""
        line, children = self.lines
        for part in path:
            if isinstance(children, dict) and part in children:
                line, children = children[str(part)]
            elif isinstance(children, list) and isinstance(part, int) and 0 <= part < len(children):
                line, children = children[part]
            else:
                break
        return line


def decode(content: bytes, file: str) -> str | Rejected:
    """The text of a manifest file: UTF-8, with or without a byte order mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _file_fault(file, 1, "is in UTF-16; save it as UTF-8")
    nul = content.find(b"\0")
    if nul >= 0:
        return _file_fault(file, content.count(b"\n", 0, nul) + 1, "holds a NUL byte: this is not a text file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return _file_fault(file, line, f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8")


def parse_yaml(text: str, file: str) -> tuple[list[Document], list[Rejected]]:
    """Every object of a manifest text, in order, and what could not be read. `file` is only for messages."""
    documents: list[Document] = []
    rejected: list[Rejected] = []
    for number, raw in enumerate(read_documents(text), start=1):
        if raw.faults:
            rejected += [Rejected("document", "", str(number), (), f.reason, file, f.line) for f in raw.faults]
        elif raw.value is not None:
            for item in _flatten(Document(raw.value, file, raw.lines), number):
                if isinstance(item, Rejected):
                    rejected.append(item)
                else:
                    documents.append(item)
    return documents, rejected


def classify(document: Document) -> Use | Rejected:
    """Whether a document is used, skipped, or of a kind that is not known (which may matter, so it is an error)."""
    kind, version = document.kind, document.api_version
    group = version.rpartition("/")[0]
    if kind in USED_KINDS and version == USED_KINDS[kind]:
        return Use.USED
    if kind in _IRRELEVANT.get(group, ()):
        return Use.SKIPPED
    if kind in USED_KINDS:
        return _refuse(document, ("apiVersion",), f"{kind} of {version} is not understood; write apiVersion: {USED_KINDS[kind]}")
    if kind in _OTHER_POLICIES:
        return _refuse(document, ("kind",), f"{kind} ({version}) is not supported, and would change the answers; leave it out")
    return _refuse(document, ("kind",), f"kind {kind} of {version} is not known; leave it out, or correct kind and apiVersion")


def _flatten(document: Document, number: int) -> Iterator[Document | Rejected]:
    data: object = document.data
    if not isinstance(data, Mapping):
        reason = f"expected a Kubernetes object (a mapping with apiVersion and kind), got {describe(data)}"
        yield _fault(document, number, (), reason)
        return
    kind = data.get("kind")
    if not (isinstance(kind, str) and kind.endswith("List") and "items" in data):
        yield _checked(document, number)
        return
    items = data["items"]
    if not isinstance(items, list | None):
        yield _fault(document, number, ("items",), f"expected a list, got {describe(items)}")
        return
    defaults = {} if kind == "List" else {"apiVersion": data.get("apiVersion"), "kind": kind.removesuffix("List")}
    children = document.lines[1]
    item_lines = children["items"][1] if isinstance(children, dict) else None
    for index, item in enumerate(items or ()):
        lines = item_lines[index] if isinstance(item_lines, list) else NO_LINES
        value = {**defaults, **item} if isinstance(item, Mapping) else item
        yield from _flatten(Document(value, document.file, lines), number)


def _checked(document: Document, number: int) -> Document | Rejected:
    data = document.data
    for key in ("apiVersion", "kind"):
        if not isinstance(data.get(key), str) or not data[key]:
            reason = "is missing" if data.get(key) is None else f"expected text, got {describe(data[key])}"
            return _fault(document, number, (key,), reason)
    metadata = data.get("metadata")
    if not isinstance(metadata, Mapping):
        reason = "is missing" if metadata is None else f"expected a mapping, got {describe(metadata)}"
        return _fault(document, number, ("metadata",), reason)
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        reason = "is missing" if name is None or name == "" else f"expected text, got {describe(name)}; write it in quotes"
        if name is None and "generateName" in metadata:
            reason += " (generateName makes a new object each time; write a name)"
        return _fault(document, number, ("metadata", "name"), reason)
    return document


def _fault(document: Document, number: int, path: Path, reason: str) -> Rejected:
    """About a document that cannot be named by its kind and name."""
    kind = document.data.get("kind") if isinstance(document.data, Mapping) else None
    who = ("document", str(number)) if not isinstance(kind, str) else (kind, document.name or f"(document {number})")
    return Rejected(who[0], "", who[1], path, reason, document.file, document.line_of(path))


def _refuse(document: Document, path: Path, reason: str) -> Rejected:
    line = document.line_of(path)
    return Rejected(document.kind, document.namespace, document.name, path, reason, document.file, line)


def _file_fault(file: str, line: int, reason: str) -> Rejected:
    return Rejected("file", "", file.rpartition("/")[2], (), reason, file, line)
