"""Whatever the kernel's programs print and netlink answers: at most an error that is told, never a crash, never a hang."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplanes import ruleset
from hostile import assert_linear, spoiled
from netpol_agent.connections import conntrack
from netpol_agent.dataplane import ipsets, iptables
from netpol_agent.errors import KernelError
from netpol_agent.netlink.ipset import KernelSets, member_data
from netpol_agent.netlink.messages import NLM_F_ACK, NLM_F_DUMP, Netlink, attribute, attributes
from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset import render
from netpol_compiler.ruleset.changes import AddMember, AppendRule, CreateSet, DeleteMember, DestroySet, InsertRule, SetChange
from netpol_compiler.ruleset.reader import read_rule
from netpol_compiler.ruleset.values import HOOK_PARENT, HOOK_RULE
from search import searched

SETS = render.full_ipset_text(ruleset())
RULES = render.full_iptables_text(ruleset(), Family.V4, [AppendRule(HOOK_PARENT, HOOK_RULE)])
WORDS = (" ", "\n", "npc4-", "create npc4-x", "add npc4-x", "-A ", "-A npc-", ":npc-", "-j npc-", '"', "\\", "'", "\0", "\ufffd")


@searched(400)
@given(spoiled(SETS, WORDS))
def test_whatever_ipset_save_prints_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(KernelError):
        assert all(name.startswith(ipsets.PREFIXES) for name in ipsets.parse_save(text))


def test_a_set_without_a_type_is_an_error_of_the_kernel() -> None:
    """Found by spoiled text; half a line is what a program that is killed leaves behind."""
    with pytest.raises(KernelError, match="create npc4-x"):
        ipsets.parse_save("create npc4-x\n")


@searched(400)
@given(spoiled(RULES, WORDS))
def test_whatever_iptables_save_prints_is_read(text: str) -> None:
    state = iptables.parse_save(text)
    assert all(isinstance(render.rule_text(rule), str) for rules in state.chains.values() for rule in rules)
    assert state.hook_changes == [] or isinstance(state.hook_changes[-1], InsertRule)


rules = st.sampled_from(RULES.splitlines()).flatmap(lambda line: spoiled(line, WORDS))


@searched(300)
@given(rules, rules)
def test_any_two_rules_can_be_compared(one: str, two: str) -> None:
    assert read_rule(one) == read_rule(one)
    assert sorted(one.split()) == sorted(two.split()) or read_rule(one) != read_rule(two)


def test_a_rule_with_an_open_quote_is_another_rule() -> None:
    """Found by spoiled text."""
    assert read_rule("-s 10.0.0.1/32 -j DROP") != read_rule('-m comment --comment "it -j DROP')


# -- netlink -------------------------------------------------------------------------------------------


class OddLink(Netlink):
    far: socket.socket

    def close(self) -> None:
        super().close()
        self.far.close()


def link_that_hears(*answers: bytes) -> Netlink:
    """A link whose other end has sent `answers` already and will send no more. The kernel cannot be made to send such."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for answer in answers:
        far.send(answer)
    far.shutdown(socket.SHUT_WR)
    link = OddLink.__new__(OddLink)
    link._socket, link._sequence, link.far = near, 0, far
    return link


def message(kind: int, body: bytes, length: int | None = None, sequence: int = 1) -> bytes:
    return struct.pack("=IHHII", 16 + len(body) if length is None else length, kind, 0, sequence, 0) + body


messages = st.builds(
    message,
    st.sampled_from([2, 3, 16, 0, 65535]),
    st.binary(max_size=40) | st.integers(-(2**31), 2**31 - 1).map(lambda n: struct.pack("=i", n)),
    st.none() | st.integers(0, 80) | st.just(2**32 - 1),
    st.sampled_from([1, 1, 1, 0, 2]),
)
answers = st.lists(st.lists(messages | st.binary(max_size=24), min_size=1, max_size=4).map(b"".join), max_size=3)


@searched(400)
@given(answers, st.sampled_from([0, NLM_F_ACK, NLM_F_DUMP]))
def test_whatever_netlink_answers_a_request_ends(heard: list[bytes], flags: int) -> None:
    with contextlib.closing(link_that_hears(*[h for h in heard if h])) as link, contextlib.suppress(OSError):
        assert sum(1 for _ in link.request(16, flags, b"")) <= sum(map(len, heard))


def test_a_message_shorter_than_its_head_ends_the_request() -> None:
    """Found by spoiled answers: it was read for ever."""
    with (
        contextlib.closing(link_that_hears(message(16, b"", length=0))) as link,
        pytest.raises(OSError, match="message of 0 bytes"),
    ):
        list(link.request(16, NLM_F_DUMP, b""))


def test_an_error_beyond_all_numbers_is_an_error() -> None:
    """Found by spoiled answers: -(-2**31) is no C integer."""
    with (
        contextlib.closing(link_that_hears(message(2, struct.pack("=i", -(2**31))))) as link,
        pytest.raises(OSError, match="error of number"),
    ):
        list(link.request(16, NLM_F_ACK, b""))


@searched(300)
@given(st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=12)), max_size=5), st.binary(max_size=9))
def test_attributes_are_read_as_written_whatever_follows(written: list[tuple[int, bytes]], rest: bytes) -> None:
    data = b"".join(attribute(kind, value) for kind, value in written)
    read = attributes(data + rest)
    for kind, value in {kind & 0x3FFF: value for kind, value in written}.items():
        assert read[kind] == value or rest


entries = st.builds(
    conntrack.Entry,
    st.sampled_from(list(Family)),
    st.binary(max_size=60),
    st.binary(max_size=60),
    st.binary(max_size=4),
    st.just(b""),
) | st.builds(
    lambda family, ends, protocol: conntrack.Entry(
        family,
        attribute(1, attribute(1, ends[0]) + attribute(3, ends[0])),
        attribute(1, attribute(1, ends[1])) + attribute(2, protocol),
        b"",
        b"",
    ),
    st.sampled_from(list(Family)), st.tuples(st.binary(max_size=17), st.binary(max_size=17)), st.binary(max_size=24),
)  # fmt: skip


@searched(300)
@given(entries)
def test_a_connection_of_a_shape_that_nobody_knows_is_left_alone(entry: conntrack.Entry) -> None:
    entry.ends()
    assert isinstance(conntrack._flow_of(entry), conntrack.Flow | None)


members = st.sampled_from(["10.0.0.1", "fd00::1", "10.0.0.1,tcp:80", "10.0.0.0/8 nomatch"]).flatmap(
    lambda member: spoiled(member, (*WORDS, ",tcp:", "99999", "-1", "/", "nomatch", "-exist"))
)
names = st.sampled_from(["npc4-x", "npc6-x", "", "\0", "\ufffd", "x" * 70])
changes = st.one_of(
    st.builds(AddMember, names, members),
    st.builds(DeleteMember, names, members),
    st.builds(CreateSet, names, st.sampled_from(["hash:net", "hash:ip,port", "hash:mac", ""]), st.sampled_from(Family)),
    st.builds(DestroySet, names),
)


@searched(400)
@given(changes, answers)
def test_whatever_change_and_answer_the_kernels_part_leaves_it_to_the_program(change: SetChange, heard: list[bytes]) -> None:
    sets = KernelSets(lambda: link_that_hears(*[h for h in heard if h]))
    assert sets.apply([change]) in (0, 1)
    sets.learn("npc4-x")
    sets._close()


def test_a_port_that_is_none_is_left_to_the_program() -> None:
    """Found by spoiled lines."""
    with pytest.raises(ValueError, match="port"):
        member_data("10.0.0.1,tcp:99999")


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda n: SETS * n, lambda n: "create npc4-x hash:net\n" + "add npc4-x 10.0.0.1\n" * n])
def test_reading_sets_costs_what_their_text_is_long(make) -> None:
    assert_linear(make, ipsets.parse_save, 200)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [lambda n: RULES * n, lambda n: "-A FORWARD -j npc-x\n" * n, lambda n: "-A FORWARD " + "-j npc-x " * n, lambda n: '"' * n],
)
def test_reading_rules_costs_what_their_text_is_long(make) -> None:
    assert_linear(make, iptables.parse_save, 200)


@pytest.mark.slow
def test_reading_attributes_costs_what_they_are_long() -> None:
    assert_linear(lambda n: attribute(1, b"x") * n, attributes, 500)
