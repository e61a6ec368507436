"""The border: Kubernetes objects as mappings become frozen values, once; nothing behind it sees a mapping.

In: one object, decoded from YAML, a JSON file, or the API. Out: `(value or None, what was rejected)`; never an exception.
The value is None only where the object cannot be identified (no valid name or namespace). Fields of pods, namespaces and
nodes that cannot change an answer are not looked at. Policies are in `parse_policy`, Services in `services`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from netpol_compiler.model.addresses import Address, Network, parse_address, parse_network
from netpol_compiler.model.objects import NAMESPACE_NAME_LABEL, ContainerPort, Labels, Namespace, Node, Pod, Rejected
from netpol_compiler.reading.fields import Path, Problems, describe, port_name_error, read_protocol
from netpol_compiler.reading.metadata import read_metadata
from netpol_compiler.reading.policy import host_bits, parse_policy

__all__ = ["host_bits", "locate", "parse_namespace", "parse_node", "parse_pod", "parse_policy"]

HOSTNAME_LABEL = "kubernetes.io/hostname"
PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


class HasLines(Protocol):
    """What `locate` needs to know of a document."""

    @property
    def file(self) -> str: ...

    def line_of(self, path: Path) -> int: ...


def locate(rejected: Rejected, document: HasLines) -> Rejected:
    """`rejected` with the file and line of its field in `document`."""
    return replace(rejected, file=document.file, line=document.line_of(rejected.path))


def parse_namespace(data: Mapping[str, Any]) -> tuple[Namespace | None, tuple[Rejected, ...]]:
    """Parse one Namespace. Its name's own label is always there, as the API server sets it (SEMANTICS 5)."""
    metadata, problems = read_metadata(data, "Namespace", namespaced=False)
    name = metadata.key.name
    value = Namespace(name, Labels({**metadata.labels, NAMESPACE_NAME_LABEL: name})) if metadata.usable else None
    return value, tuple(problems.found)


def parse_node(data: Mapping[str, Any]) -> tuple[Node | None, tuple[Rejected, ...]]:
    """Parse one Node: addresses of type InternalIP, and spec.podCIDRs (spec.podCIDR where that is missing)."""
    metadata, problems = read_metadata(data, "Node", namespaced=False)
    status = problems.mapping(data.get("status"), ("status",)) or {}
    spec = problems.mapping(data.get("spec"), ("spec",)) or {}
    addresses: list[Address] = []
    for index, item in enumerate(problems.sequence(status.get("addresses"), ("status", "addresses")) or ()):
        path = ("status", "addresses", index)
        entry = problems.mapping(item, path) or {}
        if entry.get("type") == "InternalIP":
            addresses += _read_address(entry.get("address"), (*path, "address"), problems)
    cidrs = _read_cidrs(spec, problems)
    labels = Labels({HOSTNAME_LABEL: metadata.key.name, **metadata.labels})
    value = Node(metadata.key.name, labels, tuple(dict.fromkeys(addresses)), cidrs) if metadata.usable else None
    return value, tuple(problems.found)


def parse_pod(data: Mapping[str, Any]) -> tuple[Pod | None, tuple[Rejected, ...]]:
    """Parse one Pod. Without a phase it is Running if it has an address, else Pending. A bad address is left out."""
    metadata, problems = read_metadata(data, "Pod")
    spec = problems.mapping(data.get("spec"), ("spec",)) or {}
    status = problems.mapping(data.get("status"), ("status",)) or {}
    addresses = _read_pod_addresses(status, problems)
    node = spec.get("nodeName")
    host_network = spec.get("hostNetwork")
    pod = Pod(
        key=metadata.key,
        uid=metadata.uid,
        labels=metadata.labels,
        node="" if node is None else problems.text(node, ("spec", "nodeName")) or "",
        addresses=addresses,
        host_network=host_network is not None and bool(problems.boolean(host_network, ("spec", "hostNetwork"))),
        phase=_read_phase(status, bool(addresses), problems),
        ports=read_container_ports(spec, ("spec",), problems),
        created=metadata.created,
    )
    return pod if metadata.usable else None, tuple(problems.found)


def read_container_ports(spec: Mapping[str, Any], path: Path, problems: Problems) -> tuple[ContainerPort, ...]:
    """The ports of a pod spec's containers, and of its sidecars (initContainers that are restarted always)."""
    ports: list[ContainerPort] = []
    for field in ("containers", "initContainers"):
        for index, item in enumerate(problems.sequence(spec.get(field), (*path, field)) or ()):
            container = problems.mapping(item, (*path, field, index)) or {}
            if field == "initContainers" and container.get("restartPolicy") != "Always":
                continue
            where = (*path, field, index, "ports")
            for number, port in enumerate(problems.sequence(container.get("ports"), where) or ()):
                ports += _read_container_port(port, (*where, number), problems)
    return tuple(dict.fromkeys(ports))


def _read_container_port(value: object, path: Path, problems: Problems) -> list[ContainerPort]:
    data = problems.mapping(value, path)
    if data is None:
        return []
    number = problems.integer(data.get("containerPort"), (*path, "containerPort"), 1, 65535)
    protocol = read_protocol(data.get("protocol"), (*path, "protocol"), problems)
    name = data.get("name")
    text = "" if name is None or name == "" else problems.text(name, (*path, "name")) or ""
    if text and (error := port_name_error(text)):
        problems.add((*path, "name"), error)
        text = ""  # the port exists all the same; no policy can name it
    return [] if number is None or protocol is None else [ContainerPort(text, protocol, number)]


def _read_pod_addresses(status: Mapping[str, Any], problems: Problems) -> tuple[Address, ...]:
    addresses: list[Address] = []
    for index, item in enumerate(problems.sequence(status.get("podIPs"), ("status", "podIPs")) or ()):
        entry = problems.mapping(item, ("status", "podIPs", index))
        if entry is not None:
            addresses += _read_address(entry.get("ip"), ("status", "podIPs", index, "ip"), problems)
    if not status.get("podIPs") and status.get("podIP"):
        addresses += _read_address(status["podIP"], ("status", "podIP"), problems)
    return tuple(dict.fromkeys(addresses))


def _read_phase(status: Mapping[str, Any], has_address: bool, problems: Problems) -> str:
    phase = status.get("phase")
    if phase is None or phase == "":
        return "Running" if has_address else "Pending"
    if isinstance(phase, str) and phase in PHASES:
        return phase
    problems.add(("status", "phase"), f"expected one of {', '.join(PHASES)}, got {describe(phase)}")
    return "Unknown"  # not over, so policies still hold for it


def _read_address(value: object, path: Path, problems: Problems) -> list[Address]:
    text = problems.text(value, path)
    if text is None:
        return []
    try:
        return [parse_address(text)]
    except ValueError as error:
        problems.add(path, str(error))
        return []


def _read_cidrs(spec: Mapping[str, Any], problems: Problems) -> tuple[Network, ...]:
    items = problems.sequence(spec.get("podCIDRs"), ("spec", "podCIDRs")) or ()
    texts: list[tuple[Path, object]] = [(("spec", "podCIDRs", index), item) for index, item in enumerate(items)]
    if not texts and spec.get("podCIDR"):
        texts = [(("spec", "podCIDR"), spec["podCIDR"])]
    found: list[Network] = []
    for path, value in texts:
        text = problems.text(value, path)
        try:
            found += [parse_network(text)[0]] if text is not None else []
        except ValueError as error:
            problems.add(path, str(error))
    return tuple(dict.fromkeys(found))
