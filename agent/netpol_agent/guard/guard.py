"""Brings a node's guard to the kernel: two tables at once when it begins or its shape changes, and members one change at a
time.

In: the `GuardState` that should hold. Out: what was changed; KernelError where the kernel refuses. What is programmed is
remembered, and `verify` reads it back: somebody may have flushed it.
"""

from __future__ import annotations

from collections.abc import Mapping

from netpol_agent.errors import KernelError
from netpol_agent.guard.state import GuardSet, GuardState, Mode, members
from netpol_agent.guard.tables import TABLE, build, set_family
from netpol_agent.netlink import nftables as nft
from netpol_agent.netlink.nftables import BRIDGE, INET, Message, NftLink


class Guard:
    """See the module's docstring. One thread at a time."""

    def __init__(self, link: NftLink) -> None:
        self._link = link
        self._shape: tuple[object, ...] | None = None
        self._members: Mapping[GuardSet, frozenset[bytes]] = {}
        self._rules: Mapping[int, frozenset[bytes]] = {}

    def sync(self, state: GuardState) -> bool:
        """Make the kernel hold `state`, in one transaction; whether anything was written. Raises KernelError."""
        if state.mode is Mode.OFF:
            return False
        wanted, shape = members(state), state.shape
        if shape == self._shape and wanted == self._members:
            return False
        messages: list[Message] = []
        there = self._members
        if shape != self._shape:
            messages, there = build(state), {}
        for name, keys in wanted.items():
            old = there.get(name, frozenset())
            messages += nft.elements(set_family(name), TABLE, name.value, sorted(old - keys), delete=True)
            messages += nft.elements(set_family(name), TABLE, name.value, sorted(keys - old))
        try:
            self._link.commit(messages)
        except OSError as error:
            self._shape = None  # what is there now is not known: the next one writes all of it
            raise KernelError(f"the guard cannot be programmed: {error.strerror or error}") from error
        if shape != self._shape:
            self._rules = self._handles()
        self._shape, self._members = shape, wanted
        return True

    def _handles(self) -> Mapping[int, frozenset[bytes]]:
        try:
            return {family: self._link.rules(family, TABLE) for family in (BRIDGE, INET)}
        except OSError as error:
            raise KernelError(f"the guard cannot be read: {error.strerror or error}") from error

    def verify(self) -> bool:
        """Whether the kernel still holds what was written; if not, the next sync writes all of it. Raises KernelError."""
        if self._shape is None:
            return True
        try:
            right = self._handles() == self._rules and all(
                self._link.members(set_family(name), TABLE, name.value) == keys for name, keys in self._members.items()
            )
        except FileNotFoundError:
            right = False
        except OSError as error:
            raise KernelError(f"the guard cannot be read: {error.strerror or error}") from error
        if not right:
            self._shape = None
        return right


def packets(link: NftLink) -> dict[str, int]:
    """Packets counted by reason, over both tables; empty where there is no guard."""
    try:
        bridged, routed = link.counters(BRIDGE, TABLE), link.counters(INET, TABLE)
    except OSError:
        return {}
    return {reason: bridged.get(reason, 0) + routed.get(reason, 0) for reason in bridged | routed}


def guard_packets() -> dict[str, int]:
    """The same, over a link of one's own: for any thread."""
    try:
        link = NftLink()
    except OSError:
        return {}
    try:
        return packets(link)
    finally:
        link.close()


def is_there(link: NftLink) -> bool:
    """Whether this node has a guard, of this agent or an earlier one."""
    try:
        link.members(BRIDGE, TABLE, GuardSet.PORTS.value)
    except OSError:
        return False
    return True


def remove_guard() -> bool:
    """Remove this node's guard, if it has one; whether it had. Raises OSError and KernelError."""
    link = NftLink()
    try:
        there = is_there(link)
        if there:
            remove(link)
        return there
    finally:
        link.close()


def remove(link: NftLink) -> None:
    """Remove the guard's tables, whether or not they are there. Raises KernelError."""
    for family in (BRIDGE, INET):
        try:
            link.commit([nft.new_table(family, TABLE), nft.delete_table(family, TABLE)])
        except OSError as error:
            raise KernelError(f"the guard cannot be removed: {error.strerror or error}") from error
