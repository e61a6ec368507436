"""What has to be compared with the API server, and in which order a batch of it is written. Pure: no requests.

              add                take                   finish
    changes -------> QUEUED ------------> IN PROGRESS ----------> done
                       ^  ^                 |      |  fails or is blocked
                       |  '---- put_back ---'      v
                       '-------- retry --------- FAILED

    Phase    WRITE_SETS -> WRITE_POLICIES -> DELETE_POLICIES -> DELETE_SETS

A policy is written when every set that it names is there, and a set is deleted when no policy that is still there may name it:
so that no reader ever meets a policy without its sets. What fails holds up only what depends on it.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable

from netpol_api import resources
from netpol_compiler.model.objects import Key
from netpol_operator.publishing.desired import DesiredIR
from netpol_operator.publishing.observed import Item, ObservedIR


class Phase(enum.Enum):
    """The steps of a batch, in their order."""

    WRITE_SETS = enum.auto()
    WRITE_POLICIES = enum.auto()
    DELETE_POLICIES = enum.auto()
    DELETE_SETS = enum.auto()


class WorkQueue:
    """Sets and policies by what becomes of them: see the drawing. An item may have failed before and be queued again."""

    def __init__(self) -> None:
        self.queued: set[Item] = set()
        self.failed: set[Item] = set()

    @property
    def backlog(self) -> int:
        """How many items are still to be compared."""
        return len(self.queued | self.failed)

    def add(self, *items: Item) -> None:
        """These may not be as they should be."""
        self.queued.update(items)

    def take(self) -> frozenset[Item]:
        """A batch: all that is queued, which is in progress from now on."""
        batch, self.queued = frozenset(self.queued), set()
        return batch

    def finish(self, batch: frozenset[Item], failed: Collection[Item]) -> None:
        """The batch was worked through; `failed` are those of it that are not as they should be."""
        self.failed = (self.failed - batch).union(failed)

    def put_back(self, batch: frozenset[Item]) -> None:
        """The batch was broken off: nothing of it is known to be as it should be."""
        self.queued |= batch

    def retry(self) -> None:
        """Queue what has failed. It counts as failed until it is done."""
        self.queued |= self.failed


def items_of(phase: Phase, batch: Iterable[Item], desired: DesiredIR) -> set[Item]:
    """The items of a batch that one phase is about."""
    policies = phase in (Phase.WRITE_POLICIES, Phase.DELETE_POLICIES)
    wanted = phase in (Phase.WRITE_SETS, Phase.WRITE_POLICIES)
    return {item for item in batch if isinstance(item, Key) == policies and desired.is_wanted(item) == wanted}


def blocked_of(
    phase: Phase, items: Iterable[Item], failed: Collection[Item], desired: DesiredIR, observed: ObservedIR
) -> set[Item]:
    """Those of a phase's items that must wait for something that has failed."""
    if phase is Phase.WRITE_POLICIES:
        return {key for key in items if isinstance(key, Key) and not desired.policies[key].set_names.isdisjoint(failed)}
    if phase is Phase.DELETE_SETS:
        # A policy that still stands as it was may name a set that nobody else wants: its set stays too.
        stands = any(isinstance(item, Key) and resources.compiled_policy_path(item) in observed.objects for item in failed)
        return set(items) if stands else set()
    return set()
