"""The filter table from iptables-restore or iptables-save text.

In: text, and the state that it is written onto (as with --noflush). Out: `Tables`. Checked as the kernel does at
commit: every target exists, chains do not loop, and no path is deeper than nf_tables allows. Other tables than
filter are read over: they are not walked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from netpol_compiler.model.kinds import Family
from netpol_compiler.simulate.errors import SimulateError
from netpol_compiler.simulate.matches import LONG_FORMS
from netpol_compiler.simulate.rules import CompiledRule, compile_rule

BUILT_IN = ("INPUT", "FORWARD", "OUTPUT")
MAX_CHAIN_NAME = 28
MAX_DEPTH = 15
"""Chains below a built-in one, jumps and gotos alike: nf_tables refuses a 16th with "Too many links"."""

_LONG_COMMANDS = {"--append": "-A", "--insert": "-I", "--delete": "-D", "--flush": "-F", "--delete-chain": "-X"}
_COUNTERS = re.compile(r"\[\d+:\d+\]")


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule at its place in the text it came from: `line` is 1-based, `text` without `-A CHAIN` and counters."""

    line: int
    text: str
    compiled: CompiledRule


@dataclass(frozen=True, slots=True)
class Tables:
    """The filter table of one family: rules by chain, and the policies of the built-in chains."""

    chains: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)

    @property
    def set_names(self) -> frozenset[str]:
        """Every set that some rule asks: all must exist before the rules do."""
        return frozenset(name for rules in self.chains.values() for r in rules for name in r.compiled.sets)

    def depth(self, chain: str) -> int:
        """How many chains the longest path of jumps and gotos from `chain` goes down. Raises for a loop."""
        return _depth(self.chains, chain, {}, ())


def parse_iptables_restore(text: str, base: Tables | None = None, family: Family | None = None) -> Tables:
    """Carry out `text` on `base` (empty built-in chains at first), as with --noflush; `base` is not changed.

    `family`: whose tables they are; then a rule that the other one alone knows is refused here, and else when it is met.
    Raises SimulateError with the line for whatever is not known, or would be refused; nothing is half done.
    """
    writer = _Writer(base or Tables(), family)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            writer.line(number, line.strip())
        except SimulateError as error:
            raise SimulateError(error.reason, error.line or number, error.text or line.strip()) from error
        except ValueError as error:
            raise SimulateError(str(error), number, line.strip()) from error
    if writer.table:
        raise SimulateError(f"table {writer.table!r} has no COMMIT: nothing of it is in force")
    return writer.tables()


class _Writer:
    """Chains while the text is carried out."""

    def __init__(self, base: Tables, family: Family | None) -> None:
        self._family = family
        self._chains = {name: list(rules) for name, rules in base.chains.items()}
        self._policies = dict(base.policies)
        for name in BUILT_IN:
            self._chains.setdefault(name, [])
            self._policies.setdefault(name, "ACCEPT")
        self.table = ""
        self._line = 0

    def tables(self) -> Tables:
        return Tables({name: tuple(rules) for name, rules in self._chains.items()}, self._policies)

    def line(self, number: int, line: str) -> None:
        self._line = number
        if not line or line.startswith("#"):
            return
        if line.startswith("*"):
            if self.table:
                raise SimulateError(f"table {self.table!r} has no COMMIT")
            self.table = line[1:]
        elif line == "COMMIT":
            if self.table == "filter":
                self._check()
            self.table = ""
        elif not self.table:
            raise SimulateError("a line outside of any table")
        elif self.table == "filter":
            self._declare(line) if line.startswith(":") else self._command(line)

    def _declare(self, line: str) -> None:
        """`:CHAIN POLICY [0:0]`: sets a built-in chain's policy; makes or empties one of one's own."""
        name, policy, *_ = [*line[1:].split(), ""]
        if name in BUILT_IN:
            if policy not in ("ACCEPT", "DROP", "-"):
                raise SimulateError(f"unknown policy {policy!r}")
            if policy != "-":
                self._policies[name] = policy
            return
        if policy != "-":
            raise SimulateError("only built-in chains have a policy")
        if len(name) > MAX_CHAIN_NAME:
            raise SimulateError(f"the chain's name is longer than {MAX_CHAIN_NAME} characters")
        self._chains[name] = []

    def _command(self, line: str) -> None:
        words = line.split(None, 3)
        if _COUNTERS.fullmatch(words[0]):
            line = line[len(words[0]) :].lstrip()
        command, _, rest = line.partition(" ")
        chain, _, rule = rest.strip().partition(" ")
        command = _LONG_COMMANDS.get(command, command)
        if command not in _LONG_COMMANDS.values():
            raise SimulateError(f"unknown command {command!r}")
        if chain not in self._chains:
            raise SimulateError(f"there is no chain {chain!r}")
        rules, rule = self._chains[chain], rule.strip()
        if command == "-A":
            rules.append(self._rule(rule))
        elif command == "-I":
            self._insert(rules, rule)
        elif command == "-D":
            self._delete(rules, rule)
        elif command == "-F":
            rules.clear()
        elif rules or chain in BUILT_IN:
            raise SimulateError("only an empty chain of one's own can be deleted")
        else:
            del self._chains[chain]

    def _insert(self, rules: list[Rule], rule: str) -> None:
        first, _, rest = rule.partition(" ")
        place, rule = (int(first), rest.strip()) if first.isdigit() else (1, rule)
        if not 1 <= place <= len(rules) + 1:
            raise SimulateError(f"there is no place {place}: the chain has {len(rules)} rules")
        rules.insert(place - 1, self._rule(rule))

    def _rule(self, text: str) -> Rule:
        compiled = compile_rule(text)
        if self._family is not None and compiled.family not in (None, self._family):
            raise SimulateError(f"a rule of IPv{int(compiled.family)} in a table of IPv{int(self._family)}")
        return Rule(self._line, text, compiled)

    def _delete(self, rules: list[Rule], rule: str) -> None:
        """By number, or by text: the first rule that is written the same but for long option names."""
        wanted = _plain(rule)
        places = [int(rule) - 1] if rule.isdigit() else [i for i, r in enumerate(rules) if _plain(r.text) == wanted]
        if not places or not 0 <= places[0] < len(rules):
            raise SimulateError("there is no such rule")
        del rules[places[0]]

    def _check(self) -> None:
        for name, rules in self._chains.items():
            for rule in rules:
                target = rule.compiled.target
                if target.chain and (target.chain not in self._chains or target.chain in BUILT_IN):
                    reason = f"{name} goes to {target.chain!r}: no target known here, and no chain of one's own"
                    raise SimulateError(reason, rule.line, rule.text)
        known: dict[str, int] = {}
        for name in BUILT_IN:
            if _depth(self._chains, name, known, ()) > MAX_DEPTH:
                raise SimulateError(f"more than {MAX_DEPTH} chains below {name}: nf_tables refuses that")


def _plain(rule: str) -> list[str]:
    return [LONG_FORMS.get(word, word) for word in rule.split()]


def _depth(chains: Mapping[str, tuple[Rule, ...] | list[Rule]], chain: str, known: dict[str, int], path: tuple[str, ...]) -> int:
    if chain in path:
        raise SimulateError(f"a loop of chains: {' -> '.join((*path[path.index(chain) :], chain))}")
    if len(path) > MAX_DEPTH:
        raise SimulateError(f"more than {MAX_DEPTH} chains below {path[0]}: nf_tables refuses that")
    if chain not in known:
        below = {r.compiled.target.chain for r in chains[chain] if r.compiled.target.chain}
        known[chain] = max((1 + _depth(chains, b, known, (*path, chain)) for b in sorted(below)), default=0)
    return known[chain]
