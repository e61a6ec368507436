"""The lab's parts as plain JSON values, for `npctl lab status`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from netpol_compiler.model.addresses import Address
from netpol_lab.topology.model import LabService, Listen, ServicePort, Topology


def texts(addresses: Iterable[Address]) -> list[str]:
    """Addresses as people write them."""
    return [a.text for a in addresses]


def ports(listens: Iterable[Listen]) -> list[str]:
    """Listening ports as 8080/tcp."""
    return [f"{item.port}/{item.protocol.value.lower()}" for item in listens]


def of_topology(topology: Topology, report: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Nodes (with `report(name)`, their agent's last one), hosts, pods and services."""
    return {
        "nodes": [
            {"name": n.name, "addresses": texts(n.addresses), "cidrs": [c.text for c in n.cidrs], "report": report(n.name)}
            for n in topology.nodes.values()
        ],
        "hosts": [
            {"name": h.name, "addresses": texts(h.addresses), "extra": texts(h.extra), "ports": ports(h.listens)}
            for h in topology.hosts.values()
        ],
        "pods": [
            {
                "namespace": p.key.namespace,
                "name": p.key.name,
                "node": p.node,
                "addresses": texts(p.addresses),
                "host_network": p.host_network,
                "ports": ports(p.listens),
            }
            for p in topology.pods.values()
        ],
        "services": [_service(s) for s in topology.services.values()],
    }


def _service(service: LabService) -> dict[str, Any]:
    return {
        "namespace": service.key.namespace,
        "name": service.key.name,
        "addresses": texts(service.cluster_ips),
        "ports": [_port(p) for p in service.ports],
    }


def _port(port: ServicePort) -> dict[str, Any]:
    places = [f"[{e.address}]:{e.port}" if e.address.version == 6 else f"{e.address}:{e.port}" for e in port.endpoints]
    return {"port": f"{port.port}/{port.protocol.value.lower()}", "node_port": port.node_port, "endpoints": places}
