"""The dataplane against a real kernel, in namespaces of its own: what a sync promises, on both backends and families."""

from __future__ import annotations

import fcntl
import subprocess

import pytest

from dataplanes import (
    Recorder,
    Refusing,
    assert_in_force,
    chain_touched,
    command,
    dataplane,
    dataplane_killed_after,
    members,
    rules,
    ruleset,
    saved,
    set_name,
    settle,
    shell,
    with_chain,
)
from isolated import isolated
from netpol_agent.dataplane import backend as backend_module
from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.cleanup import run_cleanup
from netpol_agent.dataplane.verify import Verifier
from netpol_compiler.model.kinds import FAMILIES, Family
from netpol_compiler.ruleset.values import IPSet, Ruleset, Touched

pytestmark = pytest.mark.kernel
both = pytest.mark.parametrize("kind", list(BackendKind), ids=lambda kind: kind.value)


@both
@isolated
def test_programs_an_empty_kernel_and_leaves_it_as_desired(kind: BackendKind) -> None:
    result = dataplane(kind).sync(ruleset())
    assert (result.changed, result.failures, result.pending) == (True, (), False)
    assert_in_force(kind, ruleset())


@both
@isolated
def test_no_change_starts_no_process(kind: BackendKind) -> None:
    run = Recorder()
    plane = dataplane(kind, run)
    plane.sync(ruleset())
    before = len(run.started)
    result = plane.sync(ruleset(), Touched())
    assert not result.changed
    result = plane.sync(ruleset(), None)
    assert not result.changed
    assert len(run.started) == before


@both
@isolated
def test_a_restart_over_an_unchanged_kernel_writes_nothing(kind: BackendKind) -> None:
    dataplane(kind).sync(ruleset())
    run = Recorder()
    result = dataplane(kind, run).sync(ruleset())
    assert not result.changed
    assert not any("restore" in name for name in run.names())


@both
@isolated
def test_one_changed_chain_is_one_restore_of_that_chain_only(kind: BackendKind) -> None:
    run = Recorder()
    plane = dataplane(kind, run)
    plane.sync(ruleset(pods=("a", "b")))
    before = len(run.started)
    changed = with_chain(ruleset(pods=("a", "b")), "npc-bi-b", ("-p tcp -m tcp --dport 80 -g npc-allow",))
    plane.sync(changed, chain_touched("npc-bi-b"))
    started = run.started[before:]
    assert sorted(name for name, _ in started) == sorted(f"{command(kind, f)}-restore" for f in FAMILIES)
    for _, text in started:
        assert text.splitlines() == [
            "*filter", ":npc-bi-b - [0:0]", "-A npc-bi-b -p tcp -m tcp --dport 80 -g npc-allow", "COMMIT",
        ]  # fmt: skip
    assert_in_force(kind, changed)


@isolated
def test_a_member_change_writes_only_that_member_and_no_chain() -> None:
    run = Recorder()
    plane = dataplane(BackendKind.NFT, run)
    plane.sync(ruleset(hosts=(1, 2)))
    before = len(run.started)
    result = plane.sync(ruleset(hosts=(2, 3)), Touched(sets=frozenset(ruleset().sets)))
    assert run.started[before:] == [
        ("ipset", f"add {set_name('peers', Family.V4)} 10.0.0.3 -exist\nadd {set_name('peers', Family.V6)} fd00::3 -exist\n"),
        ("ipset", f"del {set_name('peers', Family.V4)} 10.0.0.1 -exist\ndel {set_name('peers', Family.V6)} fd00::1 -exist\n"),
    ]
    assert result.tightened
    assert_in_force(BackendKind.NFT, ruleset(hosts=(2, 3)))


@isolated
def test_other_rules_may_tighten() -> None:
    plane = dataplane(BackendKind.NFT)
    plane.sync(ruleset())
    changed = with_chain(ruleset(), "npc-bi-a", ("-p tcp -m tcp --dport 80 -g npc-allow",))
    assert plane.sync(changed, chain_touched("npc-bi-a")).tightened


@isolated
def test_only_adding_members_does_not_tighten() -> None:
    plane = dataplane(BackendKind.NFT)
    plane.sync(ruleset(hosts=(1,)))
    assert not plane.sync(ruleset(hosts=(1, 2)), Touched(sets=frozenset(ruleset().sets))).tightened


@both
@isolated
def test_order_is_sets_then_chains_then_removals(kind: BackendKind) -> None:
    run = Recorder()
    plane = dataplane(kind, run)
    plane.sync(ruleset(sets=("old",)))
    before = len(run.started)
    plane.sync(ruleset(sets=("new",)))
    first, *chains, last = run.started[before:]
    assert first[0] == last[0] == "ipset"
    assert all(line.startswith(("create", "add")) for line in first[1].splitlines())
    assert all(line.startswith("destroy") for line in last[1].splitlines())
    assert sorted(name for name, _ in chains) == sorted(f"{command(kind, f)}-restore" for f in FAMILIES)


@both
@isolated
def test_stale_chains_and_sets_of_ours_are_removed(kind: BackendKind) -> None:
    dataplane(kind).sync(ruleset(pods=("a", "gone"), sets=("peers", "gone")))
    dataplane(kind).sync(ruleset())
    assert_in_force(kind, ruleset())


@both
@pytest.mark.parametrize("steps", range(8))
@isolated
def test_killed_before_any_step_then_started_again_converges(kind: BackendKind, steps: int) -> None:
    dataplane(kind).sync(ruleset(hosts=(1, 2), pods=("a", "old"), sets=("peers", "old")))
    desired = ruleset(hosts=(2, 3), pods=("a", "new"), sets=("peers", "new"))
    dataplane_killed_after(kind, steps, desired)
    result = dataplane(kind).sync(desired)
    assert result.failures == ()
    assert_in_force(kind, desired)


@both
@isolated
def test_a_half_programmed_kernel_converges(kind: BackendKind) -> None:
    dataplane(kind).sync(ruleset(pods=("a", "b")))
    shell(f"{command(kind)} -F npc-pi-a; {command(kind)} -D FORWARD -j npc-forward; {command(kind)} -A FORWARD -j npc-forward")
    shell(f"{command(kind)} -A FORWARD -j npc-forward; {command(kind)} -N npc-stale; {command(kind)} -A npc-bi-b -j npc-stale")
    shell(f"ipset flush {set_name('peers', Family.V6)}; ipset create npc4-n1-stale hash:net")
    dataplane(kind).sync(ruleset(pods=("a", "b")))
    assert_in_force(kind, ruleset(pods=("a", "b")))


@both
@isolated
def test_foreign_rules_and_sets_stay_byte_identical_through_syncs_and_cleanup(kind: BackendKind) -> None:
    for family in FAMILIES:
        tool = command(kind, family)
        shell(
            f"{tool} -N KUBE-FORWARD; {tool} -A FORWARD -j KUBE-FORWARD; {tool} -A KUBE-FORWARD -m mark --mark 0x4000 -j ACCEPT"
        )
        shell(f"{tool} -N npcx; {tool} -P FORWARD DROP; {tool} -A INPUT -p tcp --dport 22 -m comment --comment 'a  b' -j ACCEPT")
    shell("ipset create foreign hash:ip; ipset add foreign 192.0.2.1; ipset create npc-mine list:set; ipset add npc-mine foreign")
    before = ([saved(kind, f) for f in FAMILIES], shell("ipset save"))
    plane = dataplane(kind)
    for number in range(20):
        plane.sync(ruleset(hosts=range(1, 2 + number % 5), pods=("a", f"p{number}")))
    for family, lines in zip(FAMILIES, before[0], strict=True):
        now = [x for x in saved(kind, family) if "npc-" not in x]
        assert now == lines
    removed = run_cleanup()
    assert removed.failures == []
    assert ([saved(kind, f) for f in FAMILIES], shell("ipset save")) == before


@both
@isolated
def test_a_rule_that_the_kernel_refuses_is_isolated_and_the_rest_converges(kind: BackendKind) -> None:
    plane = dataplane(kind)
    plane.sync(ruleset(pods=("a", "b")))
    # The program takes this; only the kernel says no (the target lives in another table).
    bad = with_chain(ruleset(pods=("a", "b", "c")), "npc-bi-b", ("-p tcp -m tcp --dport 1 -g npc-allow", "-j NOTRACK"))
    worse = with_chain(bad, "npc-bi-c", ("-j NOTRACK",))
    desired = with_chain(worse, "npc-bi-a", ("-p udp -m udp --dport 53 -g npc-allow",))
    result = plane.sync(desired)
    assert {f.what.split(" ")[1] for f in result.failures} == {"npc-bi-b", "npc-bi-c"}
    assert result.pending
    for family in FAMILIES:
        chains = plane.tables[family].read().chains
        assert chains["npc-bi-a"] == rules("-p udp -m udp --dport 53 -g npc-allow")
        assert chains["npc-bi-b"] == ruleset().chains[family]["npc-bi-a"], "the last good rules stay"
        assert chains["npc-bi-c"] == rules("-j DROP"), "without last good rules it is closed"
        assert "npc-trial" not in chains
    result = plane.sync(ruleset(pods=("a", "b", "c")))
    assert (result.failures, result.pending) == ((), False)
    assert_in_force(kind, ruleset(pods=("a", "b", "c")))


@both
@isolated
def test_a_rule_that_the_program_refuses_is_isolated(kind: BackendKind) -> None:
    plane = dataplane(kind)
    result = plane.sync(with_chain(ruleset(pods=("a", "b")), "npc-bi-b", ("--no-such-option -j DROP",)))
    assert [f.text for f in result.failures] == ["-A npc-bi-b --no-such-option -j DROP"] * 2
    assert plane.tables[Family.V4].read().chains["npc-bi-a"] == ruleset().chains[Family.V4]["npc-bi-a"]


@both
@isolated
def test_a_member_that_ipset_refuses_is_isolated_and_the_rest_converges(kind: BackendKind) -> None:
    good, name = ruleset(), set_name("peers", Family.V4)
    bad = IPSet(name, "hash:net", Family.V4, members(Family.V4, 1, 2, 3) | {"not-an-address"})
    plane = dataplane(kind)
    result = plane.sync(Ruleset(good.chains, {**good.sets, name: bad}))
    assert [f.what for f in result.failures] == [f"set {name}"]
    assert "not-an-address" in result.failures[0].text
    assert plane.ipsets.read()[name].members == members(Family.V4, 1, 2, 3)
    assert plane.sync(good).failures == ()
    assert_in_force(kind, good)


@isolated
def test_rules_of_a_set_that_refused_an_exception_are_closed_because_the_set_is_too_wide() -> None:
    good, name = ruleset(), set_name("peers", Family.V4)
    wide = IPSet(name, "hash:net", Family.V4, frozenset({"10.0.0.0/8", "not-an-address nomatch"}))
    plane = dataplane(BackendKind.NFT)
    result = plane.sync(Ruleset(good.chains, {**good.sets, name: wide}))
    assert {f.what for f in result.failures} == {f"set {name}", "chain npc-bi-a (IPv4)"}
    assert plane.tables[Family.V4].read().chains["npc-bi-a"] == rules("-j DROP")


@both
@isolated
def test_a_set_of_another_type_is_reported_and_its_rules_are_closed(kind: BackendKind) -> None:
    name = set_name("peers", Family.V4)
    shell(f"ipset create {name} hash:ip,port")
    plane = dataplane(kind)
    result = plane.sync(ruleset(pods=("a",)))
    assert {f.what for f in result.failures} == {f"set {name}", "chain npc-bi-a (IPv4)"}
    assert plane.tables[Family.V4].read().chains["npc-bi-a"] == rules("-j DROP")
    assert plane.tables[Family.V6].read().chains["npc-bi-a"] == ruleset().chains[Family.V6]["npc-bi-a"]


@both
@pytest.mark.parametrize("program", ["ipset", "restore"])
@isolated
def test_what_could_not_be_written_and_is_not_wanted_any_more_is_not_pending(kind: BackendKind, program: str) -> None:
    """Found by random failures: a look at all passed over names that are neither there nor wanted, and they waited for ever."""
    run = Refusing()
    plane = dataplane(kind, run)
    plane.sync(ruleset())
    run.refused = program
    assert plane.sync(ruleset(pods=("a", "b"), sets=("peers", "new"))).pending
    run.refused = ""
    result = settle(plane, ruleset())
    assert (result.failures, result.pending) == ((), False)
    assert_in_force(kind, ruleset())


@both
@isolated
def test_a_member_that_stays_because_its_family_failed_is_deleted_later(kind: BackendKind) -> None:
    run = Refusing()
    plane = dataplane(kind, run)
    plane.sync(ruleset(hosts=(1, 2)))
    run.refused = f"{command(kind)}-restore"
    desired = ruleset(hosts=(1,), pods=("b",))
    assert plane.sync(desired).pending
    assert plane.ipsets.read()[set_name("peers", Family.V6)].members == members(Family.V6, 1)
    run.refused = ""
    assert not settle(plane, desired).pending
    assert_in_force(kind, desired)


@isolated
def test_what_failed_is_tried_again_when_its_time_comes() -> None:
    now = [0.0]
    plane = dataplane(BackendKind.NFT, clock=lambda: now[0])
    name = set_name("peers", Family.V4)
    shell(f"ipset create {name} hash:ip,port")
    plane.sync(ruleset())
    assert plane.retry_at is not None and plane.retry_at > 0
    shell(f"ipset destroy {name}")
    assert plane.sync(ruleset(), Touched()).pending, "not yet"
    now[0] = plane.retry_at
    result = plane.sync(ruleset(), Touched())
    assert (result.failures, result.pending, plane.retry_at) == ((), False, None)
    assert_in_force(BackendKind.NFT, ruleset())


@isolated
def test_a_set_that_a_foreign_rule_holds_is_removed_later() -> None:
    now = [0.0]
    plane = dataplane(BackendKind.NFT, clock=lambda: now[0])
    plane.sync(ruleset(sets=("peers", "old")))
    shell(f"iptables-nft -A INPUT -m set --match-set {set_name('old', Family.V4)} src -j RETURN")
    result = plane.sync(ruleset())
    assert (result.failures, result.pending, bool(plane.behind(ruleset()))) == ((), True, False)
    shell("iptables-nft -F INPUT")
    assert plane.retry_at is not None
    now[0] = plane.retry_at
    assert not plane.sync(ruleset(), Touched()).pending
    assert_in_force(BackendKind.NFT, ruleset())


@isolated
def test_a_lock_held_by_another_process_is_waited_for_then_reported_then_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "LOCK_SECONDS", 1)
    plane = dataplane(BackendKind.LEGACY)
    plane.sync(ruleset())
    with open("/run/xtables.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = plane.sync(ruleset(pods=("b",), sets=("new",)))
        assert {f.what for f in result.failures} == {"chains (IPv4)", "chains (IPv6)"}
        assert "xtables lock" in result.failures[0].error
        assert set_name("peers", Family.V4) in plane.ipsets.read(), "what the old rules need stays"
    result = plane.sync(ruleset(pods=("b",), sets=("new",)))
    assert (result.failures, result.pending) == ((), False)
    assert_in_force(BackendKind.LEGACY, ruleset(pods=("b",), sets=("new",)))


@isolated
def test_while_rules_cannot_be_written_their_sets_lose_no_member(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "LOCK_SECONDS", 1)
    now = [0.0]
    plane = dataplane(BackendKind.LEGACY, clock=lambda: now[0])
    plane.sync(ruleset(hosts=(1, 2)))
    desired = ruleset(hosts=(2, 3), pods=("b",))
    with open("/run/xtables.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert plane.sync(desired).pending
        assert plane.ipsets.read()[set_name("peers", Family.V4)].members == members(Family.V4, 1, 2, 3)
    assert plane.retry_at is not None
    now[0] = plane.retry_at
    plane.sync(desired, Touched())
    assert_in_force(BackendKind.LEGACY, desired)


@both
@isolated
def test_a_lock_held_for_a_moment_delays_and_nothing_fails(kind: BackendKind) -> None:
    plane = dataplane(kind)
    with subprocess.Popen(
        ["flock", "/run/xtables.lock", "sh", "-c", "echo held; exec sleep 0.3"], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert plane.sync(ruleset()).failures == ()
    assert_in_force(kind, ruleset())


@both
@pytest.mark.parametrize(
    "damage",
    [
        "{tool} -F",
        "{tool} -F; {tool} -X",
        "{tool} -F npc-ingress",
        "{tool} -I npc-bi-a -j ACCEPT",
        "{tool} -A npc-bi-a -j ACCEPT",
        "{tool} -R npc-bi-a 1 -m set --match-set npc4-n1-peers dst -g npc-allow",
        "{tool} -N npc-intruder",
        "{tool} -D FORWARD -j npc-forward",
        "{tool} -I FORWARD -j ACCEPT",
        "{tool} -A FORWARD -j npc-forward",
        "ipset flush npc4-n1-peers",
        "ipset add npc6-n1-peers fd00::99",
        "ipset create npc4-n1-intruder hash:net",
    ],
)
@isolated
def test_damage_is_seen_and_repaired(kind: BackendKind, damage: str) -> None:
    plane = dataplane(kind)
    plane.sync(ruleset())
    verifier = Verifier(plane)
    assert not verifier.check()
    shell(damage.format(tool=command(kind)))
    drift = verifier.check()
    assert drift
    plane.adopt(drift)
    assert plane.sync(ruleset(), drift.touched).failures == ()
    assert not verifier.check()
    shell(f"{command(kind)} -D FORWARD -j ACCEPT 2>/dev/null || true")
    assert_in_force(kind, ruleset())


@isolated
def test_a_displaced_hook_is_noticed_at_a_glance_on_nft() -> None:
    plane = dataplane(BackendKind.NFT)
    plane.sync(ruleset())
    verifier = Verifier(plane)
    verifier.note()
    assert not verifier.hook_lost()
    shell("iptables-nft -t nat -N SOMETHING")
    assert not verifier.hook_lost()
    shell("iptables-nft -I FORWARD -j ACCEPT")
    assert verifier.hook_lost()


@both
@isolated
def test_rules_that_iptables_prints_differently_are_not_taken_for_damage(kind: BackendKind) -> None:
    log = '-m limit --limit 10/second --limit-burst 20 -j NFLOG --nflog-group 100 --nflog-prefix "npc a b"'
    desired = ruleset(extra=(log,))
    plane = dataplane(kind)
    plane.sync(desired)
    verifier = Verifier(plane)
    assert not verifier.check()
    shell(f"{command(kind)} -R npc-bi-a 2 -m limit --limit 11/second -j NFLOG --nflog-group 100 --nflog-prefix 'npc a b'")
    assert verifier.check()


@isolated
def test_a_transaction_too_long_for_one_message_is_written_in_parts() -> None:
    texts = tuple(f'-p tcp -m tcp --dport {port} -m comment --comment "{"x " * 100}x" -g npc-allow' for port in range(1, 1500))
    desired = with_chain(ruleset(pods=("a", "b")), "npc-bi-b", texts)
    plane = dataplane(BackendKind.NFT)
    assert plane.sync(desired).failures == ()
    assert_in_force(BackendKind.NFT, desired)
    assert plane.sync(ruleset()).failures == ()
    assert_in_force(BackendKind.NFT, ruleset())


@isolated
def test_members_and_exceptions_trade_places_without_loss() -> None:
    chains, name = ruleset().chains, set_name("peers", Family.V4)

    def state(*texts: str) -> Ruleset:
        return Ruleset(chains, {**ruleset().sets, name: IPSet(name, "hash:net", Family.V4, frozenset(texts))})

    plane = dataplane(BackendKind.NFT)
    for texts in (("10.0.0.0/8", "10.1.0.0/16 nomatch"), ("10.0.0.0/8 nomatch", "10.1.0.0/16"), ("10.1.0.0/16 nomatch",), ()):
        assert plane.sync(state(*texts)).failures == ()
        assert_in_force(BackendKind.NFT, state(*texts))
