"""Random rules, sets and packets of one family, in which everything that the simulator knows meets; equal for equal seeds.

Out: restore text (chains c1 to c6 below OUTPUT, which only lead down, so that there is no loop), and conversations of packets.
REJECT is left out, because its answers would be packets too.
"""

from __future__ import annotations

import random
from dataclasses import replace

from builders import address
from netpol_compiler.model.kinds import Family
from netpol_compiler.simulate import Packet

CHAINS = tuple(f"c{i}" for i in range(1, 7))
PORTS = (53, 80, 81, 443, 8080)
PREFIX = {Family.V4: "10.0", Family.V6: "fd00:0:0"}
_ICMP = {Family.V4: ("icmp", "icmp", "icmp", 8, 0), Family.V6: ("ipv6-icmp", "icmp6", "icmpv6", 128, 129)}
_FLAGS = (("SYN",), ("ACK",), ("FIN", "ACK"), ("RST",), ("SYN", "ACK"), ("FIN",), (), ("SYN", "FIN"), ("ACK", "PSH"))


class Chance:
    """One seed's choices for one family."""

    def __init__(self, seed: int, family: Family) -> None:
        self._random = random.Random(f"{seed} {int(family)}")
        self._family = family
        self.hosts = tuple(self.host(net, last) for net in (0, 1) for last in (1, 2, 3))

    def host(self, net: int, last: int) -> str:
        return f"{PREFIX[self._family]}.{net}.{last}" if self._family is Family.V4 else f"{PREFIX[self._family]}:{net}::{last}"

    def net(self, net: int) -> str:
        return f"{PREFIX[self._family]}.{net}.0/24" if self._family is Family.V4 else f"{PREFIX[self._family]}:{net}::/64"

    # -- sets ---------------------------------------------------------------------------------------

    def sets(self) -> str:
        inet = "inet" if self._family is Family.V4 else "inet6"
        wide = "10.0.0.0/8" if self._family is Family.V4 else "fd00::/8"
        kinds = {"nets": "hash:net", "ips": "hash:ip", "ports": "hash:ip,port", "netports": "hash:net,port"}
        lines = [f"create {name} {kind} family {inet}" for name, kind in kinds.items()]
        lines += [f"add nets {wide}", f"add nets {self.net(1)} nomatch", f"add nets {self.host(1, 2)}"]
        lines += [f"add nets {self.host(0, 3)} nomatch"]
        lines += [f"add ips {h}" for h in self._random.sample(self.hosts, 2)]
        lines += [f"add ports {h},{p}:{n}" for h in self.hosts[:3] for p, n in (("tcp", 80), ("udp", 53), ("sctp", 443))]
        lines += [f"add netports {self.net(0)},tcp:80-81", f"add netports {self.net(1)},udp:53"]
        lines += [f"add netports {self.host(0, 2)},tcp:80 nomatch"]
        return "\n".join([*lines, ""])

    # -- rules --------------------------------------------------------------------------------------

    def rules(self) -> str:
        lines = ["*filter", ":INPUT DROP [0:0]", f":OUTPUT {self._random.choice(('ACCEPT', 'DROP'))} [0:0]"]
        lines += [f":{c} - [0:0]" for c in CHAINS]
        for place, chain in enumerate(("OUTPUT", *CHAINS)):
            lines += [f"-A {chain} {self._rule(CHAINS[place:])}".rstrip() for _ in range(self._random.randint(3, 6))]
        return "\n".join([*lines, "COMMIT", ""])

    def _rule(self, below: tuple[str, ...]) -> str:
        protocol = self._random.choice(
            (self._no_protocol, self._no_protocol, self._ports, self._multiport, self._flags, self._icmp)
        )
        kinds = (self._address, self._set, self._state, self._mark, self._out)
        others = [kind() for kind in self._random.sample(kinds, self._random.randint(0, 2))]
        return " ".join(part for part in (protocol(), *others, self._target(below)) if part)

    def _not(self) -> str:
        return self._random.choice(("", "", "! "))

    def _no_protocol(self) -> str:
        return self._random.choice(("", "", "", "-p udp", "! -p tcp"))

    def _port_words(self) -> str:
        low, high = sorted(self._random.sample(PORTS, 2))
        return self._random.choice((str(low), f"{low}:{high}", f"{high}:"))

    def _ports(self) -> str:
        protocol = self._random.choice(("tcp", "udp", "sctp"))
        return f"-p {protocol} -m {protocol} {self._not()}--dport {self._port_words()}"

    def _multiport(self) -> str:
        low, high = sorted(self._random.sample(PORTS, 2))
        side = self._random.choice(("--dports", "--sports", "--ports"))
        return (
            f"-p {self._random.choice(('tcp', 'udp'))} -m multiport {self._not()}{side} {self._random.choice(PORTS)},{low}:{high}"
        )

    def _flags(self) -> str:
        flags = self._random.choice(
            ("--syn", "--tcp-flags FIN,SYN,RST,ACK SYN", "--tcp-flags ALL NONE", "--tcp-flags SYN,ACK ACK")
        )
        return f"-p tcp -m tcp {self._not()}{flags}"

    def _icmp(self) -> str:
        name, module, option, request, reply = _ICMP[self._family]
        return f"-p {name} -m {module} {self._not()}--{option}-type {self._random.choice((request, reply))}"

    def _address(self) -> str:
        where = self._random.choice((self._random.choice(self.hosts), self.net(0), self.net(1)))
        return f"{self._not()}{self._random.choice(('-s', '-d'))} {where}"

    def _set(self) -> str:
        name = self._random.choice(("nets", "nets", "ips", "ports", "netports"))
        side = self._random.choice(("src", "dst"))
        sides = side if name in ("nets", "ips") else f"{side},{self._random.choice(('src', 'dst'))}"
        return f"-m set {self._not()}--match-set {name} {sides}"

    def _state(self) -> str:
        states = self._random.sample(("NEW", "ESTABLISHED", "RELATED", "INVALID"), self._random.randint(1, 2))
        return f"-m conntrack {self._not()}--ctstate {','.join(states)}"

    def _mark(self) -> str:
        return f"-m mark {self._not()}--mark {self._random.choice(('0x1/0x1', '0x2/0x3', '0x0', '0x4/0xf'))}"

    def _out(self) -> str:
        return self._random.choice(("-o lo", "! -o lo", "-o l+", "-o eth0"))

    def _target(self, below: tuple[str, ...]) -> str:
        marks = (
            "--set-xmark 0x1/0x1",
            "--set-xmark 0x0/0x2",
            "--or-mark 0x2",
            "--and-mark 0x1",
            "--xor-mark 0x5",
            "--set-mark 0x4",
        )
        ends = ("", "-j ACCEPT", "-j DROP", "-j RETURN", "-j RETURN", *(f"-j MARK {m}" for m in self._random.sample(marks, 3)))
        leads = tuple(f"{self._random.choice(('-j', '-j', '-g'))} {c}" for c in below[:3])
        return self._random.choice((*ends, *leads, *leads))

    # -- packets ------------------------------------------------------------------------------------

    def packets(self, count: int) -> list[Packet]:
        """First packets; those of UDP and other protocols may be of a connection that was there before."""
        return [self._packet(place) for place in range(count)]

    def _packet(self, place: int) -> Packet:
        source, target = (address(h) for h in self._random.sample(self.hosts, 2))
        name, _, _, request, reply = _ICMP[self._family]
        protocol = self._random.choice(("tcp", "tcp", "udp", "udp", "sctp", name, "253"))
        made = Packet(source, target, protocol, self._random.choice(PORTS), out_interface="lo")
        if protocol == "tcp":  # every one is a connection of its own: sequence numbers are not simulated
            return replace(made, sport=20000 + place, flags=frozenset(self._random.choice(_FLAGS)))
        if protocol == name:
            return replace(made, icmp=(self._random.choice((request, reply)), 0))
        return replace(made, sport=20000 + place if protocol == "sctp" else self._random.choice(PORTS))

    def follow_up(self) -> str:
        """What comes after a packet that passed."""
        return self._random.choice(("", "reply", "reply", "error"))
