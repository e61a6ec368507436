"""The dataplane with the rules of random clusters, on a real kernel: wherever it starts, a sync ends in the desired state."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import allow, block, cluster, pod, policy, port
from dataplanes import Recorder, agents_dataplane, assert_in_force, clear, command, settle, shell
from generators import clusters
from isolated import isolated
from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.runner import Done
from netpol_compiler.model.kinds import DIRECTIONS, FAMILIES, Direction, Family
from netpol_compiler.model.objects import Cluster, IPBlock, Port
from netpol_compiler.node import compile_node
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.ruleset.render import rule_text
from netpol_compiler.ruleset.values import HOOK_RULE, Ruleset
from search import searched

pytestmark = pytest.mark.kernel

both = pytest.mark.parametrize("kind", list(BackendKind), ids=lambda kind: kind.value)


def lowered(state: Cluster) -> Ruleset:
    return compile_node("n1", compile_cluster(state), state.pods.values()).ruleset


rulesets = clusters().map(lowered)


@both
@isolated
@searched(40)
@given(desired=rulesets)
def test_a_second_sync_of_the_same_state_writes_nothing(kind: BackendKind, desired: Ruleset) -> None:
    clear(kind)
    run = Recorder()
    plane = agents_dataplane(kind, run)
    plane.sync(desired)
    assert_in_force(kind, desired)
    started = len(run.started)
    assert not plane.sync(desired).changed
    assert len(run.started) == started
    # Nor does one that has to read first what is there.
    again = Recorder()
    assert not agents_dataplane(kind, again).sync(desired).changed
    assert not [name for name in again.names() if "restore" in name]


@both
@isolated
@searched(50)
@given(states=st.lists(rulesets, min_size=2, max_size=3))
def test_programming_one_state_after_another_is_programming_the_last(kind: BackendKind, states: list[Ruleset]) -> None:
    clear(kind)
    plane = agents_dataplane(kind)
    for desired in states:
        result = settle(plane, desired)
        assert (result.failures, result.pending) == ((), False)
        assert_in_force(kind, desired)


@both
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("ports", [(), (port(80),), (port(80), port(90, 95))], ids=["all", "one", "several"])
@pytest.mark.parametrize("block", [block("10.0.1.2/32"), block("10.0.0.0/8"), block("fd00::1:1/128")], ids=str)
@isolated
def test_a_rule_for_a_block_is_written_as_the_kernel_prints_it(
    kind: BackendKind, direction: Direction, ports: tuple[Port, ...], block: IPBlock
) -> None:
    """Otherwise every agent that starts again writes the chain anew. Found by a random cluster; the smallest was the first."""
    rule = [allow(block, ports=ports or None)]
    written = policy("a", "np", directions=[direction], **{direction.value: rule})
    desired = lowered(cluster(pod("a", "p", ["10.0.0.1", "fd00::1"]), written))
    agents_dataplane(kind).sync(desired)
    assert_in_force(kind, desired)


class Interrupted(Exception):
    """The process that programs ends here."""


def interrupted_after(steps: int) -> Recorder:
    def stop(started: int, _: Sequence[str]) -> None:
        if started == steps:
            raise Interrupted

    return Recorder(stop)


@both
@isolated
@searched(40)
@given(states=st.lists(rulesets, min_size=3, max_size=3), first=st.integers(0, 6), second=st.integers(0, 6))
def test_from_whatever_two_interrupted_syncs_leave_a_sync_converges(
    kind: BackendKind, states: list[Ruleset], first: int, second: int
) -> None:
    """Here the sets are written by the program, so that each of its runs can be the last."""
    clear(kind)
    for desired, steps in zip(states, (first, second), strict=False):
        plane = agents_dataplane(kind, interrupted_after(steps + 3))  # the first three read what is there
        plane.ipsets._kernel = None
        with contextlib.suppress(Interrupted):
            plane.sync(desired)
    result = settle(agents_dataplane(kind), states[2])
    assert (result.failures, result.pending) == ((), False)
    assert_in_force(kind, states[2])


harms = st.lists(st.tuples(st.sampled_from(FAMILIES), st.integers(0, 9), st.integers(0, 40)), max_size=5)


def harm(kind: BackendKind, family: Family, what: int, which: int, ruleset: Ruleset) -> None:
    """Change something of ours in the kernel behind the agent's back."""
    tool = command(kind, family)
    chains, sets = sorted(ruleset.chains.get(family, ())), sorted(n for n, s in ruleset.sets.items() if s.family is family)
    chain, ipset = (names[which % len(names)] if names else "" for names in (chains, sets))
    member = next(iter(sorted(ruleset.sets[ipset].members)), "") if ipset else ""
    does = [
        f"{tool} -F {chain}" if chain else "",
        f"{tool} -A {chain} -s 192.0.2.77 -j ACCEPT" if chain and family is Family.V4 else "",
        f"{tool} -D {chain} 1" if ruleset.chains.get(family, {}).get(chain) else "",
        f"{tool} -D FORWARD {rule_text(HOOK_RULE)}" if chain else "",
        f"{tool} -I FORWARD {rule_text(HOOK_RULE)}" if chain else "",
        f"{tool} -I FORWARD -j ACCEPT",
        f"{tool} -N npc-stale{which}; {tool} -A npc-stale{which} -j DROP",
        f"ipset flush {ipset}" if ipset else "",
        f"ipset del {ipset} '{member.removesuffix(' nomatch')}'" if member else "",
        f"ipset create npc{int(family)}-stale{which} hash:net family inet{6 if family is Family.V6 else ''}",
    ]
    shell(f"{{ {does[what % len(does)] or ':'}; }} || true")


@both
@isolated
@searched(50)
@given(was=rulesets, desired=rulesets, harms=harms)
def test_from_whatever_others_did_to_our_rules_a_sync_converges(
    kind: BackendKind, was: Ruleset, desired: Ruleset, harms: list[tuple[Family, int, int]]
) -> None:
    clear(kind)
    agents_dataplane(kind).sync(was)
    for family, what, which in harms:
        harm(kind, family, what, which, was)
    result = settle(agents_dataplane(kind), desired)
    assert (result.failures, result.pending) == ((), False)
    assert_in_force(kind, desired)


class Refused(Recorder):
    """The kernel takes nothing from some starts on, until it is well again."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self._bad = range(first, last)

    def __call__(self, command: Sequence[str], text: str = "") -> Done:
        if len(self.started) in self._bad:
            self.started.append((command[0], text))
            return Done(-1, "", "out of memory, says the test")
        return super().__call__(command, text)


@both
@isolated
@searched(30)
@given(states=st.lists(rulesets, min_size=2, max_size=2), first=st.integers(0, 8), many=st.integers(1, 4))
def test_after_starts_that_failed_the_next_look_at_all_converges(
    kind: BackendKind, states: list[Ruleset], first: int, many: int
) -> None:
    clear(kind)
    plane = agents_dataplane(kind, Refused(first, first + many))
    for _ in range(many + 2):
        for desired in states:
            plane.sync(desired)
    result = settle(plane, states[1])
    assert (result.failures, result.pending) == ((), False)
    assert_in_force(kind, states[1])
