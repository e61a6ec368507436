"""What a pod that cheats cannot do. Each attack goes through where the guard is off, and does not where it is on.

One row of the table is one attack: who sends, what it is, and on which networks of the lab it succeeds without the guard. The
ones of which it is not known (or known not to) are asked with the guard on all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from attacks import ADDRESSES, NODES, Attack, Field, bridge_hardware, hardware_of, link_local_of, tunnel_end

pytestmark = pytest.mark.kernel

BRIDGED = ("host-gw", "vxlan")
NETWORKS = (*BRIDGED, "routed")
FAMILIES = ("ipv4", "dual")
ADVERTISED, REDIRECTED, SOLICITED = 134, 137, 135
VXLAN_PORT, VXLAN_NETWORK = 8472, 1


def plain(network: str) -> list[Attack]:
    """By nothing but a socket."""
    victim = link_local_of("victim")
    found = [
        Attack(
            "reach an isolated pod by its link-local address", "attacker", "victim", "plain_udp", {"target": victim, "port": 53}
        ),
        Attack(
            "leave a jail by a link-local address", "jail", "client", "plain_udp", {"target": link_local_of("client"), "port": 53}
        ),
        Attack("reach an isolated pod by broadcast", "attacker", "victim", "plain_udp", {"target": "10.200.1.255", "port": 53}),
        Attack(
            "reach an isolated pod by the limited broadcast",
            "attacker",
            "victim",
            "plain_udp",
            {"target": "255.255.255.255", "port": 53},
        ),
        Attack("reach an isolated pod by IPv4 multicast", "attacker", "victim", "plain_udp", {"target": "224.0.0.1", "port": 53}),
        Attack("reach an isolated pod by IPv6 multicast", "attacker", "victim", "plain_udp", {"target": "ff02::1", "port": 53}),
    ]
    if network == "vxlan":
        tunnel = _tunnel()
        inner = {"victim": ADDRESSES["victim"][0], "claimed": ADDRESSES["client"][0], "port": 53}
        found += [
            Attack("send a tunnel's packets to its own node", "attacker", "victim", "plain_vxlan", {**tunnel, **inner}),
            Attack("send a tunnel's packets to its own node out of a jail", "jail", "victim", "plain_vxlan", {**tunnel, **inner}),
            Attack("send a tunnel's packets to another node", "stranger", "victim", "plain_vxlan", {**tunnel, **inner}),
        ]
    return found


def forged(families: str, network: str) -> list[Attack]:
    """By frames of one's own (NET_RAW): packets that are not what they say."""
    found: list[Attack] = []
    for index in range(2 if families == "dual" else 1):
        version = f"IPv{4 if index == 0 else 6}"
        victim, client, far = (ADDRESSES[name][index] for name in ("victim", "client", "far"))
        near = {"victim": victim, "port": 53, "next_hop": _first_hop(network, "victim")}
        found += [
            Attack(
                f"send from another pod's address, {version}", "attacker", "victim", "forged_source", {**near, "claimed": client}
            ),
            Attack(
                f"send from another pod's address and hardware, {version}",
                "attacker",
                "victim",
                "forged_hardware",
                {**near, "claimed": client, "claimed_hardware": hardware_of("client")},
            ),
            Attack(
                f"leave a jail by an unused address, {version}",
                "jail",
                "far",
                "forged_source",
                {"victim": far, "port": 53, "next_hop": _way_out(network, "node-a"), "claimed": _unused(index)},
            ),
            Attack(
                f"send from another pod's address from another node, {version}",
                "stranger",
                "victim",
                "forged_source",
                {"victim": victim, "port": 53, "next_hop": _way_out(network, "node-b"), "claimed": client},
            ),
            Attack(
                f"pass as an answer that was never asked for, {version}",
                "attacker",
                "victim",
                "poisoned_connection",
                {**near, "own": ADDRESSES["attacker"][index]},
            ),
            Attack(
                f"hide behind a VLAN tag, {version}",
                "attacker",
                "victim",
                "vlan_tag",
                {**near, "own": ADDRESSES["attacker"][index]},
            ),
        ]
    return [replace(attack, rights="NET_RAW") for attack in found]


def lies(families: str, network: str) -> list[Attack]:
    """By frames of one's own (NET_RAW): ARP, neighbour discovery and what no pod has to say."""
    found: list[Attack] = []
    lie = {"victim": ADDRESSES["victim"][0], "next_hop": _first_hop(network, "victim"), "claimed": ADDRESSES["client"][0]}
    found.append(Attack("answer ARP for another pod", "attacker", "victim", "arp_lie", lie))
    found.append(Attack("answer ARP for the gateway", "attacker", "victim", "arp_lie", {**lie, "claimed": "10.200.1.1"}))
    found.append(
        Attack("send a protocol of its own", "attacker", "victim", "other_protocol", {"next_hop": _first_hop(network, "victim")})
    )
    for number, what in ((ADVERTISED, "a router's advertisement"), (REDIRECTED, "a redirect")):
        facts = {"victim": link_local_of("victim"), "source": link_local_of("attacker"), "type": number}
        found.append(Attack(f"send {what}", "attacker", "victim", "icmpv6", {**facts, "next_hop": _first_hop(network, "victim")}))
    facts = {"victim": link_local_of("victim"), "source": link_local_of("attacker"), "type": SOLICITED, "hops": 64}
    found.append(
        Attack(
            "send neighbour discovery from afar",
            "attacker",
            "victim",
            "icmpv6",
            {**facts, "next_hop": _first_hop(network, "victim")},
        )
    )
    if network == "vxlan":
        tunnel = _tunnel()
        inner = {"victim": ADDRESSES["victim"][0], "claimed": ADDRESSES["client"][0], "port": 53, "outer": "192.0.2.7"}
        for group in ("01:80:c2:00:00:0e", "01:80:c2:00:00:03"):
            name = f"send a tunnel's packets past the bridge to {group}"
            found.append(Attack(name, "attacker", "victim", "group_vxlan", {**tunnel, **inner, "group": group}))
    if families == "dual":
        afar = {"victim": ADDRESSES["victim"][1], "source": ADDRESSES["stranger"][1], "type": SOLICITED}
        asked = {**afar, "next_hop": _way_out(network, "node-b")}
        found.append(Attack("send a solicitation to another node", "stranger", "victim", "icmpv6", asked))
        lie6 = {"victim": ADDRESSES["victim"][1], "own": ADDRESSES["attacker"][1], "claimed": ADDRESSES["client"][1]}
        found.append(
            Attack(
                "advertise another pod's IPv6 address",
                "attacker",
                "victim",
                "neighbour_lie",
                {**lie6, "next_hop": _first_hop(network, "victim")},
            )
        )
    return [replace(attack, rights="NET_RAW") for attack in found]


def every_attack(families: str, network: str) -> list[Attack]:
    """All kinds, those of one sender behind each other."""
    return sorted([*plain(network), *forged(families, network), *lies(families, network)], key=lambda attack: attack.by)


def _tunnel() -> dict[str, object]:
    """The end of node-a's tunnel."""
    return {"node": NODES["node-a"][0][0], "tunnel_port": VXLAN_PORT, "network": VXLAN_NETWORK, "vtep": tunnel_end("node-a")}


def _first_hop(network: str, name: str) -> str:
    """The hardware address that leads to a pod of the same node."""
    return hardware_of(name) if network in BRIDGED else "gateway"


def _way_out(network: str, on: str) -> str:
    return bridge_hardware(on) if network in BRIDGED else "gateway"


def _unused(index: int) -> str:
    return ("10.200.1.99", "fd00:10:200:1::99")[index]


NOT_BETWEEN_ROUTED_PODS = (
    "link-local",
    "broadcast",
    "multicast",
    "VLAN",
    "ARP",
    "advertise",
    "protocol",
    "neighbour",
    "router",
    "redirect",
)
"""Words of attacks that need a common bridge: routed pods have no neighbour but their node."""


def succeeds(attack: Attack, network: str) -> bool:
    """Whether the attack goes through where nobody guards."""
    return network in BRIDGED or not any(word in attack.name for word in NOT_BETWEEN_ROUTED_PODS)


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize("network", NETWORKS)
def test_cheat_where_the_guard_is_on(field: Callable[..., Field], network: str, families: str) -> None:
    attacks = every_attack(families, network)
    assert field(network, families, "enforce").arrived(attacks) == frozenset()


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize("network", NETWORKS)
def test_be_said_to_fail_at_what_it_could_not_do_anyway(field: Callable[..., Field], network: str, families: str) -> None:
    """Each attack really works: with the guard off, it arrives."""
    attacks = [attack for attack in every_attack(families, network) if succeeds(attack, network)]
    assert {attack.name for attack in attacks} - field(network, families, "off").arrived(attacks) == set()
