"""`npctl diff`: the connections that files would open or shut, as text or data. Exits with 0 when none, 1 when some.

live cluster, or --base files --> State now --change--> State then
both --diff--> Differences --> rows: one for many pods in a table, one for each pair of pods in -o wide, json and yaml
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.objects import Pod
from npctl.answers.diff import Comparison, Difference, deciding
from npctl.answers.probes import side_data
from npctl.endpoints import port_spans
from npctl.endpoints.equivalence_classes import Group, Likeness, connection
from npctl.errors import ExitCode, usage
from npctl.inputs.change import Change, changed
from npctl.inputs.files import read
from npctl.inputs.origin import Origin, open_origin
from npctl.inputs.state import State
from npctl.output import Cell, Colour, Format, emit, hint, say, table

_FEW = 3  # names in one cell of a table
_HEAD = ["FROM", "TO", "PORT", "NOW", "THEN", "BY"]


@dataclass(frozen=True, slots=True)
class _End:
    """One end of one connection: a pod, or a part of the world outside."""

    label: str
    address: Address


def run(files: list[str], origin: Origin, delete: bool, output: Format) -> None:
    """Print what `files` would change in the state that `origin` names."""
    if not files:
        raise usage("which change?", "name its files with -f PATH: what `kubectl apply -f` would get")
    documents = list(read(files).current.values())
    now, namespace, _, live = open_origin(origin)
    then, changes = changed(now, documents, delete, namespace, live.metadata if live is not None else {})
    comparison = Comparison(now, then)
    found = list(comparison.differences())
    if output.is_data:
        emit(_data(changes, found, (now, then)), output)
    elif not changes:
        say("nothing in these files is looked at: diff reads NetworkPolicies, and the labels of Namespaces and Pods")
    else:
        _show(changes, found, comparison.likeness, (now, then), output is Format.WIDE)
    if found:
        raise SystemExit(int(ExitCode.NEGATIVE))


# -- data ----------------------------------------------------------------------------------------------


def _data(changes: list[Change], found: list[Difference], states: tuple[State, State]) -> dict[str, Any]:
    rows = [_row_data(d, a, b, states) for d in found for a, b in _pairs(d)]
    rows.sort(key=lambda r: (r["from"], r["to"], r["port"]))
    opened = sum(r["then"] for r in rows)
    return {
        "changes": [c.data for c in changes],
        "connections": rows,
        "summary": {"opened": opened, "shut": len(rows) - opened},
    }


def _row_data(difference: Difference, a: _End, b: _End, states: tuple[State, State]) -> dict[str, Any]:
    wanted = connection(a.address, b.address, port_spans.port_of(difference.ports[0]))
    now, then = (s.judge.judge(wanted) for s in states)
    sides = deciding(now, then)
    return {
        "from": a.label,
        "to": b.label,
        "source": a.address.text,
        "destination": b.address.text,
        "port": difference.port_words,
        "ports": port_spans.data(difference.ports, difference.every),
        "now": now.allowed,
        "then": then.allowed,
        "decidedNow": side_data(sides[0]),
        "decidedThen": side_data(sides[1]),
    }


def _pairs(difference: Difference) -> Iterator[tuple[_End, _End]]:
    """Each source towards each target, in the difference's family; not a pod towards itself."""
    for a in _ends(difference.source, difference.version):
        for b in _ends(difference.target, difference.version):
            if a.label != b.label:
                yield a, b


def _ends(group: Group, version: int) -> Iterator[_End]:
    for part in group.parts:
        yield _End(part.label, part.address)
    for pod in group.pods:
        yield _End(str(pod.key), next(a for a in pod.addresses if a.version == version))


# -- tables --------------------------------------------------------------------------------------------


def _show(changes: list[Change], found: list[Difference], likeness: Likeness, states: tuple[State, State], wide: bool) -> None:
    for change in changes:
        say(change.words)
    if not found:
        say("No connection would be opened or shut.")
        return
    say()
    rows = _wide_rows(found) if wide else _rows(found, likeness, states[0])
    for line in table([*_HEAD, "NOW BY"] if wide else _HEAD, rows):
        say(line)
    counts = {True: 0, False: 0}
    for difference in found:
        counts[difference.opened] += sum(1 for _ in _pairs(difference))
    say()
    say(f"{counts[True]} would be opened, {counts[False]} shut, pod by pod (each part of the world outside counts as one)")
    if not wide and len(rows) < sum(counts.values()):
        hint("-o wide lists every pod")


def _verdict(allowed: bool) -> Cell:
    return ("allowed", Colour.GREEN) if allowed else ("refused", Colour.RED)


def _wide_rows(found: list[Difference]) -> list[list[Cell]]:
    rows = [(a.label, b.label, d) for d in found for a, b in _pairs(d)]
    return [
        [a, b, _port(d), _verdict(d.now.allowed), _verdict(d.then.allowed), d.by[1], d.by[0]]
        for a, b, d in sorted(rows, key=lambda r: (r[0], r[1], _port(r[2])))
    ]


def _port(difference: Difference) -> str:
    return difference.port_words + ("" if difference.both_families else f" (IPv{difference.version})")


def _rows(found: list[Difference], likeness: Likeness, state: State) -> list[list[Cell]]:
    """Sources that fare alike towards a target share a row, and then targets that fare alike with the same sources."""
    sources: dict[tuple[str, bool, str], dict[int, list[Group]]] = defaultdict(lambda: defaultdict(list))
    groups: dict[int, Group] = {}
    for d in found:
        key = (_port(d), d.now.allowed, d.by[1])
        sources[key][id(d.target)].append(d.source)
        groups[id(d.target)] = d.target
    rows: list[list[Cell]] = []
    for (port, allowed, by), targets in sources.items():
        alike: dict[frozenset[int], list[int]] = defaultdict(list)
        for target, those in targets.items():
            # A pod always reaches itself, so its own group is missing where it is alone: that is no difference to people.
            alone = {target} if len(groups[target].pods) == 1 else set()
            alike[frozenset({id(g) for g in those} | alone)].append(target)
            groups.update({id(g): g for g in those})
        for names, those_targets in alike.items():
            shown = [g for n in names if (g := groups.get(n)) and any(g in targets[t] for t in those_targets)]
            goal = [groups[t] for t in those_targets]
            who = (_words(shown, likeness, state, goal), _words(goal, likeness, state, []))
            rows.append([*who, port, _verdict(allowed), _verdict(not allowed), by])
    return sorted(rows, key=lambda r: [c if isinstance(c, str) else c[0] for c in r])


def _words(groups: list[Group], likeness: Likeness, state: State, spared: list[Group]) -> str:
    """Many ends in few words. `spared`: groups that may be missing because they are the other end."""
    here = {id(g) for g in groups} | {id(g) for g in spared if len(g.pods) == 1}
    all_pods = all(id(g) in here for g in likeness.groups)
    all_outside = bool(likeness.outside) and all(id(g) in here for g in likeness.outside)
    if all_pods and all_outside:
        return "everybody"
    pods = [p for g in groups for p in g.pods]
    names = ["all pods"] if all_pods and pods else list(_pod_words(pods, state))
    names += ["anywhere outside"] if all_outside else [p.label for g in groups for p in g.parts]
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _pod_words(pods: Iterable[Pod], state: State) -> Iterator[str]:
    """Whole namespaces, whole workloads, then pods by name."""
    by_namespace: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        by_namespace[pod.key.namespace].append(pod)
    whole: dict[str, int] = defaultdict(int)
    for pod in set(state.holders.values()):
        whole[pod.key.namespace] += 1
    for namespace, those in sorted(by_namespace.items()):
        if len(those) == whole[namespace] > 1:
            yield f"all {len(those)} pods of {namespace}"
            continue
        owned: dict[str, list[Pod]] = defaultdict(list)
        for pod in those:
            kind, name = state.owners.get(pod.key, ("", pod.key.name))
            owned[f"{namespace}/{name}" if not kind else f"{kind.lower()} {namespace}/{name}"].append(pod)
        for name, replicas in sorted(owned.items()):
            yield str(replicas[0].key) if len(replicas) == 1 else f"{name} ({len(replicas)} pods)"
