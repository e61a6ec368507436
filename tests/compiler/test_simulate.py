"""The simulator: restore text in, a packet's verdict out, by the kernel's rules; and the kernel's own word on the text."""

from __future__ import annotations

import dataclasses

import pytest

from builders import address, conn
from netpol_compiler.model.kinds import Family
from netpol_compiler.simulate import (
    MAX_DEPTH,
    Conntrack,
    Packet,
    SimulateError,
    check_sets,
    first_packet,
    parse_ipset_restore,
    parse_iptables_restore,
    send,
    walk,
)
from simulated import SETS, filter_table, go, matches, nested, packet

TCP = packet()
V6 = packet("fd00::1 fd00::2 tcp 80")


@pytest.mark.parametrize(
    ("rule", "hits", "misses"),
    [
        ("-s 10.0.0.1", "10.0.0.1 10.0.0.2 tcp 80", "10.0.0.2 10.0.0.1 tcp 80"),
        ("-s 10.0.0.1/32", "10.0.0.1 10.0.0.2 tcp 80", "10.0.0.2 10.0.0.1 tcp 80"),
        ("-d 10.0.0.0/30", "9.9.9.9 10.0.0.3 udp 1", "9.9.9.9 10.0.0.4 udp 1"),
        ("! -s 10.0.0.0/8", "11.0.0.1 10.0.0.2 tcp 80", "10.0.0.1 10.0.0.2 tcp 80"),
        ("--source 10.0.0.1 --destination 10.0.0.2", "10.0.0.1 10.0.0.2 tcp 80", "10.0.0.1 10.0.0.3 tcp 80"),
        ("-p tcp", "10.0.0.1 10.0.0.2 tcp 80", "10.0.0.1 10.0.0.2 udp 80"),
        ("! -p tcp", "10.0.0.1 10.0.0.2 icmp 0", "10.0.0.1 10.0.0.2 tcp 80"),
        ("-p 132", "10.0.0.1 10.0.0.2 sctp 80", "10.0.0.1 10.0.0.2 tcp 80"),
        ("-p gre", "10.0.0.1 10.0.0.2 47 0", "10.0.0.1 10.0.0.2 tcp 80"),
        ("-p tcp --dport 80", "10.0.0.1 10.0.0.2 tcp 80", "10.0.0.1 10.0.0.2 tcp 81"),
        ("-p udp -m udp --dport 53:60", "10.0.0.1 10.0.0.2 udp 60", "10.0.0.1 10.0.0.2 udp 61"),
        ("-p udp -m udp --dport 53:", "10.0.0.1 10.0.0.2 udp 65535", "10.0.0.1 10.0.0.2 udp 52"),
        ("-p tcp -m tcp ! --dport 80", "10.0.0.1 10.0.0.2 tcp 81", "10.0.0.1 10.0.0.2 tcp 80"),
        ("-p tcp ! --dport 80", "10.0.0.1 10.0.0.2 tcp 81", "10.0.0.1 10.0.0.2 udp 81"),
        ("-p sctp -m sctp --sport 40000", "10.0.0.1 10.0.0.2 sctp 1", "10.0.0.1 10.0.0.2 tcp 1"),
        ("-p tcp -m multiport --dports 80,443,1000:2000", "10.0.0.1 10.0.0.2 tcp 1500", "10.0.0.1 10.0.0.2 tcp 444"),
        ("-p tcp -m multiport --ports 40000", "10.0.0.1 10.0.0.2 tcp 1", "10.0.0.1 10.0.0.2 udp 1"),
        ("-m set --match-set nets src", "10.0.0.1 10.0.0.2 tcp 80", "11.0.0.1 10.0.0.2 tcp 80"),
        ("-m set ! --match-set nets src", "11.0.0.1 10.0.0.2 tcp 80", "10.0.0.1 10.0.0.2 tcp 80"),
        ("-m set --match-set ips dst", "10.0.0.1 10.9.9.9 tcp 80", "10.9.9.9 10.0.0.1 tcp 80"),
        ("-m set --match-set ports dst,dst", "10.0.0.1 10.0.0.2 tcp 80", "10.0.0.1 10.0.0.2 udp 80"),
        ("-m set --match-set ports dst,dst", "10.0.0.1 10.0.0.2 udp 53", "10.0.0.1 10.0.0.2 icmp 0"),
        ("-m set --match-set netports dst,dst", "10.0.0.1 10.0.0.77 tcp 82", "10.0.0.1 10.0.0.77 tcp 83"),
        ("-m set --match-set nets src -m set --match-set ips dst", "10.0.0.1 10.9.9.9 tcp 1", "10.0.1.1 10.9.9.9 tcp 1"),
        ('-m comment --comment "two words \\" and -j ACCEPT" -p tcp', "10.0.0.1 10.0.0.2 tcp 1", "10.0.0.1 10.0.0.2 udp 1"),
        ("-m limit --limit 10/sec --limit-burst 20 -p tcp", "10.0.0.1 10.0.0.2 tcp 1", "10.0.0.1 10.0.0.2 udp 1"),
    ],
)
def test_each_match_says_what_the_kernels_does(rule: str, hits: str, misses: str) -> None:
    assert matches(rule, packet(hits)) and not matches(rule, packet(misses))


@pytest.mark.parametrize(
    ("rule", "changes", "expected"),
    [
        ("-p tcp --syn", {}, True),
        ("-p tcp ! --syn", {}, False),
        ("-p tcp ! --syn", {"flags": frozenset({"ACK"})}, True),
        ("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", {"flags": frozenset({"SYN", "ACK"})}, True),
        ("-p tcp -m tcp --tcp-flags SYN,ACK SYN", {"flags": frozenset({"SYN", "PSH"})}, True),
        ("-p tcp -m tcp --tcp-flags ALL NONE", {"flags": frozenset[str]()}, True),
        ("-m conntrack --ctstate RELATED,ESTABLISHED", {}, False),
        ("-m conntrack --ctstate RELATED,ESTABLISHED", {"state": "RELATED"}, True),
        ("-m conntrack ! --ctstate RELATED,ESTABLISHED", {"state": "INVALID"}, True),
        ("-m state --state NEW", {}, True),
        ("-m mark --mark 0x40000/0x40000", {"mark": 0x40001}, True),
        ("-m mark --mark 0x40000", {"mark": 0x40001}, False),
        ("-m mark ! --mark 0x40000/0x40000", {"mark": 1}, True),
        ("-i eth+", {"in_interface": "eth0"}, True),
        ("-i eth+", {"in_interface": "cni0"}, False),
        ("! -o cni0", {"out_interface": "eth0"}, True),
    ],
)
def test_each_match_on_what_is_not_an_address(rule: str, changes: dict[str, object], expected: bool) -> None:
    assert matches(rule, dataclasses.replace(TCP, **changes)) is expected  # type: ignore[arg-type]  # field names


@pytest.mark.parametrize(
    ("rule", "kind", "expected"),
    [
        ("-p icmp --icmp-type echo-request", (8, 0), True),
        ("-p icmp -m icmp --icmp-type 8/0", (8, 1), False),
        ("-p icmp -m icmp --icmp-type any", (3, 4), True),
    ],
)
def test_icmp_types(rule: str, kind: tuple[int, int], expected: bool) -> None:
    assert matches(rule, packet("10.0.0.1 10.0.0.2 icmp 0", icmp=kind)) is expected


@pytest.mark.parametrize("rule", ["-p icmpv6 --icmpv6-type 135", "-p ipv6-icmp -m icmp6 --icmpv6-type neighbour-solicitation"])
def test_icmp6_types(rule: str) -> None:
    solicitation = packet("fd00::1 fd00::2 icmpv6 0", icmp=(135, 0))
    assert matches(rule, solicitation) and not matches(rule, dataclasses.replace(solicitation, icmp=(128, 0)))


@pytest.mark.parametrize(
    ("source", "inside"), [("10.0.0.1", True), ("10.0.1.1", False), ("10.0.1.7", True), ("11.0.0.1", False), ("10.0.2.1", True)]
)
def test_in_a_net_set_the_longest_prefix_decides_and_a_nomatch_says_no(source: str, inside: bool) -> None:
    assert matches("-m set --match-set nets src", packet(f"{source} 1.1.1.1 tcp 1")) is inside


@pytest.mark.parametrize(
    ("lines", "verdict", "chains"),
    [
        ([], "ACCEPT", "FORWARD"),
        ([":FORWARD DROP [0:0]"], "DROP", "FORWARD"),
        (["-A FORWARD -j ACCEPT", "-A FORWARD -j DROP"], "ACCEPT", "FORWARD"),
        (["-A FORWARD -p tcp -j REJECT --reject-with tcp-reset"], "DROP", "FORWARD"),
        (["-A FORWARD", "-A FORWARD -j DROP"], "DROP", "FORWARD FORWARD"),
        (["-A FORWARD -j RETURN", "-A FORWARD -j DROP"], "ACCEPT", "FORWARD FORWARD"),
        (["-A FORWARD -j a", "-A FORWARD -j DROP"], "DROP", "FORWARD FORWARD"),
        (["-A FORWARD -j a", "-A FORWARD -j DROP", "-A a -j RETURN", "-A a -j ACCEPT"], "DROP", "FORWARD a FORWARD"),
        # a goto leaves no place to come back to: the end of b returns to whoever jumped to a
        (["-A FORWARD -j a", "-A FORWARD -j DROP", "-A a -g b", "-A a -j ACCEPT"], "DROP", "FORWARD a FORWARD"),
        (["-A FORWARD -j a", "-A FORWARD -j DROP", "-A a -g b", "-A b -j RETURN"], "DROP", "FORWARD a b FORWARD"),
        # a jump below a goto comes back into the chain that was gone to
        (["-A FORWARD -j a", "-A a -g b", "-A a -j ACCEPT", "-A b -j c", "-A b -j DROP"], "DROP", "FORWARD a b b"),
        # two gotos in a row: still back to the jump
        (["-A FORWARD -j a", "-A FORWARD -j DROP", "-A a -g b", "-A b -g c", "-A b -j ACCEPT"], "DROP", "FORWARD a b FORWARD"),
        # a goto from the built-in chain: nobody jumped, so the built-in chain's policy decides
        (["-A FORWARD -g a", "-A FORWARD -j DROP", "-A a -j RETURN"], "ACCEPT", "FORWARD a FORWARD"),
        ([":FORWARD DROP [0:0]", "-A FORWARD -g a", "-A FORWARD -j ACCEPT"], "DROP", "FORWARD FORWARD"),
        (["--append FORWARD --jump a", "--append a --goto b", "-A b -j DROP"], "DROP", "FORWARD a b"),
        (["-A FORWARD -j ACCEPT", "-I FORWARD -j DROP"], "DROP", "FORWARD"),
        (["-A FORWARD -j ACCEPT", "-I FORWARD 2 -j DROP"], "ACCEPT", "FORWARD"),
        (["-A FORWARD -j DROP", "-D FORWARD -j DROP"], "ACCEPT", "FORWARD"),
        (["-A FORWARD -j DROP", "-F FORWARD", "-X c"], "ACCEPT", "FORWARD"),
        (['-A FORWARD -j NFLOG --nflog-group 5 --nflog-prefix "npc x"', "-A FORWARD -j LOG"], "ACCEPT", "FORWARD " * 3),
        (["[12:800] -A FORWARD -p tcp -j DROP"], "DROP", "FORWARD"),
        (["# a comment", "", "-A FORWARD -j DROP"], "DROP", "FORWARD"),
    ],
)
def test_verdicts_jumps_gotos_and_returns(lines: list[str], verdict: str, chains: str) -> None:
    seen = go(lines, TCP)
    assert seen.verdict == verdict and [step.chain for step in seen.path] == chains.split()


@pytest.mark.parametrize(
    ("target", "before", "after"),
    [
        ("--set-xmark 0x40000/0x40000", 0x1, 0x40001),
        ("--set-xmark 0x0/0x40000", 0x40001, 0x1),
        ("--set-xmark 0x1/0x0", 0x3, 0x2),
        ("--set-mark 0x5", 0xF0, 0x5),
        ("--set-mark 0x5/0xf", 0xFA, 0xF5),
        ("--or-mark 0x4", 0x1, 0x5),
        ("--and-mark 0x4", 0x5, 0x4),
        ("--xor-mark 0x4", 0x5, 0x1),
    ],
)
def test_marks_are_set_by_value_and_mask_and_the_walk_goes_on(target: str, before: int, after: int) -> None:
    seen = go([f"-A FORWARD -j MARK {target}", f"-A FORWARD -m mark --mark {after:#x} -j DROP"], packet(mark=before))
    assert seen.mark == after and not seen.accepted


def test_a_walk_names_each_matching_rule_with_its_number_text_effect_and_line() -> None:
    seen = go(["-A FORWARD -p udp -j DROP", "-A FORWARD -j a", "-A a -j MARK --set-xmark 0x1/0x1"], TCP)
    assert [tuple(step) for step in seen.path] == [
        ("FORWARD", 2, "-j a", "jump a", 6),
        ("a", 1, "-j MARK --set-xmark 0x1/0x1", "MARK", 7),
        ("FORWARD", 0, "policy", "ACCEPT", 0),
    ]
    assert seen.tried == 3 and seen.mark == 1


def test_text_is_written_onto_a_base_and_a_declared_chain_is_emptied() -> None:
    base = parse_iptables_restore(filter_table("-A FORWARD -j a", "-A a -j DROP", chains="a"))
    after = parse_iptables_restore("*filter\n:a - [0:0]\n:b - [0:0]\n-A a -j b\nCOMMIT\n", base)
    assert not walk(base, {}, TCP).accepted and walk(after, {}, TCP).accepted
    sets = parse_ipset_restore(SETS)
    later = parse_ipset_restore("del ips 10.9.9.9\nadd ips 10.9.9.8\ndestroy six\nswap ips ips\n", sets)
    assert sets["ips"].contains(address("10.9.9.9")) and "six" in sets
    assert later["ips"].contains(address("10.9.9.8")) and not later["ips"].contains(address("10.9.9.9")) and "six" not in later


def test_a_chain_may_have_a_name_in_capitals() -> None:
    text = filter_table("-A FORWARD -j KUBE-FORWARD", "-A KUBE-FORWARD -j DROP", chains="KUBE-FORWARD")
    assert not walk(parse_iptables_restore(text), {}, TCP).accepted


def test_other_tables_are_read_over() -> None:
    nat = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DNAT --to 1.2.3.4\nCOMMIT\n"
    assert not walk(parse_iptables_restore(nat + filter_table("-A FORWARD -j DROP")), {}, TCP).accepted


@pytest.mark.parametrize(
    "rule",
    [
        "-m addrtype --dst-type LOCAL -j ACCEPT",
        "-j TPROXY",
        "-j nowhere",
        "-g nowhere",
        "-j FORWARD",
        "-p tcp --dports 80 -j DROP",
        "--dport 80 -j DROP",
        "-m tcp --dport 80 -j DROP",
        "-p udp -m tcp --dport 80 -j DROP",
        "-p tcp --dport ! 80 -j DROP",
        "-p tcp --dport 80 --dport 81 -j DROP",
        "-p tcp --dport 81:80 -j DROP",
        "-p tcp --dport 65536 -j DROP",
        "-p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14:15,16 -j DROP",
        "-s 10.0.0.1,10.0.0.2 -j DROP",
        "-s 10.0.0.0/33 -j DROP",
        "-s localhost -j DROP",
        "-p nothing -j DROP",
        "-m set -j DROP",
        "-m set --match-set nets both -j DROP",
        "-m set --match-set nets src --match-set ips dst -j DROP",
        "-m conntrack --ctstate OLD -j DROP",
        "-m mark --mark red -j DROP",
        "-p icmp --icmp-type strange -j DROP",
        "-p tcp --tcp-flags SYN,XXX SYN -j DROP",
        '-m comment --comment "open -j DROP',
        "-m comment --comment " + "x" * 256 + " -j DROP",
        "-j DROP -j ACCEPT",
        "-j MARK --set-what 1",
        "-j MARK",
        "! -j DROP",
        "-p tcp --dport 8_0 -j DROP",
        "-p icmp --icmp-type 300 -j DROP",
        "-p tcp -m multiport --dports 80 --sports 81 -j DROP",
        "-p tcp --syn --tcp-flags SYN SYN -j DROP",
        "-m mark --mark 0b1 -j DROP",
        "-m limit --limit often -j DROP",
        "-m limit ! --limit 10/sec -j DROP",
        "-m comment ! --comment x -j DROP",
        "-i thisinterfacenameistoolong -j DROP",
        "! -p all -j DROP",
        "-s 10.0.0.1 -d fd00::1 -j DROP",
        "-j REJECT --reject-with silence",
        "-j REJECT --reject-with tcp-reset",
        "-j LOG --log-level loud",
        "-j NFLOG --nflog-group 70000",
        "-j MARK --or-mark 1/1",
        "-j NFLOG --nflog-prefix " + "x" * 64,
        "extra",
        "-s",
        "-j a -j",
    ],
)
def test_a_rule_that_is_not_known_or_would_be_refused_is_an_error_that_names_the_line(rule: str) -> None:
    with pytest.raises(SimulateError) as caught:
        parse_iptables_restore(filter_table(f"-A FORWARD {rule}", chains="a"))
    assert caught.value.line == 3 and str(caught.value).startswith("line 3: ") and rule in str(caught.value)


@pytest.mark.parametrize("rule", ["-s fd00::1", "-p icmpv6 -m icmp6 --icmpv6-type 128", "-j REJECT --reject-with icmp6-no-route"])
def test_a_rule_of_the_other_family_is_refused_where_the_family_is_told(rule: str) -> None:
    text = filter_table(f"-A FORWARD {rule}")
    with pytest.raises(SimulateError, match=r"line 5: a rule of IPv6 in a table of IPv4"):
        parse_iptables_restore(text, family=Family.V4)
    assert parse_iptables_restore(text, family=Family.V6) and parse_iptables_restore(text)


@pytest.mark.parametrize(
    "text",
    [
        "-A FORWARD -j DROP\n",
        "*filter\n-A FORWARD -j DROP\n",
        "*filter\n-A nowhere -j DROP\nCOMMIT\n",
        "*filter\n:mine ACCEPT [0:0]\nCOMMIT\n",
        "*filter\n:" + "x" * 29 + " - [0:0]\nCOMMIT\n",
        "*filter\n:a - [0:0]\n-A a -j DROP\n-X a\nCOMMIT\n",
        "*filter\n-R FORWARD 1 -j DROP\nCOMMIT\n",
        "*filter\n-I FORWARD 2 -j DROP\nCOMMIT\n",
        "*filter\n-D FORWARD -j DROP\nCOMMIT\n",
        "*filter\n:a - [0:0]\n:b - [0:0]\n-A FORWARD -j a\n-A a -j b\n-A b -g a\nCOMMIT\n",
        "*filter\n*nat\nCOMMIT\n",
    ],
)
def test_broken_restore_text_is_an_error(text: str) -> None:
    with pytest.raises(SimulateError):
        parse_iptables_restore(text)


@pytest.mark.parametrize("verb", ["-j", "-g"])
def test_no_path_may_be_deeper_than_the_kernel_allows(verb: str) -> None:
    assert parse_iptables_restore(nested(MAX_DEPTH, verb)).depth("FORWARD") == MAX_DEPTH
    with pytest.raises(SimulateError, match="more than 15 chains below FORWARD"):
        parse_iptables_restore(nested(MAX_DEPTH + 1, verb))


@pytest.mark.parametrize(
    "line",
    [
        "create nets hash:ip family inet -exist",
        "create ips hash:ip family inet",
        "create new bitmap:port range 0-10",
        "create new hash:net family inet colour red",
        "create " + "x" * 32 + " hash:net",
        "add nowhere 10.0.0.1",
        "add ips 10.9.9.9",
        "add ips 10.0.0.0/24 -exist",
        "add ips fd00::1",
        "add ips 10.9.9.1,tcp:80",
        "add ips 10.9.9.1 nomatch",
        "add nets 0.0.0.0/0",
        "add nets 10.0.0.300",
        "add ports 10.0.0.1",
        "add ports 10.0.0.1,tcp:65536",
        "add ports 10.0.0.1,gre:1",
        "add ips 10.9.9.1 what",
        "add ips 10.9.9.1 timeout 5",
        "add ips 0.0.0.0",
        "add ports 10.0.0.1,tcp:8_0",
        "create nets hash:net family inet maxelem 5 -exist",
        "del ips 10.1.1.1",
        "swap ips nets",
        "rename ips other",
    ],
)
def test_set_text_that_would_be_refused_is_an_error_that_names_the_line(line: str) -> None:
    with pytest.raises(SimulateError) as caught:
        parse_ipset_restore(SETS + line + "\n")
    assert caught.value.line == len(SETS.splitlines()) + 1


def test_a_full_set_is_an_error() -> None:
    with pytest.raises(SimulateError, match="full: maxelem 2"):
        parse_ipset_restore("create s hash:ip family inet maxelem 2\nadd s 1.1.1.1\nadd s 1.1.1.2\nadd s 1.1.1.3\n")


@pytest.mark.parametrize(
    ("rule", "sent", "reason"),
    [
        ("-m set --match-set gone src", TCP, "no set 'gone'"),
        ("-m set --match-set ports dst", TCP, "does not fit"),
        ("-m set --match-set nets src,src", TCP, "does not fit"),
        ("-m set --match-set six src", TCP, "of IPv6"),
        ("-m set --match-set nets src", V6, "of IPv4"),
        ("-s 10.0.0.1", V6, "table of IPv6"),
        ("-i eth0", TCP, "not known"),
    ],
)
def test_what_the_kernel_would_refuse_or_the_packet_does_not_tell_is_an_error(rule: str, sent: Packet, reason: str) -> None:
    with pytest.raises(SimulateError, match=reason) as caught:
        go([f"-A FORWARD {rule} -j DROP"], sent)
    assert caught.value.line == 5


def test_missing_sets_are_found_without_a_packet() -> None:
    tables = parse_iptables_restore(filter_table("-A a -m set --match-set gone src -j DROP"))
    with pytest.raises(SimulateError, match="gone"):
        check_sets(tables, parse_ipset_restore(SETS))


STATEFUL = ["-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN", "-A FORWARD -s 10.0.0.2 -j DROP"]


def test_a_reply_passes_by_its_connection_and_not_without_it() -> None:
    tables, conntrack = parse_iptables_restore(filter_table(*STATEFUL)), Conntrack()
    assert not send(tables, {}, TCP.reply(), conntrack).accepted
    assert send(tables, {}, TCP, conntrack).accepted
    assert conntrack.classify(TCP).state == "NEW", "no reply was seen yet"
    assert send(tables, {}, TCP.reply(), conntrack).accepted
    assert conntrack.classify(TCP).state == "ESTABLISHED"
    assert conntrack.classify(dataclasses.replace(TCP, sport=1)).state == "NEW"


def test_a_connection_that_was_refused_or_cut_has_no_replies() -> None:
    tables, conntrack = parse_iptables_restore(filter_table(*STATEFUL)), Conntrack()
    back = dataclasses.replace(TCP, source=TCP.destination, destination=TCP.source)
    assert not send(tables, {}, back, conntrack).accepted
    assert conntrack.classify(back.reply()).state == "INVALID", "the answer to nothing"
    send(tables, {}, TCP, conntrack)
    assert conntrack.cut(lambda source, destination, protocol, dport: (protocol, dport) == (6, 80)) == 1
    assert not send(tables, {}, TCP.reply(), conntrack).accepted


@pytest.mark.parametrize(
    ("text", "changes", "state"),
    [
        ("10.0.0.1 10.0.0.2 tcp 80", {"flags": frozenset({"ACK", "PSH"})}, "NEW"),
        ("10.0.0.1 10.0.0.2 tcp 80", {"flags": frozenset({"SYN", "ACK"})}, "INVALID"),
        ("10.0.0.1 10.0.0.2 tcp 80", {"flags": frozenset({"RST"})}, "INVALID"),
        ("10.0.0.1 10.0.0.2 tcp 80", {"flags": frozenset({"SYN", "FIN"})}, "INVALID"),
        ("10.0.0.1 10.0.0.2 udp 80", {}, "NEW"),
        ("10.0.0.1 10.0.0.2 icmp 0", {"icmp": (8, 0)}, "NEW"),
        ("10.0.0.1 10.0.0.2 icmp 0", {"icmp": (0, 0)}, "INVALID"),
        ("fd00::1 fd00::2 icmpv6 0", {"icmp": (135, 0)}, "UNTRACKED"),
    ],
)
def test_of_an_unknown_connection_only_what_may_begin_one_is_new(text: str, changes: dict[str, object], state: str) -> None:
    assert Conntrack().classify(packet(text, **changes)).state == state


def test_the_state_that_the_caller_knows_better_stays() -> None:
    conntrack = Conntrack()
    assert conntrack.classify(packet(state="RELATED")).state == "RELATED"
    assert conntrack.classify(packet(state="INVALID")).state == "INVALID"


def test_the_first_packet_of_a_connection() -> None:
    tcp = first_packet(conn("10.0.0.1", "10.0.0.2", 80))
    assert (tcp.protocol, tcp.dport, tcp.flags, tcp.state) == ("tcp", 80, frozenset({"SYN"}), "NEW")
    assert first_packet(conn("10.0.0.1", "10.0.0.2", 53, "UDP")).protocol == "udp"
    assert first_packet(conn("10.0.0.1", "10.0.0.2", protocol=None)).icmp == (8, 0)
    assert first_packet(conn("fd00::1", "fd00::2", protocol=None)).protocol == "icmpv6"
    with pytest.raises(SimulateError, match="two families"):
        packet("10.0.0.1 fd00::1 tcp 80")
