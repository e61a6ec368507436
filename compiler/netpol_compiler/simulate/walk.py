"""A packet's way through the chains.

In: parsed tables and sets, and a packet. Out: the verdict, the mark, and each rule that matched on the way. Time is
linear in the rules tried. Chains cannot loop, because the parser refuses that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from netpol_compiler.simulate.errors import SimulateError
from netpol_compiler.simulate.packets import Conntrack, Packet
from netpol_compiler.simulate.rules import Target
from netpol_compiler.simulate.sets import Sets
from netpol_compiler.simulate.tables import BUILT_IN, Rule, Tables


class Step(NamedTuple):
    """One rule that matched: its chain, its 1-based number there, its text, its effect in a word or two, and the
    1-based line of the restore text that brought it.

    A built-in chain's policy is the last step where it decides: number 0, text "policy", line 0.
    """

    chain: str
    number: int
    text: str
    effect: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Walk:
    """`verdict` is "ACCEPT" or "DROP" (REJECT is a DROP that is said aloud: see the last step). `mark` is the mark
    at the end; `tried` counts the rules that were looked at, matching or not."""

    verdict: str
    path: tuple[Step, ...]
    mark: int
    tried: int

    @property
    def accepted(self) -> bool:
        return self.verdict == "ACCEPT"


def walk(tables: Tables, sets: Sets, packet: Packet, hook: str = "FORWARD") -> Walk:
    """Send `packet` through the built-in chain `hook`. Raises SimulateError, with the rule's line, for a missing
    set, one of the wrong family or type, and for what the packet does not tell."""
    if hook not in BUILT_IN:
        raise SimulateError(f"{hook!r} is no built-in chain")
    path: list[Step] = []
    callers: list[tuple[str, int]] = []  # where a RETURN goes: chain, index of the next rule there
    chain, index, tried = hook, 0, 0
    while True:
        rules = tables.chains.get(chain, ())
        target = Target("RETURN")  # a chain's end is a RETURN
        if index < len(rules):
            rule, tried = rules[index], tried + 1
            index += 1
            if not _matches(rule, packet, sets):
                continue
            target = rule.compiled.target
            path.append(Step(chain, index, rule.text, f"{target.kind} {target.chain}".strip() or "count", rule.line))
        if target.kind in ("ACCEPT", "DROP", "REJECT"):
            return Walk("ACCEPT" if target.kind == "ACCEPT" else "DROP", tuple(path), packet.mark, tried)
        if target.kind == "RETURN":
            if not callers:
                policy = tables.policies.get(hook, "ACCEPT")
                path.append(Step(hook, 0, "policy", policy))
                return Walk(policy, tuple(path), packet.mark, tried)
            chain, index = callers.pop()
        elif target.kind == "MARK":
            packet = packet.with_mark((packet.mark & ~target.mask) ^ target.value)
        elif target.kind in ("jump", "goto"):
            if target.kind == "jump":  # a goto leaves no place to come back to
                callers.append((chain, index))
            chain, index = target.chain, 0


def _matches(rule: Rule, packet: Packet, sets: Sets) -> bool:
    try:
        return all(match(packet, sets) for match in rule.compiled.matches)
    except SimulateError as error:
        raise SimulateError(error.reason, rule.line, rule.text) from error


def check_sets(tables: Tables, sets: Sets) -> None:
    """Raise SimulateError when a rule anywhere asks a set that does not exist: the kernel refuses such rules."""
    missing = sorted(tables.set_names - set(sets))
    if missing:
        raise SimulateError(f"there is no set {', '.join(missing)}")


def send(tables: Tables, sets: Sets, packet: Packet, conntrack: Conntrack, hook: str = "FORWARD") -> Walk:
    """`walk` with the state that `conntrack` gives the packet, and tell it when the packet passes."""
    known = conntrack.classify(packet)
    result = walk(tables, sets, known, hook)
    if result.accepted:
        conntrack.mark_passed(known)
    return result
