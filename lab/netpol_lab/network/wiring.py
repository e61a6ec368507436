"""The wiring as text: what `ip` and `bridge` must do in each namespace for one of the three pod networks.

In: the topology's values. Out: lines for `ip -batch` (and `bridge -batch`), sysctls, and the masquerade rules.
Nothing here runs anything; `builder` does.

host-gw   a bridge cni0 on each node, pods on veths at its ports, a route to each other node's block (flannel host-gw)
vxlan     the same bridge; the other nodes' blocks lie behind flannel.1, a VXLAN device without learning (flannel's default)
routed    no bridge: each pod's veth has a route of one address, the gateway is 169.254.1.1 by proxy ARP (Calico's way)
"""

from __future__ import annotations

from collections.abc import Iterable

from netpol_compiler.model.addresses import Address, Network, network_of
from netpol_compiler.model.kinds import Family
from netpol_lab.topology.model import LabHost, LabNode, LabPod, NetworkKind, Topology, of_family, onlink_prefix, short_hash

SWITCH = "switch"
MTU = {NetworkKind.HOST_GW: 1500, NetworkKind.ROUTED: 1500, NetworkKind.VXLAN: 1450}
ROUTED_GATEWAY = {Family.V4: "169.254.1.1", Family.V6: "fe80::1"}
VXLAN_DEVICE = {Family.V4: "flannel.1", Family.V6: "flannel-v6.1"}

QUIET = {
    "net/ipv6/conf/all/accept_dad": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/all/accept_ra": 0,
    "net/ipv6/conf/default/accept_ra": 0,
    # "Port unreachable" is an answer that probes wait for: many at once must not be rationed.
    "net/ipv4/icmp_ratemask": 0,
    "net/ipv6/icmp/ratelimit": 0,
}
FORWARDING = {
    **QUIET,
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/default/send_redirects": 0,
}
BRIDGE_FILTER = {"net/bridge/bridge-nf-call-iptables": 1, "net/bridge/bridge-nf-call-ip6tables": 1}


def version(family: Family) -> str:
    """The option of `ip` that chooses the family."""
    return "-4" if family is Family.V4 else "-6"


def switch_lines() -> list[str]:
    return [f"link add {SWITCH} type bridge mcast_snooping 0", f"link set {SWITCH} up", "link set lo up"]


def mac_of(address: Address) -> str:
    """A stable hardware address: whoever comes back under an address must not meet others' outdated neighbour entries."""
    digits = short_hash(address.text, 10)
    return "0a:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))


def uplink_lines(machine: LabNode | LabHost) -> list[str]:
    """In the switch: the cable to one machine."""
    port = "sw" + short_hash(machine.netns, 8)
    plug = f"link add {port} type veth peer name eth0 address {mac_of(machine.addresses[0])} netns {machine.netns}"
    return [plug, f"link set {port} master {SWITCH} up"]


def machine_lines(addresses: Iterable[Address]) -> list[str]:
    """In a node's or host's namespace: its own addresses."""
    return ["link set lo up", "link set eth0 up", *address_lines(addresses, "eth0")]


def address_lines(addresses: Iterable[Address], device: str) -> list[str]:
    """Addresses in the network that nodes and hosts share."""
    return [f"addr add {a}/{onlink_prefix(a)} dev {device}{' nodad' if a.version == 6 else ''}" for a in addresses]


def in_url(address: Address) -> str:
    """The address as a URL has it."""
    return f"[{address}]" if address.version == 6 else address.text


def onlink(one: Address, other: Address) -> bool:
    """Whether machines with these addresses reach each other without a router."""
    return one.version == other.version and network_of(one, onlink_prefix(one)) == network_of(other, onlink_prefix(other))


def host_lines(host: LabHost, topology: Topology) -> list[str]:
    """In a host's namespace: routes to the pods through their nodes, and the addresses of the world that it plays."""
    lines = [f"addr replace {a} dev lo{' nodad' if a.version == 6 else ''}" for a in host.extra]
    return lines + _block_routes(topology.nodes.values())


def _block_routes(nodes: Iterable[LabNode]) -> list[str]:
    return [
        f"route replace {cidr} via {of_family(node.addresses, cidr.family)}"
        for node in nodes
        for cidr in node.cidrs
        if of_family(node.addresses, cidr.family)
    ]


def gateway(cidr: Network) -> Address:
    """The bridge's address: the block's first."""
    return Address(cidr.version, cidr.value + 1)


def node_lines(node: LabNode, kind: NetworkKind, world: tuple[Address, ...]) -> list[str]:
    """In a node's namespace, once: its bridge or its VXLAN device, and the way to the world through `world`."""
    lines = [f"route replace default via {a}" for a in world]
    if kind is NetworkKind.ROUTED:
        return lines + [f"route replace blackhole {cidr}" for cidr in node.cidrs]
    # An address of its own, as the CNI bridge plugin gives it: else the bridge takes its lowest port's, which changes
    # with every pod that comes or goes, and the pods' neighbour entries of their gateway are wrong for a while.
    own = mac_of(gateway(node.cidrs[0])) if node.cidrs else mac_of(node.addresses[0])
    lines += [
        f"link add cni0 address {own} type bridge mcast_snooping 0 nf_call_iptables 1 nf_call_ip6tables 1",
        f"link set cni0 mtu {MTU[kind]} up",
    ]
    lines += [f"addr add {gateway(c)}/{c.prefix} dev cni0{' nodad' if c.version == 6 else ''}" for c in node.cidrs]
    if kind is NetworkKind.VXLAN:
        for cidr in node.cidrs:
            device, local = VXLAN_DEVICE[cidr.family], of_family(node.addresses, cidr.family)
            nodad = " nodad" if cidr.version == 6 else ""
            number = 1 if cidr.version == 4 else 2  # two devices on one socket need two network identifiers
            lines += [
                f"link add {device} address {vxlan_mac(node, cidr.family)} mtu {MTU[kind]} type vxlan id {number} local {local} "
                f"dev eth0 dstport {8472 + number - 1} nolearning",
                f"link set {device} up",
                f"addr add {Address(cidr.version, cidr.value)}/{cidr.family.bits} dev {device}{nodad}",
            ]
    return lines


def vxlan_mac(node: LabNode, family: Family) -> str:
    """A stable, locally administered address for the node's VXLAN device."""
    digits = short_hash(f"{node.name}/{int(family)}", 10)
    return "02:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))


def peer_lines(others: Iterable[LabNode], kind: NetworkKind) -> tuple[list[str], list[str]]:
    """In a node's namespace: the way to the other nodes' pods, as lines for `ip` and for `bridge`."""
    if kind is not NetworkKind.VXLAN:
        return _block_routes(others), []
    ip_lines: list[str] = []
    bridge_lines: list[str] = []
    for other in others:
        for cidr in other.cidrs:
            device, mac, far = VXLAN_DEVICE[cidr.family], vxlan_mac(other, cidr.family), Address(cidr.version, cidr.value)
            ip_lines += [
                f"neigh replace {far} lladdr {mac} dev {device} nud permanent",
                f"route replace {cidr} via {far} dev {device} onlink",
            ]
            bridge_lines.append(f"fdb replace {mac} dev {device} dst {of_family(other.addresses, cidr.family)} self permanent")
    return ip_lines, bridge_lines


def pod_cable(pod: LabPod, kind: NetworkKind) -> list[str]:
    """In the pod's node: the veth pair, and the port or the routes to it."""
    cable = f"link add {pod.device} mtu {MTU[kind]} type veth peer name eth0 mtu {MTU[kind]}"
    lines = [f"{cable} address {mac_of(pod.addresses[0])} netns {pod.netns}"]
    if kind is not NetworkKind.ROUTED:
        return [*lines, f"link set {pod.device} master cni0 up", f"link set {pod.device} type bridge_slave hairpin on"]
    lines.append(f"link set {pod.device} up")
    if any(a.version == 6 for a in pod.addresses):
        lines.append(f"addr add {ROUTED_GATEWAY[Family.V6]}/64 dev {pod.device} nodad")
    return lines + [f"route replace {a}/{a.family.bits} dev {pod.device}" for a in pod.addresses]


def pod_sysctls(pod: LabPod, kind: NetworkKind) -> dict[str, int]:
    """In the pod's node: what its veth needs besides."""
    if kind is not NetworkKind.ROUTED:
        return {}
    # Without a delay of 0 the kernel thinks up to 0.8 s before it answers for somebody else.
    return {f"net/ipv4/conf/{pod.device}/proxy_arp": 1, f"net/ipv4/neigh/{pod.device}/proxy_delay": 0}


def pod_lines(pod: LabPod, node: LabNode, kind: NetworkKind) -> list[str]:
    """In the pod's namespace: its addresses and its way out."""
    lines = ["link set lo up", "link set eth0 up"]
    for address in pod.addresses:
        family, nodad = address.family, " nodad" if address.version == 6 else ""
        cidr = next((c for c in node.cidrs if c.contains(address)), None)
        if kind is NetworkKind.ROUTED or cidr is None:
            via = (
                ROUTED_GATEWAY[family]
                if kind is NetworkKind.ROUTED
                else next(gateway(c) for c in node.cidrs if c.version == family)
            )
            lines.append(f"addr add {address}/{family.bits} dev eth0{nodad}")
            if family is Family.V4 or kind is not NetworkKind.ROUTED:
                lines.append(f"route add {via}/{family.bits} dev eth0")
            lines.append(f"route add default via {via} dev eth0")
        else:
            lines += [f"addr add {address}/{cidr.prefix} dev eth0{nodad}", f"route add default via {gateway(cidr)} dev eth0"]
    return lines


def stray_routes(pod: LabPod, nodes: Iterable[LabNode], kind: NetworkKind) -> dict[str, list[str]]:
    """For a pod whose address is outside its node's blocks: a route of its own on every node, by node name."""
    routes: dict[str, list[str]] = {}
    everyone = list(nodes)
    home = next((n for n in everyone if n.name == pod.node), None)
    if pod.host_network or home is None:
        return {}
    for address in pod.addresses:
        if any(c.contains(address) for c in home.cidrs):
            continue
        for node in everyone:
            # Behind a bridge the way is through the bridge: a port of it takes no packets of its own.
            own = f"dev {pod.device if kind is NetworkKind.ROUTED else 'cni0'}"
            via = f"via {of_family(home.addresses, address.family)}" if node is not home else own
            routes.setdefault(node.name, []).append(f"route replace {address}/{address.family.bits} {via}")
    return routes


def masquerade_rules(node: LabNode, topology: Topology, family: Family) -> str:
    """iptables-restore text, flannel's rules: pods leave the pod network with their node's address; the filter accepts pods."""
    nets = topology.pod_networks(family)
    own = [c for c in node.cidrs if c.version == family]
    group = "224.0.0.0/4" if family is Family.V4 else "ff00::/8"
    post = ["-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN"]
    # First all that stays among pods: with several networks, one's masquerade must not catch what goes to the next.
    post += [f"-A FLANNEL-POSTRTG -s {net} -d {other} -j RETURN" for net in nets for other in nets]
    for net in nets:
        post += [f"-A FLANNEL-POSTRTG ! -s {net} -d {cidr} -j RETURN" for cidr in own]
        post += [f"-A FLANNEL-POSTRTG -s {net} ! -d {group} -j MASQUERADE --random-fully"]
        post += [f"-A FLANNEL-POSTRTG ! -s {net} -d {net} -j MASQUERADE --random-fully"]
    forward = [f'-A FLANNEL-FWD -{side} {net} -m comment --comment "flanneld forward" -j ACCEPT' for net in nets for side in "sd"]
    return "\n".join(
        ["*nat", ":FLANNEL-POSTRTG - [0:0]", *post, "COMMIT", "*filter", ":FLANNEL-FWD - [0:0]", *forward, "COMMIT", ""]
    )


MASQUERADE_HOOKS = (("nat", "POSTROUTING", "FLANNEL-POSTRTG"), ("filter", "FORWARD", "FLANNEL-FWD"))
