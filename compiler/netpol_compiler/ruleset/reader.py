"""A rule as iptables-save prints it -> its value. The inverse of `render.rule_text`.

In: the text without `-A CHAIN`, in whatever order an iptables prints the options. Out: a `ChainRule` if, and only if, writing
it gives all the words of the text; else an `UnknownRule`, which keeps the text. Nothing is refused: others may write into
our chains.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from netpol_compiler.model.addresses import parse_network
from netpol_compiler.model.kinds import Protocol
from netpol_compiler.ruleset.render import rule_text
from netpol_compiler.ruleset.rules import (
    EVERY_PORT,
    Action,
    AddressMatch,
    ChainRule,
    ConntrackMatch,
    End,
    Goto,
    Icmp6Match,
    Jump,
    LimitMatch,
    Log,
    MarkMatch,
    Match,
    PortMatch,
    Rule,
    SetMark,
    SetMatch,
    TcpFlagsMatch,
    UnknownRule,
    Verdict,
    rule,
)
from netpol_compiler.ruleset.values import CHAIN_PREFIX

_ARGUMENTS = {"--match-set": 2, "--tcp-flags": 2}
"""Words after an option, where it is not one."""

Options = Mapping[str, Sequence[str]]


def read_rule(text: str) -> Rule:
    """The value of one printed rule."""
    words = _words(text)
    if "--limit" in words[:-1]:  # some versions of iptables write 10/second
        place = words.index("--limit") + 1
        words[place] = words[place].replace("/second", "/sec")
    try:
        found = _known(words)
        if (written := rule_text(found)) == text or sorted(_words(written)) == sorted(words):
            return found
    except (KeyError, ValueError, IndexError):
        pass
    return _unknown(text, words)


def _words(text: str) -> list[str]:
    """The words of a rule; quotes hold one together. Where quotes do not pair, they are letters."""
    parts = text.split('"')
    if len(parts) == 1 or len(parts) % 2 == 0:
        return text.split()
    words: list[str] = []
    for number, part in enumerate(parts):
        words += [part] if number % 2 else part.split()
    return words


def _unknown(text: str, words: Sequence[str]) -> UnknownRule:
    following = list(itertools.pairwise(words))
    targets = [name for option, name in following if option in ("-j", "-g")]
    sets = frozenset(name for option, name in following if option == "--match-set")
    return UnknownRule(text, targets[-1] if targets else "", sets)


def _known(words: Sequence[str]) -> ChainRule:
    """Raises KeyError, ValueError or IndexError for what is not ours at a glance."""
    options: dict[str, Sequence[str]] = {}
    at = 0
    while at < len(words):
        negated = words[at] == "!"
        option = words[at + negated]
        first = at + negated + 1
        at = first + _ARGUMENTS.get(option, 1)
        if option != "-m":
            options["! " * negated + option] = words[first:at]
    matches = [m for read in _READERS for m in read(options)]
    return rule(*matches, action=_action(options), comment=options.get("--comment", ("",))[0])


def _addresses(options: Options) -> list[Match]:
    ends = (("-s", End.SOURCE), ("-d", End.DESTINATION))
    return [AddressMatch(end, parse_network(options[o][0])[0]) for o, end in ends if o in options]


def _protocol(options: Options) -> list[Match]:
    if "--icmpv6-type" in options:
        return [Icmp6Match(int(options["--icmpv6-type"][0]))]
    for option in ("--tcp-flags", "! --tcp-flags"):
        if option in options:
            mask, flags = (tuple(words.split(",")) for words in options[option])
            return [TcpFlagsMatch(mask, flags, option.startswith("!"))]
    if "-p" not in options:
        return []
    (ports,) = options.get("--dport") or options.get("--dports") or ("",)
    ranges = tuple(_range(words) for words in ports.split(",")) if ports else EVERY_PORT
    return [PortMatch(Protocol(options["-p"][0].upper()), ranges)]


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    return int(first), int(last or first)


def _others(options: Options) -> list[Match]:
    found: list[Match] = []
    if "--ctstate" in options:
        found.append(ConntrackMatch(tuple(options["--ctstate"][0].split(","))))
    if "--match-set" in options:
        name, ends = options["--match-set"]
        found.append(SetMatch(name, tuple(End(end) for end in ends.split(","))))
    if "--mark" in options:
        found.append(MarkMatch(*_bits(options["--mark"][0])))
    if "--limit" in options:
        found.append(LimitMatch(int(options["--limit"][0].partition("/")[0]), int(options["--limit-burst"][0])))
    return found


def _bits(text: str) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    return int(value, 16), int(mask, 16)


def _action(options: Options) -> Action:
    if "-g" in options:
        return Goto(options["-g"][0])
    name = options["-j"][0]
    if name == "MARK":
        return SetMark(*_bits(options["--set-xmark"][0]))
    if name == "NFLOG":
        return Log(options["--nflog-prefix"][0], int(options["--nflog-group"][0]))
    return Jump(name) if name.startswith(CHAIN_PREFIX) else Verdict(name)


_READERS = (_addresses, _protocol, _others)
