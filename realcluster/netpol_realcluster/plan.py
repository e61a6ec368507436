"""What a real cluster is to be, as frozen values, and where its parts are: for everybody in this package.

In: how many nodes, which network. Out: names and addresses. The addresses are those of the walkthrough: nodes 172.31.7.111 and
up, pods in 10.200.0.0/16, names below magedu.local. Nobody outside can see them, so that several clusters may have the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import build_kubernetes
from netpol_compiler.model.addresses import Address, parse_address
from netpol_lab.control.control_plane import service_networks
from netpol_lab.control.kubernetes_bin import lacking
from netpol_lab.errors import LabError, LabLacksPrograms
from netpol_lab.network import dns
from netpol_lab.topology.model import Families, LabHost, LabNode

FOLDER = Path("/run/cluster")
"""The cluster's folder, as everybody inside calls it: short, since it holds sockets, whose paths have a limit of 107 letters."""
BINARIES = FOLDER / "bin"
"""The nodes' programs, as everybody inside calls them."""
ARCHIVES = FOLDER / "archives"
"""Archives of images that the owner gave."""
CONTROL = "control"
"""The socket in the cluster's folder by which its programs are stopped and started."""
API, OUTSIDE = "api", "outside"
"""The machines beside the nodes: that of the control plane, and one that belongs to no cluster."""
DEVICE = "eth0"
"""On every machine, the wire to the others."""
MTU = 1500
"""Of that wire."""
POD_NETWORK = "10.200.0.0/16"
SERVICE_NETWORK = service_networks(Families.IPV4)[0]
DNS_ADDRESS = Address(SERVICE_NETWORK.version, SERVICE_NETWORK.value + 10)
DOMAIN = dns.DOMAIN
MOST_NODES = 9
_BASE = "172.31.7."
ADDRESSES = {API: f"{_BASE}100", OUTSIDE: f"{_BASE}109"}
"""Of the machines beside the nodes; a node's address is its name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One cluster. The nodes' pod blocks are not here: the controller manager gives them."""

    nodes: tuple[LabNode, ...]
    network: str
    api: LabHost
    outside: LabHost


def make_plan(nodes: int, network: str) -> Plan:
    """Nodes are called by their addresses. Raises LabError for a number of nodes that cannot be."""
    if not 1 <= nodes <= MOST_NODES:
        raise LabError(f"a cluster has 1 to {MOST_NODES} nodes, not {nodes}")
    names = [f"{_BASE}{number}" for number in range(111, 111 + nodes)]
    members = tuple(LabNode(name, (parse_address(name),), ()) for name in names)
    return Plan(members, network, _host(API), _host(OUTSIDE))


def _host(name: str) -> LabHost:
    return LabHost(name, (parse_address(ADDRESSES[name]),))


def node_programs() -> Path:
    """The folder of the nodes' programs on this machine. Raises LabLacksPrograms with the remedy."""
    folder = build_kubernetes.folder_of(build_kubernetes.NODES)
    if missing := lacking(folder, build_kubernetes.GROUPS[build_kubernetes.NODES]):
        raise LabLacksPrograms(f"a cluster with real nodes needs {', '.join(missing)}; `./dev cluster build` makes them")
    return folder
