"""One rule of iptables-restore text: its words to matches and a target.

In: `-p tcp -m tcp --dport 80 -j ACCEPT`. Out: `CompiledRule`. An option, module or target that is not known is a
SimulateError; so is what the restore programs refuse (an option whose module is missing, one given twice).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from netpol_compiler.simulate.errors import SimulateError
from netpol_compiler.simulate.matches import (
    LONG_FORMS,
    MEANINGLESS_ALONE,
    NEEDS_PROTOCOL,
    OPTIONS,
    Match,
    value_and_mask,
)
from netpol_compiler.simulate.packets import protocol_number
from netpol_compiler.simulate.tokens import split

VERDICTS = ("ACCEPT", "DROP", "REJECT", "RETURN")
_LOGS = {
    "NFLOG": {"--nflog-group", "--nflog-prefix", "--nflog-size", "--nflog-range", "--nflog-threshold"},
    "LOG": {"--log-prefix", "--log-level", "--log-uid", "--log-ip-options"},
}
_MAX_PREFIX = {"--nflog-prefix": 63, "--log-prefix": 29}


@dataclass(frozen=True, slots=True)
class Target:
    """What a matching rule does. `kind`: one of VERDICTS, "MARK", "LOG", "NFLOG", "jump", "goto", or "" for nothing.

    `chain` is set for jump and goto. MARK makes the mark `(mark & ~mask) ^ value`.
    """

    kind: str = ""
    chain: str = ""
    value: int = 0
    mask: int = 0


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule's matches, all of which must hold, its target, and the sets that it asks."""

    matches: tuple[Match, ...]
    target: Target
    sets: frozenset[str] = frozenset()


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
        return CompiledRule(tuple(self._matches), self._target, frozenset(self._sets))

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
        if option in used:
            raise SimulateError(f"option {option} given twice")
        used.add(option)
        values = [self._take(f"after {option}") for _ in range(known.values)]
        if "!" in values:
            raise SimulateError(f"! stands before {option}, not behind it")
        if option == "-p" and not negated:
            self._protocol = protocol_number(values[0])
        if option == "--match-set":
            self._sets.add(values[0])
        match = known.build(values)
        self._matches.append((lambda packet, sets: not match(packet, sets)) if negated else match)

    def _finish_modules(self) -> None:
        for module, used in self._used.items():
            if module in MEANINGLESS_ALONE and not used:
                raise SimulateError(f"match {module!r} without an option")
            needed = NEEDS_PROTOCOL.get(module)
            if needed and self._protocol not in needed:
                raise SimulateError(f"match {module!r} needs its protocol by -p")

    def _read_target(self, option: str) -> Target:
        if self._target.kind:
            raise SimulateError("two targets in one rule")
        name = self._take(f"after {option}")
        if option == "-g":
            return Target("goto", name)
        if name in ("ACCEPT", "DROP", "RETURN"):
            return Target(name)
        if name == "REJECT":
            self._target_options({"--reject-with"})
            return Target(name)
        if name in _LOGS:
            self._target_options(_LOGS[name])
            return Target(name)
        if name == "MARK":
            return self._mark_target()
        return Target("jump", name)  # a chain; a target that is not known here fails at COMMIT, when there is no such chain

    def _target_options(self, known: set[str]) -> None:
        while self._words and self._words[0] in known:
            option = self._words.pop(0)
            value = self._take(f"after {option}") if option not in ("--log-uid", "--log-ip-options") else ""
            if len(value.encode()) > _MAX_PREFIX.get(option, 255):
                raise SimulateError(f"{option} takes {_MAX_PREFIX[option]} bytes at most")

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
        if option not in masks:
            raise SimulateError(f"unknown option of MARK: {option}")
        return Target("MARK", value=masks[option][0], mask=masks[option][1])
