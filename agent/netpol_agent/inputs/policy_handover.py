"""When a policy of this node is handed over, while its sets may be late. Without I/O and clock.

    a version comes --every set is here, or the wait ends--> EXACT <--sets come, sets are lost--> INEXACT
           '--a set is late--> WAITING ---^                    '--a new version whose sets are late--> WAITING
    selects nobody here any more, or deleted --> forgotten

What is in force stays until the new state can be put in force exactly, for a bounded time; after that isolation wins over
exactness:

- A policy that isolates somebody anew (a new policy, a wider selector, a pod with new labels) waits NEW_ISOLATION_WAIT_SECONDS at
  most. At once would refuse, for the milliseconds by which a set is late, what both the old and the new state allow; longer would
  leave a pod open because a set does not come. After that it isolates and allows what the sets that are here allow.
- A pod whose address is new here never waits, and neither do the policies that select it: nothing was in force for it.
- A newer version of a policy that isolates nobody anew waits UPDATE_WAIT_SECONDS at most. At once it could allow, through a set's
  older members, what neither version allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from netpol_agent.inputs.input_problems import InputProblems
from netpol_agent.inputs.mailbox import Mailbox
from netpol_api.compiled_policy import PublishedPolicy
from netpol_compiler.model.objects import Key, Pod

NEW_ISOLATION_WAIT_SECONDS, UPDATE_WAIT_SECONDS = 0.2, 5.0
WAIT_PROBLEM_SECONDS = 1.0
"""For which a policy may wait before that is a problem."""


class PolicyState(Enum):
    """Where a policy that selects a pod of this node stands."""

    WAITING = "its latest version waits for sets; the one before it, if any, is in force"
    EXACT = "its latest version is in force, and its sets are as new as it needs"
    INEXACT = "its latest version is in force, and a set is missing or older than it needs"


@dataclass(slots=True)
class _Handover:
    """One policy."""

    since: float
    """When it began to wait."""
    deadline: float
    """When the wait ends; it only becomes earlier, whatever versions come."""
    latest: PublishedPolicy
    state: PolicyState = PolicyState.WAITING
    notified: PublishedPolicy | None = None
    """The version that was handed over."""


class PolicyHandover:
    """The policies that select a pod of this node. Times are seconds of one clock."""

    def __init__(self, mailbox: Mailbox, problems: InputProblems) -> None:
        self._all: dict[Key, _Handover] = {}
        """By policy."""
        self._waiting: set[Key] = set()
        """Those in state WAITING, which are few."""
        self._mailbox = mailbox
        """Where policies are handed over."""
        self._problems = problems
        """Where it is reported which policies wait, or are in force without a set."""

    # -- what happens ----------------------------------------------------------------------------------

    def wait(self, key: Key, latest: PublishedPolicy, lacking: Iterable[str], deadline: float, now: float) -> bool:
        """A version lacks sets. Returns whether it waits for them; else `put_in_force`."""
        found = self._all.get(key)
        if found is not None and key in self._waiting:
            found.latest, found.deadline = latest, min(found.deadline, deadline)
        else:
            found = _Handover(now, deadline, latest, notified=found.notified if found is not None else None)
            self._all[key] = found
            self._waiting.add(key)
        if found.deadline > now:
            words = f"policy {key}: waits for set {', '.join(lacking)}"
            self._problems.report(_sets_of(key), words, now, WAIT_PROBLEM_SECONDS)
        return found.deadline > now

    def put_in_force(self, key: Key, latest: PublishedPolicy, lacking: Collection[str], now: float) -> None:
        """A version waits no more; `lacking`: the sets that are missing or too old all the same."""
        if not self.is_notified(key, latest):
            self._mailbox.policy(key, latest.policy)
        state = PolicyState.INEXACT if lacking else PolicyState.EXACT
        self._all[key] = _Handover(now, now, latest, state, latest)
        self._waiting.discard(key)
        if lacking:
            words = f"policy {key}: in force with set {', '.join(lacking)} missing or older than it needs"
            self._problems.report(_sets_of(key), words, now)
        else:
            self._problems.clear(_sets_of(key))

    def retire(self, key: Key) -> None:
        """It was deleted, or selects nobody here."""
        self._problems.clear(_sets_of(key))
        self._waiting.discard(key)
        found = self._all.pop(key, None)
        if found is not None and found.notified is not None:
            self._mailbox.policy(key, None)

    # -- what is asked ---------------------------------------------------------------------------------

    def deadline(self, key: Key, latest: PublishedPolicy, selected: Collection[Pod], fresh: Collection[Pod], now: float) -> float:
        """Until when a version may wait for its sets, in an agent that is in operation. `fresh`: the selected pods whose address
        is new here."""
        if self.isolates_anew(key, latest, fresh):
            return now
        since = self._all[key].since if key in self._waiting else now
        return since + (NEW_ISOLATION_WAIT_SECONDS if self.isolates_anew(key, latest, selected) else UPDATE_WAIT_SECONDS)

    def isolates_anew(self, key: Key, latest: PublishedPolicy, pods: Collection[Pod]) -> bool:
        """Whether one of `pods` is isolated by this version and not by the one in force."""
        found = self._all.get(key)
        old = found.notified.policy if found is not None and found.notified is not None else None
        if old is None or latest.policy.directions - old.directions:
            return bool(pods)
        return not all(old.pod_selector.matches(pod.labels) for pod in pods)

    def is_notified(self, key: Key, latest: PublishedPolicy) -> bool:
        """Whether exactly this version was handed over."""
        return key in self._all and self._all[key].notified is latest

    def set_names(self, key: Key) -> frozenset[str]:
        """The sets of the version that was handed over."""
        found = self._all.get(key)
        return found.notified.policy.set_names if found is not None and found.notified is not None else frozenset()

    def waits(self, key: Key) -> bool:
        return key in self._waiting

    def is_unsettled(self, key: Key) -> bool:
        """Whether a set that comes may change something."""
        return key in self._all and self._all[key].state is not PolicyState.EXACT

    @property
    def waiting(self) -> dict[Key, PublishedPolicy]:
        """The versions that wait."""
        return {key: self._all[key].latest for key in self._waiting}

    def overdue(self, now: float) -> set[Key]:
        """The policies whose wait ends now."""
        return {key for key in self._waiting if self._all[key].deadline <= now}

    @property
    def due(self) -> float | None:
        """When the next wait ends; None: nothing waits."""
        return min((self._all[key].deadline for key in self._waiting), default=None)


def _sets_of(key: Key) -> str:
    """The key of a policy's problems with its sets."""
    return f"policy {key} sets"
