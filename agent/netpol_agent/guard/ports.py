"""Which interface is whose: CNI's results, the node's interfaces and the pods of its compiler become the ports that the guard
knows.

In: `PodNetwork`s, `Link`s, the pods that run here with the addresses that they hold, and who is isolated. Out: `Port`s, the
tunnels of the node, and in words which pod's port is not known. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from netpol_agent.guard.cni_results import PodNetwork
from netpol_agent.guard.state import Port, Tunnel
from netpol_agent.netlink.links import Link
from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key, Pod

_TUNNEL_PROTOCOLS = {"ipip": 4, "sit": 41, "ip6tnl": 41, "gre": 47, "gretap": 47, "ip6gre": 47}
_UDP = 17
_BESIDE = ("bridge", "ifb")
"""What stands in a result beside the pod's own cable: its bridge, and the device by which a bandwidth is limited."""
_FLANNEL_UDP_DEVICE, _FLANNEL_UDP_PORT = "flannel0", 8285


@dataclass(frozen=True, slots=True)
class Ports:
    """`unknown`: pods that run here on an interface that cannot be told."""

    ports: frozenset[Port]
    unknown: tuple[Key, ...]


def ports_of(
    networks: Iterable[PodNetwork], links: Sequence[Link], pods: Mapping[Key, Pod], isolated: Mapping[Key, frozenset[Direction]]
) -> Ports:
    """A port for each pod that CNI made a network for; of two results for one pod the newer counts."""
    by_pod = {network.pod: network for network in networks if _is_of(network, pods.get(network.pod))}
    by_name = {link.name: link for link in links}
    kinds = {link.index: link.kind for link in links}
    found: dict[Key, Port] = {}
    for pod, network in by_pod.items():
        ends = [by_name[name] for name in network.interfaces if name in by_name and by_name[name].kind not in _BESIDE]
        if len(ends) == 1 and network.hardware:
            bridged = kinds.get(ends[0].master) == "bridge"
            addresses = tuple(sorted({*network.addresses, *pods[pod].addresses}))
            found[pod] = Port(ends[0].name, network.hardware, addresses, bridged, isolated.get(pod, frozenset()))
    unknown = sorted(key for key, pod in pods.items() if pod.is_endpoint and key not in found)
    return Ports(frozenset(found.values()), tuple(unknown))


def _is_of(network: PodNetwork, pod: Pod | None) -> bool:
    """A result outlives its pod where the runtime died: a later pod of the name has another uid."""
    return pod is not None and not pod.host_network and network.uid in ("", pod.uid)


def tunnels_of(links: Iterable[Link]) -> frozenset[Tunnel]:
    """What carries the node's tunnels: outer packets of these come from nodes, never from a pod."""
    found: set[Tunnel] = set()
    for link in links:
        if link.port:
            found.add(Tunnel(_UDP, link.port))
        if link.kind in _TUNNEL_PROTOCOLS:
            found.add(Tunnel(_TUNNEL_PROTOCOLS[link.kind]))
        if link.kind == "tun" and link.name == _FLANNEL_UDP_DEVICE:
            found.add(Tunnel(_UDP, _FLANNEL_UDP_PORT))
    return frozenset(found)
