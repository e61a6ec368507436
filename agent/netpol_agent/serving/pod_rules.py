"""What this node's kernel holds for one pod, with packet counters, and where that differs from what was compiled: for
`npctl explain --rules`. Only reads.

In: a pod's name. Out: JSON values, or None when the pod is not on this node. The kernel is read in the asker's thread while the
agent works on; a difference counts only if nothing was compiled anew meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_agent.dataplane.backend import Backend
from netpol_agent.dataplane.ipsets import parse_save as parse_sets
from netpol_agent.dataplane.iptables import TableState
from netpol_agent.dataplane.iptables import parse_save as parse_table
from netpol_agent.dataplane.runner import Runner
from netpol_agent.errors import KernelError
from netpol_agent.loop import Agent
from netpol_compiler.model.kinds import DIRECTIONS, Family
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.node.pod_chains import pod_chain_name
from netpol_compiler.ruleset.reach import leading_to, matched_sets, reachable
from netpol_compiler.ruleset.render import rule_text
from netpol_compiler.ruleset.rules import Rules
from netpol_compiler.ruleset.values import FORWARD_CHAIN, IPSet, set_prefix

SCHEMA = 1
TRIES = 3
"""Readings at most while what is compiled keeps changing; the last one counts."""
ANSWER_SECONDS = 5.0
"""For which the agent's loop may be busy with a sync before the asker is told so."""
MOST = 100
"""Differences that are named at most."""

_COUNTED = re.compile(r"^\[(\d+):(\d+)\] (-A .*)$")


@dataclass(frozen=True, slots=True)
class Compiled:
    """What was compiled for a pod at one moment. `chains`: those that its own chains lead to; `ways`: those that lead to it."""

    pod: Pod
    backend: Backend
    in_sync: bool
    isolated: tuple[str, ...]
    chains: Mapping[Family, Mapping[str, Rules]]
    ways: Mapping[Family, Mapping[str, Rules]]
    sets: Mapping[str, IPSet]


def compiled_for(agent: Agent, key: Key) -> Compiled | None:
    """For the agent's thread. None: no such pod on this node."""
    pod, ruleset = agent.enforcement.compiler.pods.get(key), agent.enforcement.compiler.ruleset
    if pod is None:
        return None
    own = {d: pod_chain_name(key, d) for d in DIRECTIONS}
    chains, ways, names = {}, {}, set[str]()
    for family, every in ruleset.chains.items():
        down = reachable(every, own.values())
        chains[family] = {n: every[n] for n in down}
        roots = [n for n in own.values() if n in every]
        ways[family] = {n: every[n] for n in leading_to(every, roots)} if roots else {}
        names |= matched_sets(every, down)
    return Compiled(
        pod=pod,
        backend=agent.enforcement.dataplane.backend,
        in_sync=agent.report is not None and agent.report.in_sync,
        isolated=tuple(d.value for d in DIRECTIONS if any(own[d] in c for c in chains.values())),
        chains=chains,
        ways=ways,
        sets={n: ruleset.sets[n] for n in sorted(names & ruleset.sets.keys())},
    )


def pod_view(agent: Agent, node: str, key: Key, run: Runner) -> dict[str, Any] | None:
    """The answer for one pod. Raises KernelError when the kernel cannot be read, TimeoutError when the agent's loop is busy."""
    compiled = agent.requests.ask(lambda: compiled_for(agent, key)).result(ANSWER_SECONDS)
    for _ in range(TRIES):
        if compiled is None:
            return None
        kernel = _Kernel(compiled, run)
        again = agent.requests.ask(lambda: compiled_for(agent, key)).result(ANSWER_SECONDS)
        if again == compiled:
            break
        compiled = again
    if compiled is None:
        return None
    return _answer(node, compiled, kernel)


def _answer(node: str, compiled: Compiled, kernel: _Kernel) -> dict[str, Any]:
    differences = list(kernel.differences())
    left = len(differences) - MOST
    return {
        "schema": SCHEMA,
        "node": node,
        "pod": str(compiled.pod.key),
        "backend": compiled.backend.kind.value,
        "in_sync": compiled.in_sync and not differences,
        "isolated": list(compiled.isolated),
        "chains": {str(int(f)): kernel.counted(f) for f in compiled.chains if f in kernel.states},
        "sets": {n: {"type": s.type, "members": sorted(s.members)} for n, s in sorted(kernel.sets.items())},
        "differences": differences[:MOST] + ([f"and {left} more"] if left > 0 else []),
    }


class _Kernel:
    """The kernel read once, for one pod: chains of the families in which it has an address, and the sets that they match."""

    def __init__(self, compiled: Compiled, run: Runner) -> None:
        self._compiled = compiled
        self.states: dict[Family, TableState] = {}
        self._counters: dict[Family, dict[str, list[tuple[int, int]]]] = {}
        for family in compiled.chains:
            if any(a.version == int(family) for a in compiled.pod.addresses):
                done = run([compiled.backend.save[family], "-c", "-t", "filter"])
                if not done.ok:
                    raise KernelError(f"reading the IPv{int(family)} filter table: {done.words}")
                text, self._counters[family] = split_counters(done.out)
                self.states[family] = parse_table(text, done.err)
        done = run([compiled.backend.ipset, "save"])
        if not done.ok:
            raise KernelError(f"reading sets: {done.words}")
        known = parse_sets(done.out)
        self.sets = {n: known[n] for n in self._set_names() & known.keys()}

    def _names(self, family: Family) -> list[str]:
        """The pod's own chains and what they lead to in the kernel."""
        roots = [pod_chain_name(self._compiled.pod.key, d) for d in DIRECTIONS]
        return reachable(self.states[family].chains, roots)

    def _set_names(self) -> set[str]:
        found = set(self._compiled.sets)
        for family, state in self.states.items():
            found |= matched_sets(state.chains, self._names(family))
        return {n for n in found if n.startswith(tuple(map(set_prefix, self.states)))}

    def counted(self, family: Family) -> dict[str, list[dict[str, Any]]]:
        """The pod's chains with their counters."""
        state, counters = self.states[family], self._counters[family]
        return {
            name: [
                {"rule": rule_text(rule), "packets": packets, "bytes": count}
                for rule, (packets, count) in zip(state.chains[name], counters[name], strict=True)
            ]
            for name in self._names(family)
        }

    def differences(self) -> Iterable[str]:
        """Where the kernel is not as compiled, in words."""
        for family, state in self.states.items():
            compiled, ways, v = self._compiled.chains[family], self._compiled.ways[family], f"IPv{int(family)}"
            if ways and not state.hook_right:
                yield f"rule 1 of FORWARD does not lead to {FORWARD_CHAIN} ({v})"
            for name in (*sorted(ways), *compiled):
                yield from _chain_differences(f"chain {name} ({v})", {**ways, **compiled}[name], state.chains.get(name))
            for name in self._names(family):
                if name not in compiled:
                    yield f"chain {name} ({v}): leads on from this pod, and was not compiled"
            wanted = {n: s for n, s in self._compiled.sets.items() if s.family is family}
            for name, value in wanted.items():
                yield from _set_differences(value, self.sets.get(name))


def split_counters(text: str) -> tuple[str, dict[str, list[tuple[int, int]]]]:
    """What `iptables-save -c` printed, as it would be without -c, and (packets, bytes) of each rule by chain."""
    lines: list[str] = []
    counters: dict[str, list[tuple[int, int]]] = {}
    for line in text.splitlines():
        match = _COUNTED.match(line)
        if match:
            lines.append(match[3])
            counters.setdefault(match[3].split(" ", 2)[1], []).append((int(match[1]), int(match[2])))
            continue
        lines.append(line)
        if line.startswith(":"):
            counters.setdefault(line[1:].split(" ", 1)[0], [])
    return "\n".join(lines), counters


def _chain_differences(what: str, written: Rules, read: Rules | None) -> Iterable[str]:
    if read is None:
        yield f"{what}: is not in the kernel"
    elif len(written) != len(read):
        yield f"{what}: has {len(read)} rules where {len(written)} were compiled"
    else:
        for number, (ours, theirs) in enumerate(zip(written, read, strict=True), 1):
            if ours != theirs:
                yield f"{what}: rule {number} is {rule_text(theirs)!r} where {rule_text(ours)!r} was compiled"


def _set_differences(written: IPSet, read: IPSet | None) -> Iterable[str]:
    if read is None:
        yield f"set {written.name}: is not in the kernel"
        return
    if read.type != written.type:
        yield f"set {written.name}: is of type {read.type} where {written.type} was compiled"
    for member in sorted(written.members - read.members):
        yield f"set {written.name}: lacks {member}"
    for member in sorted(read.members - written.members):
        yield f"set {written.name}: has {member}, which was not compiled"
