"""What the agent's loop asks of its inputs: this node's pods and the policy IR, as changes since the last call.

`Delta` is such a change, `Source` where it comes from: the Kubernetes API (`api_source`) or folders (`folder_source`). What
cannot be understood keeps its last good state and is a problem in the report: unknown is never empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.node import NodeCompiler
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed since the last one. The revisions are those that it brings the agent up to (0: unknown); `revisions`
    are the API server's, by kind, where it is the source."""

    pods_up: tuple[Pod, ...] = ()
    pods_down: tuple[Key, ...] = ()
    sets_up: tuple[AddressSet, ...] = ()
    sets_down: tuple[str, ...] = ()
    policies_up: tuple[CompiledPolicy, ...] = ()
    policies_down: tuple[Key, ...] = ()
    objects_revision: int = 0
    ir_revision: int = 0
    revisions: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether a pod, a set or a policy changed."""
        return any((self.pods_up, self.pods_down, self.sets_up, self.sets_down, self.policies_up, self.policies_down))

    def apply_to(self, compiler: NodeCompiler) -> None:
        """Hand all of it to a node's compiler, which compiles it at its next flush."""
        for pod in self.pods_up:
            compiler.set_pod(pod)
        for key in self.pods_down:
            compiler.remove_pod(key)
        for address_set in self.sets_up:
            compiler.set_address_set(address_set)
        for policy in self.policies_up:
            compiler.set_policy(policy)
        for key in self.policies_down:
            compiler.remove_policy(key)
        for name in self.sets_down:
            compiler.remove_address_set(name)


class Source(Protocol):
    """An agent's inputs. Nothing may be programmed before `complete`."""

    @property
    def complete(self) -> bool:
        """Whether all inputs were read whole at least once."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be understood and so keeps its last good state, in words."""
        ...

    def changes(self) -> Delta:
        """Everything that changed since the last call."""
        ...

    def fileno(self) -> int:
        """Readable when there may be changes."""
        ...

    def drain(self) -> None:
        """Acknowledge what made `fileno` readable."""
        ...
