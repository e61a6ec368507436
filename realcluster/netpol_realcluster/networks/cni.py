"""Configurations of the CNI plugins that Debian has, and what they leave to whoever calls them.

In: a node's block of pod addresses. Out: values for `Node.write_cni`. Both plugins are told not to masquerade: theirs spares only
their own block, so that a pod of another node would see the node's address and no policy could name the pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netpol_realcluster import plan
from netpol_realcluster.nodes.node import Node

PORT_MAPS: Mapping[str, Any] = {"type": "portmap", "capabilities": {"portMappings": True}}
"""The plugin that makes a container's hostPort work."""


def bridge(block: str, mtu: int) -> Mapping[str, Any]:
    """The bridge plugin: pods with addresses in `block` hang on one bridge, which is their gateway."""
    # With isDefaultGateway it would add a second default route, and fail.
    routes = ["0.0.0.0/0", plan.POD_NETWORK]
    options = {"bridge": "cni0", "isGateway": True, "hairpinMode": True}
    return {"type": "bridge", "mtu": mtu, **options, "ipam": _addresses(block, *routes)}


def ptp(block: str, mtu: int) -> Mapping[str, Any]:
    """The ptp plugin: each pod has a wire of its own to the node, and the node a /32 route to each."""
    return {"type": "ptp", "mtu": mtu, "ipam": _addresses(block, "0.0.0.0/0")}


def _addresses(block: str, *routes: str) -> Mapping[str, Any]:
    return {"type": "host-local", "ranges": [[{"subnet": block}]], "routes": [{"dst": route} for route in routes]}


def masquerade(node: Node) -> None:
    """Pods of the node reach machines that have no route back to them; towards other pods they keep their address."""
    leaves = ["-s", plan.POD_NETWORK, "!", "-d", plan.POD_NETWORK, "-o", plan.DEVICE]
    node.run(["iptables", "-w", "-t", "nat", "-A", "POSTROUTING", *leaves, "-j", "MASQUERADE"])
