"""The sets that this node's policies need: which of them are cached, which have to be fetched by name, which were handed over.

    needed:  by a policy that selects a pod here                (`use`)
    cached:  what the watch and fetches have brought            (`SetCache`)
    fetched: asked for by name, because the watch is late or does not bring it

    a fetch:  none --schedule--> SCHEDULED --take_due--> FETCHING --answered--> none, or SCHEDULED again
                                  '--cancel--> none

Without I/O and clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from netpol_agent.inputs.input_problems import InputProblems
from netpol_agent.inputs.mailbox import Mailbox
from netpol_agent.inputs.set_cache import Json, SetCache
from netpol_api.compiled_policy import PublishedPolicy
from netpol_compiler.model.objects import Key
from netpol_compiler.policy.ir import AddressSet

FETCH_DELAY_SECONDS = 0.01
"""Until a set is fetched that the watch did not bring: its label usually comes within this time."""
LATE_FETCH_DELAY_SECONDS = 1.0
"""Until a set is fetched that the watch brings, but too late."""
REFETCH_SECONDS = 5.0
"""Between fetches of a set that the watch does not bring."""


class FetchState(Enum):
    """Where a set stands with its fetch."""

    SCHEDULED = "to be fetched at `due_at`"
    FETCHING = "asked for, not answered"


@dataclass(slots=True)
class _Fetch:
    """The fetch of one set."""

    state: FetchState
    due_at: float
    """When it is to be fetched, in state SCHEDULED."""


class SetFetches:
    """Fetches by the name of the set."""

    def __init__(self) -> None:
        self._all: dict[str, _Fetch] = {}
        """Those that are scheduled or under way."""

    def schedule(self, name: str, due_at: float) -> None:
        """Fetch a set at `due_at`, unless a fetch is scheduled or under way."""
        self._all.setdefault(name, _Fetch(FetchState.SCHEDULED, due_at))

    def cancel(self, name: str) -> None:
        """A fetch that is scheduled is not needed."""
        if name in self._all and self._all[name].state is FetchState.SCHEDULED:
            del self._all[name]

    def take_due(self, now: float) -> list[str]:
        """The sets to fetch now."""
        names = sorted(n for n, f in self._all.items() if f.state is FetchState.SCHEDULED and f.due_at <= now)
        for name in names:
            self._all[name].state = FetchState.FETCHING
        return names

    def answered(self, name: str) -> None:
        self._all.pop(name, None)

    @property
    def due(self) -> float | None:
        """When the next one is; None: none is scheduled."""
        return min((f.due_at for f in self._all.values() if f.state is FetchState.SCHEDULED), default=None)


class NeededSets:
    """Times are seconds of one clock."""

    def __init__(self, mailbox: Mailbox, problems: InputProblems) -> None:
        self.fetches = SetFetches()
        """Sets to ask for by name."""
        self.watermark = 0
        """The resourceVersion up to which the watch has brought everything."""
        self.users: dict[str, set[Key]] = {}
        """The policies that need a set, by set."""
        self._uses: dict[Key, frozenset[str]] = {}
        """The same the other way round."""
        self._cache = SetCache(problems)
        """What is known of all sets, needed or not."""
        self._notified: dict[str, AddressSet] = {}
        """The values that were handed over."""
        self._changed: set[str] = set()
        """Sets to look at in the next `settle`."""
        self._mailbox = mailbox
        """Where values are handed over."""

    # -- what comes in ---------------------------------------------------------------------------------

    def put(self, data: Json, now: float) -> None:
        """One slice, from the watch."""
        self._changed.add(self._cache.put(data, now))

    def unwatch(self, object_name: str) -> None:
        """An object that the watch does not bring any more."""
        name = self._cache.unwatch(object_name)
        if name is not None:
            self._changed.add(name)

    def fetched(self, name: str, items: Iterable[Json], version: int, now: float) -> None:
        """All slices of a set, as of resourceVersion `version`."""
        self.fetches.answered(name)
        if name in self.users:
            self._cache.fetched(name, items, version, now)
            self._changed.add(name)
            if not self._cache.watched(name):
                self.fetches.schedule(name, now + REFETCH_SECONDS)

    def fetch_failed(self, name: str, delay: float, now: float) -> None:
        """The API server did not answer; ask again after `delay` seconds."""
        self.fetches.answered(name)
        if name in self.users:
            self.fetches.schedule(name, now + delay)

    def use(self, key: Key, names: frozenset[str]) -> None:
        """Which sets a policy needs now."""
        before = self._uses.pop(key, frozenset())
        if names:
            self._uses[key] = names
        for name in names - before:
            self.users.setdefault(name, set()).add(key)
        for name in before - names:
            self.users[name].discard(key)
            if not self.users[name]:
                del self.users[name]
        self._changed |= (names - before) | {name for name in before - names if name not in self.users}

    def look_at_all(self) -> None:
        """The watch is whole: what it has not brought has to be fetched."""
        self._changed |= self.users.keys()

    # -- what is asked ---------------------------------------------------------------------------------

    def lacking(self, published: PublishedPolicy, now: float) -> list[str]:
        """The sets that are not here, or older than the policy was published with."""
        return sorted(n for n in published.policy.set_names if self._version(n, now) < published.need(n))

    def _version(self, name: str, now: float) -> int:
        """As of which resourceVersion the set's value is known; -1: there is none."""
        version = self._cache.version(name, now)
        # All that the watch brings was seen up to its last event, whichever object that was about.
        return max(version, self.watermark) if version >= 0 and self._cache.watched(name) else version

    @property
    def unread(self) -> bool:
        """Whether a set is needed of which nothing was ever understood."""
        return any(self._cache.unread(name) for name in self.users)

    @property
    def changed_users(self) -> set[Key]:
        """The policies that need a set which the next `settle` looks at."""
        return {key for name in self._changed for key in self.users.get(name, ())}

    # -- what goes out ---------------------------------------------------------------------------------

    def settle(self, now: float, listed: bool, waits: Callable[[Key], bool]) -> set[Key]:
        """Hand over what changed, and plan fetches. `listed`: whether the watch is whole. `waits`: whether a policy waits for its
        sets. Returns the policies one of whose sets was deleted."""
        bereft: set[Key] = set()
        changed, self._changed = self._changed, set()
        for name in changed:
            if name not in self.users:
                self._release(name)
                continue
            if self._hand_over(name, now):
                bereft |= self.users[name]
            if listed:  # before that nobody knows what the watch will bring
                self._plan_fetch(name, any(map(waits, self.users[name])), now)
        return bereft

    def _release(self, name: str) -> None:
        self._cache.release(name)
        self.fetches.cancel(name)
        if self._notified.pop(name, None) is not None:
            self._mailbox.address_set(name, None)

    def _hand_over(self, name: str, now: float) -> bool:
        """Returns whether the set was deleted, although it is needed. The compiler keeps it as long as a rule names it."""
        value, notified = self._cache.value(name, now), self._notified.get(name)
        if value is not None and value is not notified:
            self._mailbox.address_set(name, value)
            self._notified[name] = value
        elif value is None and notified is not None:
            self._mailbox.address_set(name, None)
            del self._notified[name]
            return True
        return False

    def _plan_fetch(self, name: str, late: bool, now: float) -> None:
        if not self._cache.watched(name):
            self.fetches.schedule(name, now + FETCH_DELAY_SECONDS)
            return
        self.fetches.cancel(name)
        if late:
            self.fetches.schedule(name, now + LATE_FETCH_DELAY_SECONDS)
