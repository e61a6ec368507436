"""For which namespaces a node knows every policy, and when to ask. Without I/O and clock.

    first pod of a namespace -> unknown --list--> known --a policy lacks our label--> known, listed again
                                                    '----- last pod gone: forgotten

The watch brings the policies that carry the label of this node's bucket. The operator sets it when it sees where a pod runs,
and nothing here waits for that: the namespace of a first pod is listed, and again until all its policies carry the label, from
when on the watch brings each change. What leaves the watch may have lost its label only, and is asked for by name. What such a
list has brought and the watch, when it begins anew, does not, may have gone in between: the namespace is listed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key
from netpol_compiler.model.selectors import EVERYTHING
from netpol_compiler.policy.ir import CompiledPolicy

PATIENCE = 0.05
"""Seconds for which a first pod is kept back while its namespace is listed; then it is isolated until that is done."""
FIRST_DELAY, LONGEST_DELAY = 0.25, 2.0
"""Seconds between lists of a namespace while a policy of it lacks our label; doubled each time."""
UNKNOWN = "(unknown)"
"""Name of the policy that stands for those not known yet: no object of the API can have it."""
NEVER = float("inf")


@dataclass(slots=True)
class _Namespace:
    since: float
    ask_at: float
    known: bool = False
    asking: bool = False
    delay: float = FIRST_DELAY


class Namespaces:
    """The namespaces with a live pod on this node. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._all: dict[str, _Namespace] = {}

    def opened(self, name: str, now: float) -> None:
        """The first pod of a namespace."""
        self._all[name] = _Namespace(now, now)

    def closed(self, name: str) -> None:
        """The last one has gone."""
        self._all.pop(name, None)

    def known(self, name: str) -> bool:
        """Whether every policy of the namespace is known here."""
        found = self._all.get(name)
        return found is not None and found.known

    @property
    def all_known(self) -> bool:
        return all(n.known for n in self._all.values())

    def overdue(self, now: float) -> Iterator[str]:
        """Namespaces that are unknown for longer than their pods can be kept back."""
        return (name for name, n in self._all.items() if not n.known and now >= n.since + PATIENCE)

    def take_asks(self, now: float) -> list[str]:
        """The namespaces to list now; each is answered by `listed` or `unlisted`."""
        names = [name for name, n in self._all.items() if n.ask_at <= now and not n.asking]
        for name in names:
            self._all[name].asking = True
            self._all[name].ask_at = NEVER
        return names

    def listed(self, name: str, labelled: bool, now: float) -> bool:
        """A list has come. Returns whether it counts: one in whose time a policy went may hold that policy still."""
        found = self._all.get(name)
        if found is None:
            return False
        found.asking = False
        if found.ask_at <= now:
            return False
        found.known = True
        if labelled:
            found.delay = FIRST_DELAY
        else:
            found.ask_at = now + found.delay
            found.delay = min(found.delay * 2, LONGEST_DELAY)
        return True

    def unlisted(self, name: str, delay: float, now: float) -> None:
        """The API server did not answer."""
        if name in self._all:
            self._all[name].asking = False
            self._all[name].ask_at = now + delay

    def lost(self, name: str, now: float, unheard: bool = False) -> None:
        """A policy went, or may have: what is being listed may be older than that; what is known too, if it went `unheard`."""
        found = self._all.get(name)
        if found is not None and (found.asking or unheard):
            found.ask_at = min(found.ask_at, now)

    def unlabelled(self, name: str, now: float) -> None:
        """A policy is there without our label: the watch will not tell of it."""
        found = self._all.get(name)
        if found is not None and not found.asking:
            found.ask_at = min(found.ask_at, now + found.delay)

    def due(self, now: float) -> float:
        """When something is to be done; NEVER, or a time."""
        asks = (n.ask_at for n in self._all.values() if not n.asking)
        ends = (n.since + PATIENCE for n in self._all.values() if not n.known and now < n.since + PATIENCE)
        return min((*asks, *ends), default=NEVER)


def placeholder(namespace: str) -> CompiledPolicy:
    """Unknown is not open: selects every pod of the namespace and allows nothing."""
    return CompiledPolicy(Key(namespace, UNKNOWN), "", EVERYTHING, frozenset(Direction), ())
