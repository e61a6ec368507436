"""The guard in a kernel of its own: what is written, when nothing is, what is repaired, and what is left behind."""

from __future__ import annotations

import subprocess

import pytest

from isolated import isolated
from netpol_agent.errors import KernelError
from netpol_agent.guard.guard import Guard, packets, remove
from netpol_agent.guard.state import GuardSet, GuardState, Mode, Port, Reason, Tunnel, link_local, members
from netpol_agent.guard.tables import TABLE, build
from netpol_agent.netlink import nftables as nft
from netpol_agent.netlink.nftables import BRIDGE, INET, NftLink, Refused
from netpol_compiler.model.addresses import Address, parse_address, parse_network
from netpol_compiler.model.kinds import Direction

pytestmark = pytest.mark.kernel

BLOCKS = (parse_network("10.200.1.0/24")[0], parse_network("fd00:10:200:1::/64")[0])


def port(number: int, **more: object) -> Port:
    """Pod number `number` of a dual-stack node."""
    addresses = (
        Address(4, parse_address("10.200.0.0").value + number),
        Address(6, parse_address("fd00:10:200:1::").value + number),
    )
    return Port(f"veth{number}", b"\x0a\x58" + number.to_bytes(4, "big"), addresses, **more)  # type: ignore[arg-type]


def state(*ports: Port, mode: Mode = Mode.ENFORCE) -> GuardState:
    known = frozenset(address for one in ports for address in one.addresses)
    return GuardState(mode, frozenset(ports), known, BLOCKS, frozenset({Tunnel(17, 8472)}))


def listed() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def in_kernel(link: NftLink) -> dict[GuardSet, frozenset[bytes]]:
    families = {name: BRIDGE if name not in _INET_SETS else INET for name in GuardSet}
    return {name: link.members(families[name], TABLE, name.value) for name in GuardSet}


_INET_SETS = {GuardSet.KNOWN4, GuardSet.KNOWN6, GuardSet.BRIDGED, GuardSet.ROUTED, GuardSet.ROUTED4, GuardSet.ROUTED6}


@isolated
def test_the_kernel_holds_every_set_as_the_state_has_it_and_a_second_sync_writes_nothing() -> None:
    link = NftLink()
    guard = Guard(link)
    wanted = state(port(1, isolated=frozenset({Direction.INGRESS})), port(2, bridged=False), port(3))
    assert guard.sync(wanted)
    assert in_kernel(link) == members(wanted)
    assert not guard.sync(wanted)
    assert guard.verify()


@isolated
def test_a_pod_that_comes_or_goes_changes_members_only() -> None:
    link = NftLink()
    guard = Guard(link)
    guard.sync(state(port(1), port(2)))
    rules = [line for line in listed().splitlines() if "counter name" in line]
    later = state(port(2), port(3))
    assert guard.sync(later)
    assert in_kernel(link) == members(later)
    assert [line for line in listed().splitlines() if "counter name" in line] == rules


@isolated
def test_what_somebody_flushed_or_changed_is_seen_and_written_again() -> None:
    link = NftLink()
    guard = Guard(link)
    wanted = state(port(1), port(2))
    for damage in (
        "flush ruleset",
        f"delete element inet {TABLE} known4 {{ 10.200.0.1 }}",
        f"add element inet {TABLE} known4 {{ 10.200.1.77 }}",
        f"flush set bridge {TABLE} ipv4",
        f"flush table bridge {TABLE}",
        f"flush chain inet {TABLE} forward",
    ):
        guard.sync(wanted)
        assert guard.verify()
        subprocess.run(["nft", damage], check=True)
        assert not guard.verify(), damage
        assert guard.sync(wanted)
        assert in_kernel(link) == members(wanted)


@isolated
def test_removing_leaves_nothing_and_is_no_error_where_nothing_is() -> None:
    link = NftLink()
    remove(link)
    subprocess.run(["nft", "add table inet somebodys"], check=True)
    Guard(link).sync(state(port(1)))
    assert TABLE in listed()
    remove(link)
    assert listed().split() == ["table", "inet", "somebodys", "{", "}"]


@isolated
def test_a_batch_that_the_kernel_refuses_changes_nothing_and_names_what_was_refused() -> None:
    link = NftLink()
    good = [nft.new_table(INET, "t"), nft.new_chain(INET, "t", "c")]
    with pytest.raises(Refused, match="rule of nowhere: No such file"):
        link.commit([*good, nft.new_rule(INET, "t", "nowhere", nft.decide(nft.Verdict.DROP))])
    assert listed() == ""
    link.commit(good)
    assert "chain c" in listed()


@isolated
def test_a_guard_that_cannot_be_written_says_so_and_is_written_whole_the_next_time() -> None:
    link = NftLink()
    guard = Guard(link)
    guard.sync(state(port(1)))
    subprocess.run(["nft", "flush ruleset"], check=True)
    with pytest.raises(KernelError, match="the guard cannot be programmed: members of"):
        guard.sync(state(port(2)))
    assert guard.sync(state(port(2)))
    assert in_kernel(link) == members(state(port(2)))


@isolated
def test_a_node_full_of_pods_has_the_rules_of_one_pod_and_all_its_members_at_once() -> None:
    link = NftLink()
    one, many = state(port(1)), state(*(port(n) for n in range(1, 251)))
    assert len(build(one)) == len(build(many))
    Guard(link).sync(many)
    assert in_kernel(link) == members(many)


@isolated
def test_every_reason_has_a_counter_that_starts_at_nothing() -> None:
    link = NftLink()
    assert packets(link) == {}
    Guard(link).sync(state(port(1)))
    assert packets(link) == dict.fromkeys((reason.value for reason in Reason), 0)


@isolated
def test_in_mode_report_no_rule_drops() -> None:
    guard = Guard(NftLink())
    guard.sync(state(port(1)))
    assert " drop" in listed()
    guard.sync(state(port(1), mode=Mode.REPORT))
    assert " drop" not in listed()


def test_the_link_local_address_is_made_of_the_hardware_address() -> None:
    assert link_local(bytes.fromhex("0aa6c573a839")) == parse_address("fe80::8a6:c5ff:fe73:a839")
