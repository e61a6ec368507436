"""What a source's own thread hands to the agent's loop: changes merged by object, the last one wins, and a file descriptor.

In: pods, sets and policies as they are now (None: deleted), staged and then delivered as one step. Out: one `Delta` for all that
was delivered since the last `take`. A step is taken whole or not at all, so a policy never comes without the sets it came with.

    pod, address_set, policy --> staged --deliver--> pending --take--> Delta
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from netpol_agent.inputs.source import Delta
from netpol_agent.threads.wakeup import Wakeup
from netpol_api.api_objects import version_number
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How the source stands: replaced as a whole, so that a reader in another thread sees one moment."""

    complete: bool = False
    problems: tuple[str, ...] = ()
    revisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Batch:
    """Changes by object; None: deleted."""

    pods: dict[Key, Pod | None] = field(default_factory=dict)
    sets: dict[str, AddressSet | None] = field(default_factory=dict)
    policies: dict[Key, CompiledPolicy | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pods or self.sets or self.policies)

    def update(self, later: _Batch) -> None:
        self.pods.update(later.pods)
        self.sets.update(later.sets)
        self.policies.update(later.policies)


class Mailbox:
    """Staged by one thread, taken by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Guards `_pending` and `_status`, which both threads use."""
        self._staged = _Batch()
        """What the source's thread has not delivered yet."""
        self._pending = _Batch()
        """What was delivered and not taken yet."""
        self._status = SourceStatus()
        """As of the last delivery."""
        self.taken = SourceStatus()
        """As of the last `take`: what the agent has goes with this, and not with what was delivered since."""
        self._wakeup = Wakeup()
        """Wakes the agent's loop after a delivery."""

    # -- the source's thread ---------------------------------------------------------------------------

    def pod(self, key: Key, pod: Pod | None) -> None:
        self._staged.pods[key] = pod

    def address_set(self, name: str, value: AddressSet | None) -> None:
        self._staged.sets[name] = value

    def policy(self, key: Key, policy: CompiledPolicy | None) -> None:
        self._staged.policies[key] = policy

    def deliver(self, status: SourceStatus) -> None:
        """Hand over what is staged, with how the source stands now. Wakes the agent when there is something to look at."""
        batch, self._staged = self._staged, _Batch()
        with self._lock:
            news = bool(batch) or (status.complete, status.problems) != (self._status.complete, self._status.problems)
            self._pending.update(batch)
            self._status = status
        if news:
            self._wakeup.wake()

    # -- the agent's thread ----------------------------------------------------------------------------

    @property
    def status(self) -> SourceStatus:
        return self._status

    def fileno(self) -> int:
        return self._wakeup.fileno()

    def drain(self) -> None:
        self._wakeup.clear()

    def take(self) -> Delta:
        """Everything delivered since the last call."""
        with self._lock:
            batch, self._pending = self._pending, _Batch()
            self.taken = self._status
            revisions = self._status.revisions
        return Delta(
            pods_up=_up(batch.pods),
            pods_down=_down(batch.pods),
            sets_up=_up(batch.sets),
            sets_down=_down(batch.sets),
            policies_up=_up(batch.policies),
            policies_down=_down(batch.policies),
            objects_revision=version_number(revisions.get("pods", "")),
            ir_revision=version_number(revisions.get("compiledPolicies", "")),
            revisions=revisions,
        )

    def close(self) -> None:
        self._wakeup.close()


def _up(values: Mapping[Key, T | None] | Mapping[str, T | None]) -> tuple[T, ...]:
    return tuple(v for v in values.values() if v is not None)


def _down(values: Mapping[T, object | None]) -> tuple[T, ...]:
    return tuple(k for k, v in values.items() if v is None)
