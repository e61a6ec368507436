"""Manifests in one line each, and `see_packets`, which sends real packets and compares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netpol_lab.client import LabClient

Manifest = Mapping[str, Any]
PortList = tuple[tuple[str, int, str], ...]
"""(name or "", number, protocol) of each container port."""

BOTH, IPV4, IPV6 = (4, 6), (4,), (6,)
_LINE = re.compile(r"(\S+) +-> +(\S+) +(\S+) +(allowed|refused)(?: +(ipv4|ipv6))?(?: +#.*)?")


@contextmanager
def own_lab_folder(folder: Path) -> Iterator[None]:
    """Labs live in `folder` inside: never among those of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPCTL_LAB_DIR", str(folder))
        yield


def node(name: str, addresses: tuple[str, ...], blocks: tuple[str, ...]) -> Manifest:
    status = {"addresses": [{"type": "InternalIP", "address": a} for a in addresses]}
    spec = {"podCIDR": blocks[0], "podCIDRs": list(blocks)}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec, "status": status}


def namespace(name: str, **labels: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(
    where: str, on: str, labels: Mapping[str, str], ports: PortList = (), addresses: tuple[str, ...] = (), **spec: Any
) -> dict[str, Any]:
    """A Pod; `where` is NAMESPACE/NAME. With `addresses` it runs at these."""
    place, _, name = where.partition("/")
    listed = [{"containerPort": n, "protocol": p} | ({"name": named} if named else {}) for named, n, p in ports]
    container = {"name": "main", "image": "nginx:1.28", "ports": listed}
    metadata = {"namespace": place, "name": name, "labels": dict(labels)}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": on, "containers": [container], **spec}}
    if addresses:
        made["status"] = {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": a} for a in addresses]}
    return made


def service(where: str, port: int, target: int | str, node_port: int, **selector: str) -> Manifest:
    """A NodePort Service of both families where the cluster has both; `where` is NAMESPACE/NAME."""
    place, _, name = where.partition("/")
    ports = [{"port": port, "targetPort": target, "nodePort": node_port, "protocol": "TCP"}]
    spec = {"type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "selector": selector, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": place, "name": name}, "spec": spec}


def see_packets(lab: LabClient, lines: str, families: tuple[int, ...] = BOTH) -> None:
    """Send all packets at once. A line: SOURCE -> TARGET PORT allowed|refused [ipv4|ipv6] [# why]."""
    wanted: list[tuple[str, dict[str, Any], str]] = []
    for line in filter(None, map(str.strip, lines.splitlines())):
        found = _LINE.fullmatch(line)
        assert found, f"not a line of packets: {line}"
        source, target, port, expected, only = found.groups()
        chosen = {None: families, "ipv4": IPV4, "ipv6": IPV6}[only]
        wanted += [(line, {"source": source, "destination": target, "port": port, "family": f}, expected) for f in chosen]
    seen = lab.connect_many([connection for _, connection, _ in wanted])
    wrong = []
    for (line, connection, expected), results in zip(wanted, seen, strict=True):
        verdicts = [r["verdict"] for r in results]
        if verdicts != [expected]:
            wrong.append(f"{line}: IPv{connection['family']} saw {verdicts or 'nothing'} {[r['detail'] for r in results]}")
    assert not wrong, "\n" + "\n".join(wrong)
