"""Sets written without a process: the kernel holds what the program would have made, and what is not plain is left to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from dataplanes import Recorder, assert_in_force, dataplane, ruleset, shell
from isolated import isolated
from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.ipsets import IPSets
from netpol_agent.dataplane.runner import Processes
from netpol_agent.netlink.ipset import MOST, KernelSets, member_data
from netpol_agent.netlink.messages import NETLINK_NETFILTER, Netlink
from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.changes import (
    AddMember,
    CreateSet,
    DestroySet,
    SetChange,
    add_members,
    create_set,
    delete_members,
)
from netpol_compiler.ruleset.values import IPSet
from until import until

pytestmark = pytest.mark.kernel

MEMBERS = {
    ("hash:net", Family.V4): ["10.0.0.1", "10.0.0.0/8", "10.1.0.0/16 nomatch", "192.0.2.0/24", "0.0.0.0/1", "128.0.0.0/1"],
    ("hash:net", Family.V6): ["fd00::1", "fd00::/8", "fd01::/16 nomatch", "::/1"],
    ("hash:ip,port", Family.V4): ["10.0.0.1,tcp:80", "10.0.0.1,udp:53", "10.0.0.2,sctp:65535"],
    ("hash:ip,port", Family.V6): ["fd00::1,tcp:1", "fd00::2,udp:53"],
}


def sets(prefix: str) -> list[IPSet]:
    return [IPSet(f"npc{f}-{prefix}-{i}", t, f, frozenset(m)) for i, ((t, f), m) in enumerate(MEMBERS.items())]


def making(found: Sequence[IPSet]) -> list[SetChange]:
    return [change for s in found for change in (create_set(s), *add_members(s.name, s.members))]


def saved(prefix: str) -> list[str]:
    """What ipset prints of some sets, without what differs between any two."""
    text = shell(f"ipset save | grep -- '-{prefix}-' || true").replace(f"-{prefix}-", "-X-")
    return sorted(re.sub(r" initval 0x\w+", "", line) for line in text.splitlines())


def taught() -> KernelSets:
    """One that has seen a set of each type."""
    kernel = KernelSets()
    teachers = sets("teacher")
    assert IPSets("ipset", Processes(), kernel).write(making(teachers)) == []
    assert all(kernel.knows(s.type, s.family) for s in teachers)
    return kernel


@isolated
def test_the_kernel_holds_what_the_program_would_have_made() -> None:
    kernel = taught()
    wanted = making(sets("own"))
    assert kernel.apply(wanted) == len(wanted)
    assert saved("own") == saved("teacher")
    assert kernel.apply(wanted) == len(wanted), "every change can be repeated"
    gone = [change for s in sets("own") for change in delete_members(s.name, list(s.members)[:1])]
    assert kernel.apply([*gone, *gone]) == 2 * len(gone)
    IPSets("ipset", Processes()).write([replace(change, name=change.name.replace("-own-", "-teacher-")) for change in gone])
    assert saved("own") == saved("teacher")
    assert kernel.apply([DestroySet(s.name) for s in sets("own")]) == len(sets("own"))
    assert saved("own") == []


REFUSED: dict[str, SetChange] = {
    "no such set": AddMember("npc4-none", "10.0.0.1"),
    "the other family": AddMember("npc4-teacher-0", "fd00::1"),
    "no address": AddMember("npc4-teacher-0", "example.org"),
    "no prefix": AddMember("npc4-teacher-0", "10.0.0.0/33"),
    "unknown option": AddMember("npc4-teacher-0", "10.0.0.9 timeout 3"),
    "unknown protocol": AddMember("npc4-teacher-2", "10.0.0.9,icmp:1"),
    "unknown type": CreateSet("npc4-new", "hash:mac", Family.V4),
    "another type": CreateSet("npc4-teacher-0", "hash:ip,port", Family.V4),
    "in use": DestroySet("npc4-teacher-0"),
    "nothing": AddMember("", ""),
}


@pytest.mark.parametrize("case", REFUSED)
@isolated
def test_what_is_not_plain_or_is_refused_is_left_to_the_program_and_changes_nothing(case: str) -> None:
    kernel = taught()
    shell("iptables-nft -A FORWARD -m set --match-set npc4-teacher-0 src -j ACCEPT")
    before = saved("teacher")
    first, last = AddMember("npc4-teacher-0", "10.0.0.7"), AddMember("npc4-teacher-0", "10.0.0.8")
    assert kernel.apply([first, REFUSED[case], last]) == 1
    assert saved("teacher") == sorted([*before, "add npc4-X-0 10.0.0.7"])
    assert kernel.apply([last]) == 1, "and the next change goes through"


@isolated
def test_a_socket_that_breaks_is_made_anew() -> None:
    opened: list[Netlink] = []

    def open_link() -> Netlink:
        opened.append(Netlink(NETLINK_NETFILTER))
        return opened[-1]

    shell("ipset create npc4-a hash:net")
    kernel = KernelSets(open_link)
    assert kernel.apply([AddMember("npc4-a", "10.0.0.1")]) == 1
    opened[0].close()
    assert kernel.apply([AddMember("npc4-a", "10.0.0.2")]) == 0
    assert kernel.apply([AddMember("npc4-a", "10.0.0.2")]) == 1
    assert len(opened) == 2


@isolated
def test_very_many_changes_are_left_to_the_program() -> None:
    shell("ipset create npc4-a hash:net")
    assert KernelSets().apply([AddMember("npc4-a", f"10.0.{i // 250}.{i % 250}") for i in range(MOST + 1)]) == 0


@pytest.mark.parametrize("kind", list(BackendKind), ids=lambda kind: kind.value)
@isolated
def test_a_dataplane_whose_changes_are_small_starts_no_ipset(kind: BackendKind) -> None:
    run = Recorder()
    plane = dataplane(kind, run, kernel_sets=KernelSets())
    plane.sync(ruleset())
    run.started.clear()
    for hosts, stems in (((1, 2, 3), ("peers",)), ((3,), ("peers",)), ((3,), ("peers", "others")), ((4,), ("others",))):
        assert plane.sync(ruleset(hosts=hosts, sets=stems)).failures == ()
    # nft lets go of a set a moment after its rules went.
    again = lambda: plane.sync(ruleset(hosts=(4,), sets=("others",)))  # noqa: E731
    until(lambda: plane.retry_at, 10, "nothing to be tried again", good=lambda due: due is None, wait=again)
    assert all(text.startswith("destroy ") for name, text in run.started if name == "ipset" and text)
    assert_in_force(kind, ruleset(hosts=(4,), sets=("others",)))


@isolated
def test_a_refused_member_is_still_explained_by_the_program() -> None:
    kernel = KernelSets()
    writer = IPSets("ipset", Processes(), kernel)
    shell("ipset create npc4-a hash:net maxelem 1")
    failures = writer.write([AddMember("npc4-a", "10.0.0.1"), AddMember("npc4-a", "10.0.0.2")])
    assert [f.change for f in failures] == [AddMember("npc4-a", "10.0.0.2")]
    assert "full" in failures[0].error


def test_words_of_a_member_are_exactly_those_that_the_agent_writes() -> None:
    assert member_data("10.0.0.1")
    for words in (
        "",
        "nomatch",
        "10.0.0.1 x",
        "10.0.0.1  nomatch",
        "10.0.0.1 nomatch nomatch",
        "10.0.0.1 -exist",
        "10.0.0.1,tcp",
    ):
        with pytest.raises((ValueError, KeyError, OSError)):
            member_data(words)
