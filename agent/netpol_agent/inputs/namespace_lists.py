"""For which namespaces a node knows every policy, and when to list one. Without I/O and clock.

    first pod --> DUE --take_due--> LISTING --answer, every policy labelled--> FOLLOWED --last pod deleted--> forgotten
                   ^ ^               |  |
                   | |               |  '--a policy was deleted, or may have been--> OUTDATED
                   | '--answer, a policy lacks our label; no answer--'                   |
                   '--answer, which does not count; no answer----------------------------'
    FOLLOWED --a policy may have been deleted unseen, or lacks our label--> DUE

The watch brings the policies that carry the label of this node's bucket. The operator sets it when it sees where a pod runs,
and nothing here waits for that: the namespace of a first pod is listed, and again until all its policies carry the label, from
when on the watch brings each change. What leaves the watch may have lost its label only, and is asked for by name. What such a
list has brought and the watch, when it begins anew, does not, may have been deleted in between: the namespace is listed again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key
from netpol_compiler.model.selectors import EVERYTHING
from netpol_compiler.policy.ir import CompiledPolicy
from netpol_kube.backoff import Backoff

NAMESPACE_LIST_GRACE_SECONDS = 0.05
"""For which a first pod is kept back while its namespace is listed; then it is isolated until that is done."""
FIRST_RELIST_SECONDS, LONGEST_RELIST_SECONDS = 0.25, 2.0
"""Between lists of a namespace while a policy of it lacks our label; doubled each time."""
UNKNOWN = "(unknown)"
"""Name of the policy that stands for those not known yet: no object of the API can have it."""
NEVER = float("inf")


class ListState(Enum):
    """Where a namespace stands with its lists."""

    DUE = "to be listed at `due_at`"
    LISTING = "a list is under way"
    OUTDATED = "a list is under way, and may hold a policy that was deleted meanwhile"
    FOLLOWED = "the watch brings every change"


class ListEvent(Enum):
    """What moves a namespace from one state to another."""

    TAKEN = "the caller lists it"
    LABELLED = "an answer in which every policy carries our label"
    UNLABELLED = "an answer in which a policy lacks our label, or such a policy from elsewhere"
    FAILED = "no answer"
    DELETED = "a policy was deleted, or may have been"
    MISSED = "a policy that was cached may have been deleted, and no event said so"


_NEXT = {
    (ListState.DUE, ListEvent.TAKEN): ListState.LISTING,
    (ListState.DUE, ListEvent.UNLABELLED): ListState.DUE,
    (ListState.DUE, ListEvent.MISSED): ListState.DUE,
    (ListState.LISTING, ListEvent.LABELLED): ListState.FOLLOWED,
    (ListState.LISTING, ListEvent.UNLABELLED): ListState.DUE,
    (ListState.LISTING, ListEvent.FAILED): ListState.DUE,
    (ListState.LISTING, ListEvent.DELETED): ListState.OUTDATED,
    (ListState.LISTING, ListEvent.MISSED): ListState.OUTDATED,
    (ListState.OUTDATED, ListEvent.LABELLED): ListState.DUE,
    (ListState.OUTDATED, ListEvent.UNLABELLED): ListState.DUE,
    (ListState.OUTDATED, ListEvent.FAILED): ListState.DUE,
    (ListState.FOLLOWED, ListEvent.UNLABELLED): ListState.DUE,
    (ListState.FOLLOWED, ListEvent.MISSED): ListState.DUE,
}
"""Every other pair changes nothing."""


@dataclass(slots=True)
class _Namespace:
    """One namespace with a live pod on this node."""

    opened_at: float
    """When its first pod came."""
    due_at: float
    """When it is to be listed, in state DUE."""
    state: ListState = ListState.DUE
    known: bool = False
    """Whether an answer has counted: from then on every policy of the namespace is known."""
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_RELIST_SECONDS, LONGEST_RELIST_SECONDS))
    """Until the next list, while a policy lacks our label."""

    def on(self, event: ListEvent, due_at: float) -> None:
        """`due_at`: when the namespace is to be listed, if the event asks for that."""
        after = _NEXT.get((self.state, event))
        if after is not None:
            self.due_at = min(self.due_at, due_at) if self.state is ListState.DUE else due_at
            self.state = after

    @property
    def grace_end(self) -> float:
        return self.opened_at + NAMESPACE_LIST_GRACE_SECONDS


class NamespaceLists:
    """The namespaces with a live pod on this node. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._all: dict[str, _Namespace] = {}
        """By name."""
        self.isolated: frozenset[str] = frozenset()
        """Namespaces that are unknown for longer than their pods can be kept back, as of the last `isolate_overdue`."""

    # -- what happens ----------------------------------------------------------------------------------

    def opened(self, name: str, now: float) -> None:
        """The first pod of a namespace."""
        self._all[name] = _Namespace(now, now)

    def closed(self, name: str) -> None:
        """The last one was deleted."""
        self._all.pop(name, None)

    def take_due(self, now: float) -> list[str]:
        """The namespaces to list now; each is answered by `answered` or `failed`."""
        names = [name for name, n in self._all.items() if n.state is ListState.DUE and n.due_at <= now]
        for name in names:
            self._all[name].on(ListEvent.TAKEN, NEVER)
        return names

    def answered(self, name: str, labelled: bool, now: float) -> bool:
        """A list has come. Returns whether it counts: one in whose time a policy was deleted may hold that policy still."""
        found = self._all.get(name)
        if found is None or found.state is ListState.DUE:
            return False
        counts = found.state is not ListState.OUTDATED
        found.on(ListEvent.LABELLED if labelled else ListEvent.UNLABELLED, now + found.backoff.seconds if counts else now)
        if counts:
            found.known = True
            if labelled:
                found.backoff.reset()
            else:
                found.backoff.next_seconds()
        return counts

    def failed(self, name: str, delay: float, now: float) -> None:
        """The API server did not answer."""
        if name in self._all:
            self._all[name].on(ListEvent.FAILED, now + delay)

    def policy_deleted(self, name: str, now: float, missed: bool = False) -> None:
        """A policy was deleted, or may have been. `missed`: one that is cached, and no event said so."""
        if name in self._all:
            self._all[name].on(ListEvent.MISSED if missed else ListEvent.DELETED, now)

    def policy_unlabelled(self, name: str, now: float) -> None:
        """A policy is there without our label: the watch will not bring its changes."""
        found = self._all.get(name)
        if found is not None and found.state in (ListState.DUE, ListState.FOLLOWED):  # a list under way will say so itself
            found.on(ListEvent.UNLABELLED, now + found.backoff.seconds)

    def isolate_overdue(self, now: float, complete: bool) -> tuple[frozenset[str], frozenset[str]]:
        """The namespaces to isolate from now on, and no longer. None before the agent is `complete`."""
        before = self.isolated
        overdue = frozenset(name for name, n in self._all.items() if not n.known and now >= n.grace_end)
        self.isolated = overdue if complete else frozenset()
        return self.isolated - before, before - self.isolated

    # -- what is asked ---------------------------------------------------------------------------------

    def known(self, name: str) -> bool:
        """Whether every policy of the namespace is known here."""
        found = self._all.get(name)
        return found is not None and found.known

    @property
    def all_known(self) -> bool:
        return all(n.known for n in self._all.values())

    def due(self, now: float) -> float:
        """When something is to be done; NEVER, or a time."""
        lists = (n.due_at for n in self._all.values() if n.state is ListState.DUE)
        ends = (n.grace_end for n in self._all.values() if not n.known and now < n.grace_end)
        return min((*lists, *ends), default=NEVER)


def placeholder(namespace: str) -> CompiledPolicy:
    """Unknown is not open: selects every pod of the namespace and allows nothing."""
    return CompiledPolicy(Key(namespace, UNKNOWN), "", EVERYTHING, frozenset(Direction), ())
