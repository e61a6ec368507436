"""The guard's two tables in the kernel: which packets are dropped, and by which reason they are counted.

    bridge npctl-guard                           every frame that enters by a pod's port of a bridge
        prerouting  from a pod's port ---------> from-pod      no VLAN tag; its own hardware address
                                                   arp           speaks for itself only
                                                   ipv4, ipv6    its own address
                                                   discovery     hop limit 255, its own target, no router's messages
                    from any other port       ->  the node's blocks are not spoken for
        forward     to an isolated pod --------> to-isolated   its own address and no other: no broadcast, multicast or fe80
                    from an isolated pod by fe80 -> drop
                                                   and no outer packet of the node's tunnels
    inet npctl-guard
        prerouting  from a pod's own interface -> from-pod      the same, where pods have no bridge
        input       from a pod's address        -> no outer packet of the node's tunnels
        forward     the gate: an address of the node's own blocks that is no programmed pod's neither sends nor receives

Tables of our own, because a drop in any table is final: what somebody accepts in FORWARD, before our policies or instead of
them, opens none of this. The number of rules does not depend on the number of pods. In: a mode and the node's blocks. Out:
one batch of messages.
"""

from __future__ import annotations

from collections.abc import Iterator

from netpol_agent.guard.state import BRIDGED_SETS, KEY_TYPES, KNOWN, GuardSet, GuardState, Mode, Reason, packed
from netpol_agent.netlink import nftables as nft
from netpol_agent.netlink.nftables import BRIDGE, INET, Base, Field, Message, Meta, Verdict
from netpol_compiler.model.addresses import Address, Network

TABLE = "npctl-guard"
BEFORE_BRIDGE_NETFILTER = -310
"""Before br_netfilter hands a frame to iptables (-300 in bridge's prerouting), and before anybody's own filters."""
BEFORE_MANGLE = -160
"""After connection tracking (-200), before the first table in which somebody may accept a packet."""

_PREROUTING, _INPUT, _FORWARD = 0, 1, 2
_INPUT_NAME, _OUTPUT_NAME = Field(16, meta=Meta.IIFNAME), Field(16, meta=Meta.OIFNAME)
_L4 = Field(1, meta=Meta.L4PROTO)
_FAMILY = Field(1, meta=Meta.FAMILY)
_TO_HARDWARE, _FROM_HARDWARE, _ETHER_TYPE = Field(6, Base.LINK, 0), Field(6, Base.LINK, 6), Field(2, Base.LINK, 12)
_ARP_HEAD, _ARP_OPERATION = Field(6, Base.NETWORK, 0), Field(2, Base.NETWORK, 6)
_ARP_HARDWARE, _ARP_SENDER, _ARP_TARGET = Field(6, Base.NETWORK, 8), Field(4, Base.NETWORK, 14), Field(4, Base.NETWORK, 24)
_SOURCE = {4: Field(4, Base.NETWORK, 12), 6: Field(16, Base.NETWORK, 8)}
_DESTINATION = {4: Field(4, Base.NETWORK, 16), 6: Field(16, Base.NETWORK, 24)}
_HOP_LIMIT = Field(1, Base.NETWORK, 7)
_DESTINATION_PORT = Field(2, Base.TRANSPORT, 2)
_ICMP_TYPE, _TARGET = Field(1, Base.TRANSPORT, 0), Field(16, Base.TRANSPORT, 8)

_ARP, _IPV4, _IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
_VLAN_TAGS = (b"\x81\x00", b"\x88\xa8")
_ETHERNET_AND_IPV4 = b"\x00\x01\x08\x00\x06\x04"
_REQUEST = b"\x00\x01"
_ICMPV6 = b"\x3a"
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT, _SOLICITATION, _ADVERTISEMENT, _REDIRECT, _LISTENER_REPORT = (
    bytes([n]) for n in (133, 134, 135, 136, 137, 143)
)
_HOP_LIMIT_OF_DISCOVERY = b"\xff"
_LINK_LOCAL, _LINK_LOCAL_MASK = b"\xfe\x80" + bytes(14), b"\xff\xc0" + bytes(14)
_UNSPECIFIED = bytes(16)
_FAMILY_NUMBER = {4: b"\x02", 6: b"\x0a"}


def build(state: GuardState) -> list[Message]:
    """Both tables without members of sets; what was there under their names goes in the same batch."""
    messages: list[Message] = []
    for family in (BRIDGE, INET):
        messages += [nft.new_table(family, TABLE), nft.delete_table(family, TABLE), nft.new_table(family, TABLE)]
        messages += [nft.new_counter(family, TABLE, reason.value) for reason in Reason]
        sets = [name for name in KEY_TYPES if set_family(name) == family]
        messages += [nft.new_set(family, TABLE, name.value, KEY_TYPES[name], number) for number, name in enumerate(sets, 1)]
    return [*messages, *_bridge_chains(state.mode), *_strangers(state), *_routed(state), *_gate(state), *_tunnels(state)]


def set_family(name: GuardSet) -> int:
    """The family of the table that a set belongs to."""
    return BRIDGE if name in BRIDGED_SETS else INET


def _refuse(mode: Mode, reason: Reason) -> bytes:
    """Count, and drop where the guard is enforced. In `report` the packet goes on, past the other rules of its chain."""
    return nft.count(reason.value) + nft.decide(Verdict.DROP if mode is Mode.ENFORCE else Verdict.ACCEPT)


def _bridge_chains(mode: Mode) -> Iterator[Message]:
    def rule(chain: str, *expressions: bytes) -> Message:
        return nft.new_rule(BRIDGE, TABLE, chain, *expressions)

    for chain in ("from-pod", "arp", "ipv4", "ipv6", "discovery", "to-isolated"):
        yield nft.new_chain(BRIDGE, TABLE, chain)
    yield nft.new_base_chain(BRIDGE, TABLE, "prerouting", _PREROUTING, BEFORE_BRIDGE_NETFILTER)
    yield nft.new_base_chain(BRIDGE, TABLE, "forward", _FORWARD, BEFORE_BRIDGE_NETFILTER)

    yield rule("prerouting", nft.member((_INPUT_NAME,), GuardSet.PORTS), nft.decide(Verdict.GOTO, "from-pod"))

    for tag in _VLAN_TAGS:
        yield rule("from-pod", nft.equals(_ETHER_TYPE, tag), _refuse(mode, Reason.VLAN))
    own_hardware = (_INPUT_NAME, _FROM_HARDWARE)
    yield rule("from-pod", nft.member(own_hardware, GuardSet.HARDWARE, negated=True), _refuse(mode, Reason.HARDWARE))
    for ether_type, chain in ((_ARP, "arp"), (_IPV4, "ipv4"), (_IPV6, "ipv6")):
        yield rule("from-pod", nft.equals(_ETHER_TYPE, ether_type), nft.decide(Verdict.GOTO, chain))
    yield rule("from-pod", _refuse(mode, Reason.PROTOCOL))

    whole = nft.equals(_ARP_HEAD, _ETHERNET_AND_IPV4)
    speaks = nft.member((_INPUT_NAME, _ARP_HARDWARE, _ARP_SENDER), GuardSet.IPV4)
    yield rule("arp", whole, speaks, nft.decide(Verdict.ACCEPT))
    # Is my address free? The question has no sender's address yet (RFC 5227).
    probe = nft.equals(_ARP_OPERATION, _REQUEST) + nft.equals(_ARP_SENDER, bytes(4))
    yield rule(
        "arp", whole, probe, nft.member((_INPUT_NAME, _ARP_HARDWARE, _ARP_TARGET), GuardSet.IPV4), nft.decide(Verdict.ACCEPT)
    )
    yield rule("arp", _refuse(mode, Reason.ARP))

    for version, chain, name in ((4, "ipv4", GuardSet.IPV4), (6, "ipv6", GuardSet.IPV6)):
        if version == 6:
            yield rule(chain, nft.equals(_L4, _ICMPV6), nft.decide(Verdict.JUMP, "discovery"))
        own = (_INPUT_NAME, _FROM_HARDWARE, _SOURCE[version])
        yield rule(chain, nft.member(own, name, negated=True), _refuse(mode, Reason.SOURCE))
    yield from _discovery(BRIDGE, mode, own_hardware, GuardSet.IPV6)
    yield from _between_ports(mode)


def _strangers(state: GuardState) -> Iterator[Message]:
    """Behind the rule for pods' ports: nobody else on a bridge speaks for an address of the node's blocks."""
    refuse = _refuse(state.mode, Reason.PORT)
    for block in state.blocks:
        inside = _network(block)
        spoken = [nft.equals(_ETHER_TYPE, _IPV4 if block.version == 4 else _IPV6) + nft.within(_SOURCE[block.version], *inside)]
        if block.version == 4:
            spoken.append(nft.equals(_ETHER_TYPE, _ARP) + nft.within(_ARP_SENDER, *inside))
        else:
            advertised = nft.equals(_ETHER_TYPE, _IPV6) + nft.equals(_L4, _ICMPV6) + nft.equals(_ICMP_TYPE, _ADVERTISEMENT)
            spoken.append(advertised + nft.within(_TARGET, *inside))
        for expression in spoken:
            yield nft.new_rule(BRIDGE, TABLE, "prerouting", expression, refuse)


def _discovery(family: int, mode: Mode, own: tuple[Field, ...], name: GuardSet) -> Iterator[Message]:
    """ICMPv6 from a pod: what only routers say is dropped, and neighbour discovery speaks for the pod itself. `own` are the
    fields before the address in the set `name` of the pods' own addresses."""

    def rule(*expressions: bytes) -> Message:
        return nft.new_rule(family, TABLE, "discovery", *expressions)

    refuse = _refuse(mode, Reason.DISCOVERY)
    for kind in (_ROUTER_ADVERTISEMENT, _REDIRECT):
        yield rule(nft.equals(_ICMP_TYPE, kind), refuse)
    far = nft.equals(_HOP_LIMIT, _HOP_LIMIT_OF_DISCOVERY, negated=True)
    for kind in (_ROUTER_SOLICITATION, _SOLICITATION, _ADVERTISEMENT):
        yield rule(nft.equals(_ICMP_TYPE, kind), far, refuse)
    own_target = (*own, _TARGET)
    yield rule(nft.equals(_ICMP_TYPE, _ADVERTISEMENT), nft.member(own_target, name, negated=True), refuse)
    # Is my address free? The question comes from nobody (RFC 4862, 5.4), as does the report that goes with it.
    nobody = nft.equals(_SOURCE[6], _UNSPECIFIED)
    yield rule(nobody, nft.equals(_ICMP_TYPE, _SOLICITATION), nft.member(own_target, name), nft.decide(Verdict.ACCEPT))
    yield rule(nobody, nft.equals(_ICMP_TYPE, _LISTENER_REPORT), nft.decide(Verdict.ACCEPT))


def _between_ports(mode: Mode) -> Iterator[Message]:
    """From one port of a bridge to another: what no policy names must not reach or leave an isolated pod."""

    def rule(chain: str, *expressions: bytes) -> Message:
        return nft.new_rule(BRIDGE, TABLE, chain, *expressions)

    refuse = _refuse(mode, Reason.LINK_SCOPE)
    yield rule("forward", nft.equals(_ETHER_TYPE, _ARP), nft.decide(Verdict.ACCEPT))
    for kind in (_SOLICITATION, _ADVERTISEMENT):
        near = nft.equals(_HOP_LIMIT, _HOP_LIMIT_OF_DISCOVERY)
        discovery = nft.equals(_ETHER_TYPE, _IPV6) + nft.equals(_L4, _ICMPV6) + nft.equals(_ICMP_TYPE, kind) + near
        yield rule("forward", discovery, nft.decide(Verdict.ACCEPT))
    from_link_local = nft.equals(_ETHER_TYPE, _IPV6) + nft.within(_SOURCE[6], _LINK_LOCAL, _LINK_LOCAL_MASK)
    yield rule("forward", nft.member((_INPUT_NAME,), GuardSet.ISOLATED_EGRESS), from_link_local, refuse)
    yield rule("forward", nft.member((_OUTPUT_NAME,), GuardSet.ISOLATED_INGRESS), nft.decide(Verdict.GOTO, "to-isolated"))

    yield rule("to-isolated", from_link_local, refuse)
    for version, ether_type, name in ((4, _IPV4, GuardSet.IPV4), (6, _IPV6, GuardSet.IPV6)):
        own = (_OUTPUT_NAME, _TO_HARDWARE, _DESTINATION[version])
        yield rule("to-isolated", nft.equals(_ETHER_TYPE, ether_type), nft.member(own, name, negated=True), refuse)
    to_link_local = nft.equals(_ETHER_TYPE, _IPV6) + nft.within(_DESTINATION[6], _LINK_LOCAL, _LINK_LOCAL_MASK)
    yield rule("to-isolated", to_link_local, refuse)
    for ether_type in (_IPV4, _IPV6):
        yield rule("to-isolated", nft.equals(_ETHER_TYPE, ether_type), nft.decide(Verdict.ACCEPT))
    yield rule("to-isolated", refuse)


def _routed(state: GuardState) -> Iterator[Message]:
    """Pods without a bridge: each has an interface of its own, of which the node is the only neighbour."""

    def rule(chain: str, *expressions: bytes) -> Message:
        return nft.new_rule(INET, TABLE, chain, *expressions)

    for chain in ("from-pod", "discovery"):
        yield nft.new_chain(INET, TABLE, chain)
    yield nft.new_base_chain(INET, TABLE, "prerouting", _PREROUTING, BEFORE_BRIDGE_NETFILTER)
    yield rule("prerouting", nft.member((_INPUT_NAME,), GuardSet.ROUTED), nft.decide(Verdict.JUMP, "from-pod"))
    # What comes by a bridge has the bridge for its interface, but for group addresses that bridges keep for themselves
    # (01:80:c2:...): those the node gets by the port itself, past every hook of the bridge.
    yield rule("prerouting", nft.member((_INPUT_NAME,), GuardSet.BRIDGED), _refuse(state.mode, Reason.LINK_SCOPE))
    ipv6 = nft.equals(_FAMILY, _FAMILY_NUMBER[6])
    yield rule("from-pod", ipv6, nft.equals(_L4, _ICMPV6), nft.decide(Verdict.JUMP, "discovery"))
    for version, name in ((4, GuardSet.ROUTED4), (6, GuardSet.ROUTED6)):
        own = nft.member((_INPUT_NAME, _SOURCE[version]), name, negated=True)
        yield rule("from-pod", nft.equals(_FAMILY, _FAMILY_NUMBER[version]), own, _refuse(state.mode, Reason.SOURCE))
    yield from _discovery(INET, state.mode, (_INPUT_NAME,), GuardSet.ROUTED6)


def _tunnels(state: GuardState) -> Iterator[Message]:
    """Outer packets of the node's tunnels come from nodes: a pod neither sends them, nor are they taken from a pod's address."""
    refuse = _refuse(state.mode, Reason.TUNNEL)
    yield nft.new_base_chain(INET, TABLE, "input", _INPUT, BEFORE_MANGLE)
    for tunnel in sorted(state.tunnels):
        outer = nft.equals(_L4, bytes([tunnel.protocol]))
        if tunnel.port:
            outer += nft.equals(_DESTINATION_PORT, tunnel.port.to_bytes(2, "big"))
        yield nft.new_rule(BRIDGE, TABLE, "ipv4", outer, refuse)
        yield nft.new_rule(BRIDGE, TABLE, "ipv6", outer, refuse)
        yield nft.new_rule(INET, TABLE, "from-pod", outer, refuse)
        for version in (4, 6):
            from_pod = nft.equals(_FAMILY, _FAMILY_NUMBER[version]) + nft.member((_SOURCE[version],), KNOWN[version])
            for chain in ("input", "forward"):  # forwarded: a Service may have led to another node's tunnel
                yield nft.new_rule(INET, TABLE, chain, from_pod, outer, refuse)


def _gate(state: GuardState) -> Iterator[Message]:
    yield nft.new_base_chain(INET, TABLE, "forward", _FORWARD, BEFORE_MANGLE)
    # A router counts a hop: discovery that was routed is none (RFC 4861, 7.1), and the policies let discovery pass.
    discovery = nft.equals(_FAMILY, _FAMILY_NUMBER[6]) + nft.equals(_L4, _ICMPV6)
    far = nft.equals(_HOP_LIMIT, _HOP_LIMIT_OF_DISCOVERY, negated=True)
    for kind in (_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT, _SOLICITATION, _ADVERTISEMENT, _REDIRECT):
        routed = discovery + nft.equals(_ICMP_TYPE, kind) + far
        yield nft.new_rule(INET, TABLE, "forward", routed, _refuse(state.mode, Reason.DISCOVERY))
    for block in state.blocks:
        version = block.version
        family = nft.equals(_FAMILY, _FAMILY_NUMBER[version])
        for field, reason in ((_SOURCE[version], Reason.GATE_FROM), (_DESTINATION[version], Reason.GATE_TO)):
            inside = nft.within(field, *_network(block))
            unknown = nft.member((field,), KNOWN[version], negated=True)
            yield nft.new_rule(INET, TABLE, "forward", family, inside, unknown, _refuse(state.mode, reason))


def _network(block: Network) -> tuple[bytes, bytes]:
    """The block's first address and its mask."""
    bits = block.family.bits
    mask = (1 << bits) - (1 << (bits - block.prefix))
    return packed(Address(block.version, block.value)), mask.to_bytes(bits // 8, "big")
