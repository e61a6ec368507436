"""What an agent costs while nothing changes: it still looks, and finds every change, but reads only what may differ."""

from __future__ import annotations

import pytest

from dataplanes import Recorder, command, dataplane, ruleset, shell
from isolated import isolated
from netpol_agent.dataplane.backend import BackendKind
from netpol_agent.dataplane.verify import Verifier

pytestmark = pytest.mark.kernel


@isolated
def test_on_nft_a_look_at_unchanged_tables_starts_one_process_for_the_sets() -> None:
    run = Recorder()
    plane = dataplane(BackendKind.NFT, run)
    plane.sync(ruleset())
    verifier = Verifier(plane)
    verifier.note()
    assert not verifier.check()
    run.started.clear()
    assert not verifier.check()
    assert run.names() == ["ipset"]


@isolated
def test_what_somebody_commits_right_after_our_own_write_is_found() -> None:
    plane = dataplane(BackendKind.NFT)
    plane.sync(ruleset())
    shell("iptables-nft -F npc-bi-a")
    verifier = Verifier(plane)
    verifier.note()
    assert verifier.check()


@pytest.mark.parametrize("kind", list(BackendKind), ids=lambda kind: kind.value)
@isolated
def test_sets_are_compared_anew_after_either_side_changed(kind: BackendKind) -> None:
    plane = dataplane(kind)
    plane.sync(ruleset(hosts=(1, 2)))
    verifier = Verifier(plane)
    verifier.note()
    assert not verifier.check()
    shell("ipset del npc4-n1-peers 10.0.0.1; ipset add npc4-n1-peers 10.0.0.7")
    drift = verifier.check()
    assert set(drift.sets) == {"npc4-n1-peers"}
    assert verifier.check().sets == drift.sets, "not believed until it is repaired"
    shell("ipset del npc4-n1-peers 10.0.0.7; ipset add npc4-n1-peers 10.0.0.1")
    assert not verifier.check()
    plane.sets = {}
    assert verifier.check(), "the same text, but not what we wrote"


@isolated
def test_foreign_commits_make_it_read_the_tables_again_once() -> None:
    run = Recorder()
    plane = dataplane(BackendKind.NFT, run)
    plane.sync(ruleset())
    verifier = Verifier(plane)
    verifier.note()
    verifier.check()
    shell(f"{command(BackendKind.NFT)} -t nat -N SOMEBODY")
    run.started.clear()
    assert not verifier.check()
    assert not verifier.check()
    assert run.names() == ["iptables-nft-save", "ip6tables-nft-save", "ipset", "ipset"]
