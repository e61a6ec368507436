"""Short ways to write rules and packets for the simulator's tests."""

from __future__ import annotations

import dataclasses

from builders import address
from netpol_compiler.simulate import (
    Packet,
    Walk,
    parse_ipset_restore,
    parse_iptables_restore,
    walk,
)

SETS = """\
create nets hash:net family inet maxelem 1048576 -exist
add nets 10.0.0.0/8 -exist
add nets 10.0.1.0/24 nomatch -exist
add nets 10.0.1.7 -exist
create ips hash:ip family inet
add ips 10.9.9.9
create ports hash:ip,port family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x4d3f763c
add ports 10.0.0.2,tcp:80
add ports 10.0.0.2,udp:53
create netports hash:net,port family inet
add netports 10.0.0.0/24,tcp:80-82
create six hash:net family inet6
add six fd00::/8
"""


def packet(text: str = "10.0.0.1 10.0.0.2 tcp 80", /, **changes: object) -> Packet:
    """`SOURCE DESTINATION PROTOCOL DPORT` to a packet."""
    source, destination, protocol, dport = text.split()
    return dataclasses.replace(Packet(address(source), address(destination), protocol, int(dport)), **changes)  # type: ignore[arg-type]  # field names


def filter_table(*lines: str, chains: str = "a b c") -> str:
    return "\n".join(["*filter", *(f":{c} - [0:0]" for c in chains.split()), *lines, "COMMIT", ""])


def go(lines: list[str], sent: Packet, hook: str = "FORWARD", sets: str = SETS) -> Walk:
    return walk(parse_iptables_restore(filter_table(*lines)), parse_ipset_restore(sets), sent, hook)


def matches(rule: str, sent: Packet) -> bool:
    return not go([f"-A FORWARD {rule} -j DROP"], sent).accepted


def nested(depth: int, verb: str) -> str:
    """Chains c1 to c`depth`, each below the one before."""
    links = [f"-A c{i} {verb} c{i + 1}" for i in range(1, depth)]
    return filter_table("-A FORWARD -j c1", *links, chains=" ".join(f"c{i}" for i in range(1, depth + 1)))
