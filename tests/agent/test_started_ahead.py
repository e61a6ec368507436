"""Programs whose next process is started before there is work for it: they act on the kernel as it is when the work comes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dataplanes import assert_in_force, dataplane, ruleset, saved, shell, with_chain
from isolated import isolated
from netpol_agent.dataplane.backend import STARTED_AHEAD, BackendKind
from netpol_agent.dataplane.runner import Processes
from netpol_compiler.model.kinds import FAMILIES

CAT = ["/bin/cat"]


@pytest.fixture
def run() -> Iterator[Processes]:
    with closing(Processes(ahead=frozenset({"cat"}))) as made:
        yield made


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()}


def test_the_next_process_waits_when_the_first_has_ended_and_does_the_next_piece_of_work(run: Processes) -> None:
    before = children()
    assert run(CAT, "one").out == "one"
    (waiting,) = children() - before
    assert run(CAT, "two").out == "two"
    assert waiting not in children()


def test_only_the_programs_that_were_named_are_started_ahead(run: Processes) -> None:
    before = children()
    assert run(["/bin/echo", "hello"]).out == "hello\n"
    assert children() == before


def test_one_that_died_while_it_waited_is_replaced(run: Processes) -> None:
    before = children()
    run(CAT)
    (waiting,) = children() - before
    os.kill(waiting, signal.SIGKILL)
    os.waitid(os.P_PID, waiting, os.WEXITED | os.WNOWAIT)
    assert run(CAT, "two").out == "two"


def test_closing_leaves_no_process() -> None:
    before = children()
    with closing(Processes(ahead=frozenset({"cat"}))) as run:
        run(CAT)
        assert children() - before
    assert children() == before


def test_a_program_that_is_not_there_is_a_failure_in_words_each_time(run: Processes) -> None:
    for _ in range(2):
        done = run(["/nowhere/cat"], "one")
        assert (done.code, done.err) == (-1, "/nowhere/cat: No such file or directory")


def test_what_waits_ends_with_its_starter_even_when_that_is_killed() -> None:
    program = (
        "import os, pathlib, sys; from netpol_agent.dataplane.runner import Processes\n"
        f"run = Processes(ahead=frozenset({{'cat'}})); run({CAT!r})\n"
        "print(pathlib.Path(f'/proc/self/task/{os.getpid()}/children').read_text(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        waiting = os.pidfd_open(int(starter.stdout.readline()))
        assert select.select([waiting], [], [], 0)[0] == []
        starter.kill()
        assert select.select([waiting], [], [], 10)[0] == [waiting]
    os.close(waiting)


@pytest.mark.kernel
@isolated
def test_a_restore_that_waited_sees_what_others_changed_meanwhile() -> None:
    kind = BackendKind.NFT
    with closing(Processes(ahead=STARTED_AHEAD)) as run:
        plane = dataplane(kind, run)
        assert plane.sync(ruleset()).failures == ()
        # Between the start of the waiting restore and its work: somebody else's chain and rule.
        shell("iptables-nft -N OTHER && iptables-nft -A OTHER -j ACCEPT && iptables-nft -I FORWARD 2 -j OTHER")
        changed = with_chain(ruleset(), "npc-bi-a", ("-j DROP",))
        assert plane.sync(changed).failures == ()
    assert_in_force(kind, changed)
    assert "-A OTHER -j ACCEPT" in saved(kind, FAMILIES[0])
