"""What a source's own thread hands to the agent's loop: changes merged by object, the last one wins, and a file descriptor.

In: pods, sets and policies as they are now (None: gone), staged and then delivered as one step. Out: one `Delta` for all that was
delivered since the last `take`. A step is taken whole or not at all, so a policy never comes without the sets it came with.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from netpol_agent.inputs.source import Delta
from netpol_api.api_objects import version_number
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Standing:
    """How the source stands: replaced as a whole, so that a reader in another thread sees one moment."""

    complete: bool = False
    problems: tuple[str, ...] = ()
    revisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Step:
    pods: dict[Key, Pod | None] = field(default_factory=dict)
    sets: dict[str, AddressSet | None] = field(default_factory=dict)
    policies: dict[Key, CompiledPolicy | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pods or self.sets or self.policies)


class Inbox:
    """Staged by one thread, taken by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._staged = _Step()
        self._pending = _Step()
        self._standing = Standing()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    # -- the source's thread ---------------------------------------------------------------------------

    def pod(self, key: Key, pod: Pod | None) -> None:
        self._staged.pods[key] = pod

    def address_set(self, name: str, value: AddressSet | None) -> None:
        self._staged.sets[name] = value

    def policy(self, key: Key, policy: CompiledPolicy | None) -> None:
        self._staged.policies[key] = policy

    def deliver(self, standing: Standing) -> None:
        """Hand over what is staged, with how the source stands now. Wakes the agent when there is something to look at."""
        step, self._staged = self._staged, _Step()
        with self._lock:
            news = bool(step) or (standing.complete, standing.problems) != (self._standing.complete, self._standing.problems)
            self._pending.pods.update(step.pods)
            self._pending.sets.update(step.sets)
            self._pending.policies.update(step.policies)
            self._standing = standing
        if news:
            os.eventfd_write(self._event, 1)

    # -- the agent's thread ----------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        return self._standing

    def fileno(self) -> int:
        return self._event

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def take(self) -> Delta:
        """Everything delivered since the last call."""
        with self._lock:
            step, self._pending = self._pending, _Step()
            revisions = self._standing.revisions
        return Delta(
            pods_up=_up(step.pods),
            pods_down=_down(step.pods),
            sets_up=_up(step.sets),
            sets_down=_down(step.sets),
            policies_up=_up(step.policies),
            policies_down=_down(step.policies),
            objects_revision=version_number(revisions.get("pods", "")),
            ir_revision=version_number(revisions.get("compiledPolicies", "")),
            revisions=revisions,
        )

    def close(self) -> None:
        os.close(self._event)


def _up(values: Mapping[Key, T | None] | Mapping[str, T | None]) -> tuple[T, ...]:
    return tuple(v for v in values.values() if v is not None)


def _down(values: Mapping[T, object | None]) -> tuple[T, ...]:
    return tuple(k for k, v in values.items() if v is None)
