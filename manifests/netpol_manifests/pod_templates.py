"""Workloads to the pods that their controllers would make: names, labels and owner as in Kubernetes, but deterministic.

In: a Deployment, ReplicaSet, StatefulSet, DaemonSet or Job as a mapping. Out: pods as mappings, not yet scheduled (but for
DaemonSets, whose pods belong to a node each). The same input gives the same names. Excluded: placing pods and addresses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netpol_api import kinds
from netpol_compiler.model.objects import Key, Labels
from netpol_compiler.reading.fields import Problems
from netpol_compiler.reading.selector import read_selector

WORKLOADS = tuple(kind.kind for kind in kinds.WORKLOADS)
MAX_REPLICAS = 10_000  # of one workload: a typing error must not fill the machine
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # Kubernetes' own: no vowels, so no words
_STEM = 58  # Kubernetes cuts the generated part of a pod's name here

Eligible = Callable[[Mapping[str, Any]], Sequence[str]]
"""Names of the nodes that a pod spec may run on, sorted."""


def digest(*parts: str, length: int) -> str:
    """`length` characters of Kubernetes' name alphabet, from a hash over separated parts."""
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest(), "big")
    text = ""
    for _ in range(length):
        number, index = divmod(number, len(_ALPHABET))
        text += _ALPHABET[index]
    return text


def uid_of(kind: str, key: Key) -> str:
    """A uid for an object that has none, in the form of a UUID."""
    text = hashlib.sha256("\0".join((kind, key.namespace, key.name)).encode()).hexdigest()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:32]))


def expand_workload(data: Mapping[str, Any], kind: str, key: Key, problems: Problems, eligible: Eligible) -> list[dict[str, Any]]:
    """The pods of one workload, in order. What cannot be read is noted in `problems`, with paths inside the workload."""
    spec = problems.mapping(data.get("spec"), ("spec",)) or {}
    template = problems.mapping(spec.get("template"), ("spec", "template"))
    if not template:
        if template is not None:
            problems.add(("spec", "template"), "is missing")
        return []
    metadata = problems.mapping(template.get("metadata"), ("spec", "template", "metadata")) or {}
    pod_spec = problems.mapping(template.get("spec"), ("spec", "template", "spec")) or {}
    _check_selector(spec, kind, metadata, problems)
    owner = {"apiVersion": data.get("apiVersion"), "kind": kind, "name": key.name, "uid": uid_of(kind, key), "controller": True}
    template_hash = digest(json.dumps(template, sort_keys=True, default=str), length=10)
    pods = []
    for name, labels, node in _instances(spec, kind, key, template_hash, problems, lambda: eligible(pod_spec)):
        written = metadata.get("labels")
        merged = {**written, **labels} if isinstance(written, Mapping) else written or labels
        pod_metadata = {**metadata, "name": name, "namespace": key.namespace, "labels": merged, "ownerReferences": [owner]}
        scheduled = {**pod_spec, "nodeName": node} if node else dict(pod_spec)
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": pod_metadata, "spec": scheduled})
    return pods


def _instances(
    spec: Mapping[str, Any], kind: str, key: Key, template_hash: str, problems: Problems, nodes: Callable[[], Sequence[str]]
) -> list[tuple[str, dict[str, str], str]]:
    """(pod name, labels that the controller adds, node or empty) of every pod."""
    if kind == "DaemonSet":
        return [(_generated(f"{key.name}-", key, node), {}, node) for node in nodes()]
    if kind == "Job":
        parallel = _count(spec, "parallelism", problems)
        count = min(parallel, _count(spec, "completions", problems)) if spec.get("completions") is not None else parallel
        labels = {"batch.kubernetes.io/job-name": key.name, "job-name": key.name} if len(key.name) <= 63 else {}
        return [(_generated(f"{key.name}-", key, str(index)), labels, "") for index in range(count)]
    replicas = range(_count(spec, "replicas", problems))
    if kind == "StatefulSet":
        name_label, index_label = "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"
        return [(f"{key.name}-{i}", {name_label: f"{key.name}-{i}", index_label: str(i)}, "") for i in replicas]
    if kind == "Deployment":
        labels = {"pod-template-hash": template_hash}
        return [(_generated(f"{key.name}-{template_hash}-", key, str(index)), labels, "") for index in replicas]
    return [(_generated(f"{key.name}-", key, str(index)), {}, "") for index in replicas]


def _generated(stem: str, key: Key, which: str) -> str:
    return stem[:_STEM] + digest(stem, key.namespace, key.name, which, length=5)


def _count(spec: Mapping[str, Any], field: str, problems: Problems) -> int:
    value = spec.get(field)
    if value is None:
        return 1
    number = problems.integer(value, ("spec", field), 0, MAX_REPLICAS)
    return 1 if number is None else number


def _check_selector(spec: Mapping[str, Any], kind: str, metadata: Mapping[str, Any], problems: Problems) -> None:
    """The API server refuses a workload whose selector does not match its own template."""
    if kind == "Job":
        return
    if spec.get("selector") is None:
        problems.add(("spec", "selector"), "is missing; it must match the labels of spec.template")
        return
    selector, complete = read_selector(spec["selector"], ("spec", "selector"), problems)
    labels = metadata.get("labels")
    plain = {k: v for k, v in labels.items() if isinstance(k, str) and isinstance(v, str)} if isinstance(labels, Mapping) else {}
    if complete and not selector.matches(Labels(plain)):
        problems.add(("spec", "selector"), f"{selector.words} does not match the labels of spec.template")
