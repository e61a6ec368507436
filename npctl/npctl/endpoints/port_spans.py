"""All ports of all protocols, cut into spans that no rule at hand tells apart: one port of a span speaks for the whole span.

In: the ports that rules name. Out: `Span`s, a port to try for each, and words for several of them (`all but 8080/tcp`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from netpol_compiler.model.kinds import PROTOCOLS, Protocol
from netpol_compiler.model.objects import PortRange

_LAST = 65535


class Span(NamedTuple):
    """Ports `first` to `last` of `protocol`; `protocol` None: everything that no rule names, ICMP included."""

    protocol: Protocol | None
    first: int = 0
    last: int = _LAST


REST = Span(None)


class Try(NamedTuple):
    """What is tried for a span: as in `Connection`, None and None are ICMP and all others."""

    protocol: Protocol | None
    port: int | None


def spans(named: Iterable[PortRange]) -> list[Span]:
    """Every protocol that is named, cut at every border that is named, and the rest."""
    cuts: dict[Protocol, set[int]] = defaultdict(set)
    for port in named:
        cuts[port.protocol] |= {port.first, port.last + 1}
    found = [REST]
    for protocol in PROTOCOLS:
        if protocol in cuts:
            borders = sorted({0, *cuts[protocol]} - {_LAST + 1})
            found += [Span(protocol, a, b - 1) for a, b in zip(borders, [*borders[1:], _LAST + 1], strict=True)]
    return found


def port_of(span: Span) -> Try:
    """One port that speaks for the span."""
    return Try(None, None) if span.protocol is None else Try(span.protocol, max(1, span.first))


def words(chosen: Sequence[Span], every: Sequence[Span]) -> str:
    """`all`, `80/tcp`, `1000-1999/udp,icmp`, `all but 8080/tcp`."""
    if len(chosen) == len(every):
        return "all"
    if REST in chosen:
        return "all but " + _listed([s for s in every if s not in chosen])
    return _listed(chosen)


def data(chosen: Sequence[Span], every: Sequence[Span]) -> list[dict[str, Any]]:
    """Ranges per protocol; what no rule names stands as itself, with ICMP for everything without ports."""
    named = {s.protocol for s in every}
    joined = _joined(s for s in chosen if s.protocol is not None)
    ranges: list[dict[str, Any]] = [{"protocol": p.value, "first": a, "last": b} for p, a, b in joined if p is not None]
    if REST in chosen:
        ranges += [{"protocol": p.value, "first": 0, "last": _LAST} for p in PROTOCOLS if p not in named]
        ranges.append({"protocol": "ICMP", "first": None, "last": None})
    return ranges


def _listed(chosen: Iterable[Span]) -> str:
    return ",".join(_text(s) for s in _joined(chosen))


def _joined(chosen: Iterable[Span]) -> list[Span]:
    """Neighbours become one."""
    found: list[Span] = []
    for span in sorted(chosen, key=lambda s: (s.protocol.value if s.protocol else "", s.first)):
        if found and found[-1].protocol is span.protocol and found[-1].last + 1 == span.first:
            found[-1] = found[-1]._replace(last=span.last)
        else:
            found.append(span)
    return found


def _text(span: Span) -> str:
    if span.protocol is None:
        return "the rest"
    name = span.protocol.value.lower()
    if (span.first, span.last) == (0, _LAST):
        return name
    return f"{span.first}/{name}" if span.first == span.last else f"{span.first}-{span.last}/{name}"
