"""The simulator against the kernel, packet by packet: random rules, and every rule's counter is the number of its steps."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from builders import address
from isolated import isolated
from netpol_compiler.model.kinds import Family
from netpol_compiler.simulate import (
    Conntrack,
    Packet,
    Tables,
    Walk,
    parse_ipset_restore,
    parse_iptables_restore,
    send,
)
from netpol_compiler.simulate.packets import STATES, TCP_FLAGS
from random_rules import Chance
from raw_packets import error_about, payload, whole
from raw_packets import send as send_raw

SEEDS, PACKETS = range(8), 120
_SAVED = re.compile(r"\[(\d+):\d+\] -A (\S+)")
_POLICY = re.compile(r":OUTPUT \S+ \[(\d+):")
Counts = dict[tuple[str, int], int]


def run(*words: str, text: str | None = None) -> str:
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}\n{(text or '')[:3000]}"
    return done.stdout


def counted(saved: str) -> Counts:
    """(chain, number) to packets, of all rules that saw one; the policy of OUTPUT is its number 0."""
    counts: Counts = {("OUTPUT", 0): int(_POLICY.search(saved)[1])}  # type: ignore[index]  # it is always there
    places = Counter[str]()
    for packets, chain in _SAVED.findall(saved):
        places[chain] += 1
        counts[chain, places[chain]] = int(packets)
    return {rule: n for rule, n in counts.items() if n}


class Both:
    """Sends each packet to the simulator and, unless told otherwise, to the kernel."""

    def __init__(self, tables: Tables, sets: str, kernel: bool = True) -> None:
        self._tables, self._sets, self._kernel = tables, parse_ipset_restore(sets), kernel
        self._tracking = Conntrack()
        self.steps = Counter[tuple[str, int]]()
        self.wrong: list[str] = []
        self.seen = Counter[str]()

    def send(self, packet: Packet, body: bytes) -> Walk:
        known = self._tracking.classify(packet)
        found = send(self._tables, self._sets, packet, self._tracking, "OUTPUT")
        self.steps.update((step.chain, step.number) for step in found.path)
        self.seen.update((known.state, *(step.effect.partition(" ")[0] for step in found.path)))
        if self._kernel and send_raw(packet, whole(packet, body)) is not found.accepted:
            self.wrong.append(f"{known}: simulated {found.verdict}")
        return found


def talk(both: Both, chance: Chance) -> None:
    """Packets, and what follows those that passed: the other side's answer and one more packet, or an error about it."""
    for packet in chance.packets(PACKETS):
        if not both.send(packet, payload(packet)).accepted:
            continue
        follow_up = chance.follow_up()
        if follow_up == "error" and packet.protocol == "udp":
            error, body = error_about(packet)
            both.send(replace(error, out_interface="lo"), body)
        elif follow_up == "reply" and (packet.protocol == "udp" or (packet.protocol == "tcp" and packet.flags == {"SYN"})):
            for each, sequence in answered(packet):
                both.send(each, payload(each, sequence))


def answered(packet: Packet) -> Iterator[tuple[Packet, tuple[int, int]]]:
    """The answer, and the third packet of a TCP handshake, with their numbers."""
    answer = replace(packet.reply(), out_interface="lo", in_interface="")
    yield answer, (2000, 1001)
    yield replace(packet, flags=frozenset({"ACK"})), (1001, 2001)


def prepared(family: Family, sets: str) -> None:
    """This network namespace takes all addresses of `family` that packets are sent to."""
    run("ip", f"-{int(family)}", "route", "add", "local", "10.0.0.0/8" if family is Family.V4 else "fd00::/8", "dev", "lo")
    run("ipset", "restore", text=sets)


def test_the_random_packets_meet_every_state_and_every_effect() -> None:
    seen = Counter[str]()
    for seed in SEEDS:
        for family in Family:
            chance = Chance(seed, family)
            both = Both(parse_iptables_restore(chance.rules()), chance.sets(), kernel=False)
            talk(both, chance)
            seen += both.seen
    wanted = {"NEW", "ESTABLISHED", "RELATED", "INVALID", "ACCEPT", "DROP", "RETURN", "MARK", "jump", "goto", "count"}
    assert wanted <= {what for what, count in seen.items() if count > 20}


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("family", list(Family), ids=lambda f: f.name)
@pytest.mark.parametrize("seed", SEEDS)
@isolated
def test_every_packet_takes_the_rules_that_the_simulator_says(seed: int, family: Family, backend: str) -> None:
    chance = Chance(seed, family)
    tool = f"ip{'6' if family is Family.V6 else ''}tables-{backend}"
    sets, rules = chance.sets(), chance.rules()
    prepared(family, sets)
    run(f"{tool}-restore", text=rules)
    both = Both(parse_iptables_restore(rules), sets)
    talk(both, chance)
    kernel = counted(run(f"{tool}-save", "-c", "-t", "filter"))
    assert not both.wrong, "\n".join([*both.wrong[:5], rules])
    assert kernel == dict(both.steps), f"{kernel.items() ^ dict(both.steps).items()}\n{rules}"


def first_packets(family: Family) -> list[Packet]:
    """Every set of TCP's flags, and every type of ICMP, each from an address of its own."""
    flags = [frozenset(f for bit, f in enumerate(TCP_FLAGS) if number >> bit & 1) for number in range(64)]
    many = ("10.1.0.{}", "icmp", range(20)) if family is Family.V4 else ("fd00::1:{}", "icmpv6", range(1, 150))
    pattern, name, types = many
    target = address("10.0.0.1" if family is Family.V4 else "fd00::1")
    made = [Packet(target, target, "tcp", 80, flags=each) for each in flags]
    made += [Packet(target, target, name, icmp=(kind, 0)) for kind in types]
    return [replace(each, source=address(pattern.format(place + 1))) for place, each in enumerate(made)]


@pytest.mark.kernel
@pytest.mark.parametrize("family", list(Family), ids=lambda f: f.name)
@isolated
def test_the_state_of_a_packet_that_nothing_came_before_is_the_kernels(family: Family) -> None:
    packets, tool = first_packets(family), f"ip{'6' if family is Family.V6 else ''}tables-nft"
    rules = [f"-A OUTPUT -s {p.source} -m conntrack --ctstate {state} -j ACCEPT" for p in packets for state in STATES]
    prepared(family, "")
    for first in range(0, len(rules), 300):  # the kernel takes no more at once from an ordinary user's namespace
        run(
            f"{tool}-restore",
            "--noflush",
            text="\n".join(["*filter", ":INPUT DROP [0:0]", *rules[first : first + 300], "COMMIT", ""]),
        )
    for each in packets:
        send_raw(each, whole(each, payload(each)))
    counts = counted(run(f"{tool}-save", "-c", "-t", "filter"))
    wrong = []
    for place, each in enumerate(packets):
        seen = [s for i, s in enumerate(STATES) if counts.get(("OUTPUT", place * len(STATES) + i + 1))]
        if seen != [Conntrack().classify(each).state]:
            wrong.append(f"{each}: the kernel says {seen}, the simulator {Conntrack().classify(each).state}")
    assert not wrong, "\n".join(wrong)
