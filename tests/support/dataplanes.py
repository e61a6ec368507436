"""For tests of the dataplane: small rulesets by hand, runners that count or misbehave, and the kernel read back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from netpol_agent.dataplane.backend import BackendKind, find_backend
from netpol_agent.dataplane.dataplane import Dataplane, SyncResult
from netpol_agent.dataplane.runner import Done, Processes
from netpol_agent.netlink.ipset import KernelSets
from netpol_compiler.model.kinds import FAMILIES, Family
from netpol_compiler.ruleset.reader import read_rule
from netpol_compiler.ruleset.rules import Rules
from netpol_compiler.ruleset.values import IPSet, Ruleset, Touched
from until import until

ADDRESSES = {Family.V4: "10.0.0.{}", Family.V6: "fd00::{}"}
LENGTH = {Family.V4: "/32", Family.V6: "/128"}


def set_name(stem: str, family: Family) -> str:
    return f"npc{int(family)}-n1-{stem}"


def members(family: Family, *hosts: int) -> frozenset[str]:
    return frozenset(ADDRESSES[family].format(h) for h in hosts)


def rules(*texts: str) -> Rules:
    return tuple(map(read_rule, texts))


def ruleset(
    hosts: Sequence[int] = (1, 2), pods: Sequence[str] = ("a",), extra: Sequence[str] = (), sets: Sequence[str] = ("peers",)
) -> Ruleset:
    """One body chain per pod that allows the members of each set; `extra` rules are in every body. Both families."""
    chains: dict[Family, dict[str, Rules]] = {}
    all_sets: dict[str, IPSet] = {}
    for family in FAMILIES:
        named = [set_name(stem, family) for stem in sets]
        for name in named:
            all_sets[name] = IPSet(name, "hash:net", family, members(family, *hosts))
        body = (*(f"-m set --match-set {name} src -g npc-allow" for name in named), *extra)
        written = {
            "npc-allow": ("-j MARK --set-xmark 0x40000/0x40000",),
            "npc-forward": ("-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN", "-j npc-ingress"),
            "npc-ingress": tuple(
                f"-d {ADDRESSES[family].format(100 + i)}{LENGTH[family]} -g npc-pi-{pod}" for i, pod in enumerate(pods)
            ),
            **{f"npc-pi-{pod}": (f"-j npc-bi-{pod}", "-m mark --mark 0x40000/0x40000 -j RETURN", "-j DROP") for pod in pods},
            **{f"npc-bi-{pod}": body for pod in pods},
        }
        chains[family] = {name: rules(*texts) for name, texts in written.items()}
    return Ruleset(chains, all_sets)


def with_chain(base: Ruleset, name: str, texts: Sequence[str]) -> Ruleset:
    """`base` with one chain of both families replaced."""
    return Ruleset({f: {**c, name: rules(*texts)} for f, c in base.chains.items()}, base.sets)


def chain_touched(*names: str) -> Touched:
    return Touched({f: frozenset(names) for f in FAMILIES})


class Recorder:
    """A real runner that remembers what was started. `before` may do something, or end the process, at each start."""

    def __init__(self, before: Callable[[int, Sequence[str]], None] | None = None) -> None:
        self.started: list[tuple[str, str]] = []
        self._before = before
        self._real = Processes()

    def __call__(self, command: Sequence[str], text: str = "") -> Done:
        if self._before:
            self._before(len(self.started), command)
        self.started.append((Path(command[0]).name, text))
        return self._real(command, text)

    def names(self) -> list[str]:
        return [name for name, _ in self.started]


class Refusing(Recorder):
    """A real runner, but programs whose name holds `refused` (if that is not empty) fail without doing anything."""

    refused = ""

    def __call__(self, command: Sequence[str], text: str = "") -> Done:
        if self.refused and self.refused in Path(command[0]).name:
            return Done(-1, "", "out of memory, says the test")
        return super().__call__(command, text)


def dataplane(kind: BackendKind, run: Callable[..., Done] | None = None, **more: object) -> Dataplane:
    return Dataplane(find_backend(kind), FAMILIES, run or Processes(), **more)  # type: ignore[arg-type]  # passes on a clock


@cache
def _kernel_sets() -> KernelSets:
    return KernelSets()


def agents_dataplane(kind: BackendKind, run: Callable[..., Done] | None = None) -> Dataplane:
    """As the agent makes it: sets go to the kernel over netlink. One link for all of them in a process."""
    return dataplane(kind, run, kernel_sets=_kernel_sets())


def clear(kind: BackendKind) -> None:
    """Empty filter tables and no sets, by no means of ours."""
    for family in FAMILIES:
        shell(f"printf '*filter\\nCOMMIT\\n' | {command(kind, family)}-restore")
    # nf_tables lets go of a removed rule's sets a moment after the transaction.
    destroy = lambda: subprocess.run(["ipset", "destroy"], capture_output=True, text=True, check=False)  # noqa: E731
    until(destroy, 10, "no sets", good=lambda done: not done.returncode, wait=lambda: None)


def settle(plane: Dataplane, desired: Ruleset) -> SyncResult:
    """Sync until nothing is pending: nf_tables lets go of a set a moment after its rules are gone."""
    limit = time.monotonic() + 10
    while (result := plane.sync(desired)).pending and time.monotonic() < limit:
        pass
    return result


def dataplane_killed_after(kind: BackendKind, steps: int, desired: Ruleset) -> None:
    """Sync in a process of its own that dies by SIGKILL instead of starting its program number `steps` (0-based)."""

    def die(started: int, _: Sequence[str]) -> None:
        if started == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        dataplane(kind, Recorder(die)).sync(desired)
        os._exit(0)
    os.waitpid(child, 0)


def shell(command: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def command(kind: BackendKind, family: Family = Family.V4) -> str:
    return f"{'iptables' if family is Family.V4 else 'ip6tables'}-{kind.value}"


def saved(kind: BackendKind, family: Family = Family.V4) -> list[str]:
    """The filter table without times and counters."""
    lines = shell(f"{command(kind, family)}-save -t filter").splitlines()
    return [line.split(" [")[0] for line in lines if not line.startswith("#")]


def assert_in_force(kind: BackendKind, desired: Ruleset) -> None:
    """The kernel holds exactly `desired`, read by a fresh reader, with the hook first."""
    fresh = dataplane(kind)
    fresh.load()
    assert not (found := _different(fresh.sets, desired.sets)), found
    for family in FAMILIES:
        state = fresh.tables[family].read()
        assert not (found := _different(state.chains, desired.chains[family])), found
        assert state.hook_right, state


def _different(there: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """(what is there, what should be) of every name for which these are not the same."""
    return {n: (there.get(n), wanted.get(n)) for n in there.keys() | wanted.keys() if there.get(n) != wanted.get(n)}
