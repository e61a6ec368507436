"""Networks that an administrator makes by hand: CNI's plugins on each node, and beside them nothing that runs.

    bridge-static   pods on a bridge; the wire's other nodes are the gateways of their blocks
    ptp-static      the same routes, and a wire of its own for each pod: nothing is bridged
    vxlan-static    pods on a bridge; other blocks behind a VXLAN device whose peers, neighbours and routes are all written down

In: a node, its block and those of the others. Out: routes for these, and the CNI configuration.

Facts that VXLAN by hand relies on: a route `via GATEWAY dev vxlan0 onlink` needs no network on the device; the gateway is the
first address of the other node's block, which no pod has, since host-local gives the second one to the bridge and the rest
to pods; its hardware address is computed from that address, so that each node knows those of the others without asking;
with permanent neighbours and `nolearning` nothing is ever flooded; the outer headers take 50 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from netpol_compiler.model.addresses import parse_address
from netpol_lab.control.control_plane import User
from netpol_lab.network.wiring import mac_of
from netpol_realcluster import plan
from netpol_realcluster.networks import cni
from netpol_realcluster.networks.pod_network import PodNetwork
from netpol_realcluster.nodes.node import Node

VXLAN = "vxlan0"
_VXLAN_MTU = plan.MTU - 50
_VXLAN_ID, _VXLAN_PORT = 42, 4789


class _ByHand(PodNetwork):
    """What is written down once, and a plugin."""

    def start(self, node: Node, block: str, others: Mapping[str, str], kubeconfig: Callable[[User], str]) -> None:
        """Nothing of it talks to the API server."""
        self.connect(node, block, others)
        cni.masquerade(node)
        node.write_cni([self.plugin(block), cni.PORT_MAPS])

    def plugin(self, block: str) -> Mapping[str, Any]:
        """The node's own pods."""
        return cni.bridge(block, plan.MTU)

    def connect(self, node: Node, block: str, others: Mapping[str, str]) -> None:
        """The pods of other nodes."""
        for name, other in others.items():
            node.run(["ip", "route", "replace", other, "via", name, "dev", plan.DEVICE])


class BridgeStatic(_ByHand):
    """Routed between nodes, bridged within one."""


class PtpStatic(_ByHand):
    """Routed everywhere."""

    def plugin(self, block: str) -> Mapping[str, Any]:
        return cni.ptp(block, plan.MTU)


class VxlanStatic(_ByHand):
    """Tunnelled between nodes, bridged within one."""

    def plugin(self, block: str) -> Mapping[str, Any]:
        return cni.bridge(block, _VXLAN_MTU)

    def connect(self, node: Node, block: str, others: Mapping[str, str]) -> None:
        tunnel = ["id", _VXLAN_ID, "dstport", _VXLAN_PORT, "local", node.name, "dev", plan.DEVICE, "nolearning"]
        _run(node, "ip link add", VXLAN, "mtu", _VXLAN_MTU, "address", _mac(block), "type vxlan", *tunnel)
        _run(node, "ip addr add", f"{_end(block)}/32", "dev", VXLAN)
        _run(node, "ip link set", VXLAN, "up")
        for name, other in others.items():
            _run(node, "ip neigh replace", _end(other), "lladdr", _mac(other), "dev", VXLAN, "nud permanent")
            _run(node, "bridge fdb replace", _mac(other), "dev", VXLAN, "dst", name, "self permanent")
            _run(node, "ip route replace", other, "via", _end(other), "dev", VXLAN, "onlink")


def _run(node: Node, *words: object) -> None:
    """A command of which each word may hold several."""
    node.run(" ".join(map(str, words)).split())


def _end(block: str) -> str:
    """The address of the tunnel's end on the node that has the block."""
    return block.partition("/")[0]


def _mac(block: str) -> str:
    return mac_of(parse_address(_end(block)))
