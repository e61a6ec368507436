"""One rule of iptables-restore text: its words to matches and a target.

In: `-p tcp -m tcp --dport 80 -j ACCEPT`. Out: `CompiledRule`. An option, module or target that is not known is a
SimulateError; so is what the restore programs refuse (an option whose module is missing, one given twice).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from netpol_compiler.model.addresses import parse_address
from netpol_compiler.model.kinds import Family
from netpol_compiler.simulate.errors import SimulateError
from netpol_compiler.simulate.matches import (
    LONG_FORMS,
    MEANINGLESS_ALONE,
    NEEDS_PROTOCOL,
    OF_FAMILY,
    OPTIONS,
    Match,
    value_and_mask,
)
from netpol_compiler.simulate.numbers import decimal
from netpol_compiler.simulate.packets import protocol_number
from netpol_compiler.simulate.tokens import split

_LOGS = {
    "NFLOG": {"--nflog-group", "--nflog-prefix", "--nflog-size", "--nflog-range", "--nflog-threshold"},
    "LOG": {"--log-prefix", "--log-level", "--log-uid", "--log-ip-options"},
}
_MAX_PREFIX = {"--nflog-prefix": 63, "--log-prefix": 29}
_LEVELS = ("emerg", "alert", "crit", "error", "warning", "notice", "info", "debug")
_REJECTIONS = {
    Family.V4: ("net", "host", "port", "proto"),
    Family.V6: ("no-route", "adm-prohibited", "addr-unreachable", "port-unreachable"),
}
"""What REJECT answers: `icmp-net-unreachable` and its like in IPv4, `icmp6-no-route` and its like in IPv6."""

_PROHIBITIONS = ("icmp-net-prohibited", "icmp-host-prohibited", "icmp-admin-prohibited")


@dataclass(frozen=True, slots=True)
class Target:
    """What a matching rule does. `kind`: ACCEPT, DROP, REJECT, RETURN, MARK, LOG, NFLOG, "jump", "goto", or "" for nothing.

    `chain` is set for jump and goto. MARK makes the mark `(mark & ~mask) ^ value`.
    """

    kind: str = ""
    chain: str = ""
    value: int = 0
    mask: int = 0


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule's matches, all of which must hold, its target, the sets that it asks, and the family that alone knows it."""

    matches: tuple[Match, ...]
    target: Target
    sets: frozenset[str] = frozenset()
    family: Family | None = None


@lru_cache(maxsize=65536)
def compile_rule(text: str) -> CompiledRule:
    """Read one rule, without its `-A CHAIN`."""
    return _Reader(split(text)).read()


def comment_of(text: str) -> str:
    """What a rule says of itself: the value of its comment match; empty without one."""
    words = split(text)
    return words[words.index("--comment") + 1] if "--comment" in words else ""


class _Reader:
    """The state of reading one rule's words from left to right."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._matches: list[Match] = []
        self._used: dict[str, set[str]] = {"": set()}  # options seen, by the module instance that brings them
        self._sets: set[str] = set()
        self._families: set[Family] = set()  # those that something in the rule belongs to
        self._protocol = 0
        self._target = Target()

    def read(self) -> CompiledRule:
        while self._words:
            negated = self._words[0] == "!"
            if negated:
                self._words.pop(0)
            option = self._take("after !")
            option = LONG_FORMS.get(option, option)
            if option in ("-j", "-g", "-m") and not negated:
                self._target = self._read_target(option) if option != "-m" else self._load_module()
            elif option in OPTIONS:
                self._read_match(option, negated)
            else:
                raise SimulateError(f"unknown option {'! ' if negated else ''}{option}")
        self._finish_modules()
        if len(self._families) > 1:
            raise SimulateError("a rule of both families at once")
        family = next(iter(self._families), None)
        return CompiledRule(tuple(self._matches), self._target, frozenset(self._sets), family)

    def _take(self, what: str) -> str:
        if not self._words:
            raise SimulateError(f"something is missing {what}")
        return self._words.pop(0)

    def _load_module(self) -> Target:
        name = self._take("after -m")
        if not any(name in o.modules for o in OPTIONS.values()) or not name:
            raise SimulateError(f"unknown match {name!r}")
        if name in MEANINGLESS_ALONE and self._used.get(name) == set():
            raise SimulateError(f"match {name!r} without an option")
        self._used[name] = set()
        return self._target

    def _read_match(self, option: str, negated: bool) -> None:
        known = OPTIONS[option]
        loaded = [m for m in known.modules if m in self._used]
        if not loaded:  # as the restore programs do, `-p tcp` alone brings the options of tcp
            loaded = [m for m in known.modules if NEEDS_PROTOCOL.get(m) == (self._protocol,)]
        if not loaded:
            raise SimulateError(f"unknown option {option}: no match that brings it was named")
        used = self._used.setdefault(loaded[0], set())
        if (known.slot or option) in used:
            raise SimulateError(f"option {option} given twice, or beside another one in its place")
        used.add(known.slot or option)
        if negated and not known.negatable:
            raise SimulateError(f"no ! before {option}")
        values = [self._take(f"after {option}") for _ in range(known.values)]
        if "!" in values:
            raise SimulateError(f"! stands before {option}, not behind it")
        if option == "-p" and not negated:
            self._protocol = protocol_number(values[0])
        elif option == "-p" and protocol_number(values[0]) == 0:
            raise SimulateError("a packet of no protocol: it would never match")
        elif option == "--match-set":
            self._sets.add(values[0])
        elif option in ("-s", "-d"):
            self._families.add(parse_address(values[0].partition("/")[0]).family)
        match = known.build(values)
        self._matches.append((lambda packet, sets: not match(packet, sets)) if negated else match)

    def _finish_modules(self) -> None:
        for module, used in self._used.items():
            if module in MEANINGLESS_ALONE and not used:
                raise SimulateError(f"match {module!r} without an option")
            needed = NEEDS_PROTOCOL.get(module)
            if needed and self._protocol not in needed:
                raise SimulateError(f"match {module!r} needs its protocol by -p")
            if module in OF_FAMILY:
                self._families.add(OF_FAMILY[module])

    def _read_target(self, option: str) -> Target:
        if self._target.kind:
            raise SimulateError("two targets in one rule")
        name = self._take(f"after {option}")
        if option == "-g":
            return Target("goto", name)
        if name in ("ACCEPT", "DROP", "RETURN"):
            return Target(name)
        if name == "REJECT":
            return self._reject_target()
        if name in _LOGS:
            self._target_options(_LOGS[name])
            return Target(name)
        if name == "MARK":
            return self._mark_target()
        return Target("jump", name)  # a chain; a target that is not known here fails at COMMIT, when there is no such chain

    def _reject_target(self) -> Target:
        if self._words[:1] == ["--reject-with"]:
            self._take("")
            answer = self._take("after --reject-with")
            if answer == "tcp-reset":
                if self._protocol != 6:
                    raise SimulateError("tcp-reset needs -p tcp")
            elif answer in _PROHIBITIONS or answer in [f"icmp-{what}-unreachable" for what in _REJECTIONS[Family.V4]]:
                self._families.add(Family.V4)
            elif answer in [f"icmp6-{what}" for what in _REJECTIONS[Family.V6]]:
                self._families.add(Family.V6)
            else:
                raise SimulateError(f"unknown answer of REJECT: {answer!r}")
        return Target("REJECT")

    def _target_options(self, known: set[str]) -> None:
        while self._words and self._words[0] in known:
            option = self._words.pop(0)
            value = self._take(f"after {option}") if option not in ("--log-uid", "--log-ip-options") else ""
            if option in _MAX_PREFIX:
                if len(value.encode()) > _MAX_PREFIX[option]:
                    raise SimulateError(f"{option} takes {_MAX_PREFIX[option]} bytes at most")
            elif option.startswith("--nflog-"):
                decimal(value, 0xFFFF, option)
            elif option == "--log-level" and value not in _LEVELS:
                decimal(value, len(_LEVELS) - 1, option)

    def _mark_target(self) -> Target:
        option, text = self._take("after MARK"), self._take("after MARK's option")
        value, mask = value_and_mask(text)
        masks = {
            "--set-xmark": (value, mask),
            "--set-mark": (value, value | mask),
            "--or-mark": (value, value),
            "--and-mark": (0, ~value & 0xFFFFFFFF),
            "--xor-mark": (value, 0),
        }
        if option not in masks or ("/" in text and option not in ("--set-xmark", "--set-mark")):
            raise SimulateError(f"unknown option of MARK: {option} {text}")
        return Target("MARK", value=masks[option][0], mask=masks[option][1])
