"""The guard of a running agent: when CNI's results, the interfaces or the pods change, the kernel's guard follows.

In: options, the node's compiler, and which of its pods have their rules in force. Out: the guard in the kernel; problems in
words; packets by reason. A pod is let through the gate only when its rules are in force, so what is new stays shut until
then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from inotify_simple import INotify, flags

from netpol_agent.errors import KernelError
from netpol_agent.guard.cni_results import DEFAULT_FOLDER, CniResults, read_results
from netpol_agent.guard.guard import Guard, remove_guard
from netpol_agent.guard.ports import ports_of, tunnels_of
from netpol_agent.guard.state import GuardState, Mode
from netpol_agent.netlink.links import links
from netpol_agent.netlink.messages import own_addresses
from netpol_agent.netlink.nftables import NftLink
from netpol_compiler.model.addresses import Address, Network
from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import Key, Pod

VERIFY_SECONDS = 5.0
"""Between two looks at what the kernel really holds."""
UNKNOWN_GRACE_SECONDS = 10.0
"""For so long a pod that starts may be without a known port, before that is a problem."""
_MOST_NAMED = 3
_NO_GATE = (
    "the node's pod blocks are not known (its Node has no podCIDRs), so new pods are open until their rules are in force; "
    "set --pod-cidr"
)
_CHANGES = flags.CLOSE_WRITE | flags.MOVED_TO | flags.DELETE


_Admitted = tuple[Key, str, tuple[Address, ...]]
"""A pod by name, uid and addresses: another of the name, or the same at another address, has to pass anew."""


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """`results`: where libcni keeps what the plugins made. `blocks`: the node's own pod addresses; none: there is no gate."""

    mode: Mode = Mode.OFF
    results: Path = DEFAULT_FOLDER
    blocks: tuple[Network, ...] = ()


class NodeGuard:
    """See the module's docstring. One thread at a time; `fileno` is readable when a result came or went."""

    def __init__(self, options: GuardOptions, blocks: Callable[[], tuple[Network, ...]]) -> None:
        self._options = options
        """What was asked for."""
        self._blocks = blocks
        """The node's own pod addresses, as far as they are known by now."""
        self._guard: Guard | None = None
        """What the kernel holds; made at the first step that needs it."""
        self._removed = False
        """Whether an earlier agent's guard is gone, where none is wanted."""
        self._watch: INotify | None = None
        """Says when a result comes or goes; None until the folder is there."""
        self._results = CniResults()
        """What the folder held when it could be read last."""
        self._stale = True
        """Whether it must be read again."""
        self._admitted: frozenset[_Admitted] = frozenset()
        """Who has passed the gate, and does so for as long as it lives: rules that cannot be changed stay as they were."""
        self._unknown_since: dict[Key, float] = {}
        """Since when a pod runs here whose port is not known (time.monotonic)."""
        self._next_verify = 0.0
        """When the kernel is read back (time.monotonic)."""
        self._failure = ""
        """Why the kernel could not be written; empty if it could."""

    @property
    def descriptors(self) -> list[int]:
        """What is readable when a result came or went."""
        return [] if self._watch is None else [self._watch.fileno()]

    @property
    def idle(self) -> bool:
        """Whether no step has anything to do any more."""
        return self._options.mode is Mode.OFF and self._removed

    def drain(self) -> None:
        """Take what `descriptors` have announced."""
        for event in self._watch.read(timeout=0) if self._watch is not None else ():
            self._stale = True
            if event.mask & flags.IGNORED and self._watch is not None:  # the folder is gone; another may come
                self._watch.close()
                self._watch = None
                return

    def step(self, pods: Mapping[Key, Pod], ready: Iterable[Key], isolated: Mapping[Key, frozenset[Direction]]) -> bool:
        """Bring the kernel up to date; whether anything was written. `ready`: the pods whose rules are in force."""
        if self._options.mode is Mode.OFF:
            return self._remove()
        if self._watch is None:
            self._begin_to_watch()
        try:
            self._guard = self._guard or Guard(NftLink())
            self._verify(self._guard)
            if self._stale:
                self._read()
            written = self._guard.sync(self._state(pods, frozenset(ready), isolated))
            self._failure = ""
        except (OSError, KernelError) as error:
            self._failure, self._guard = str(error), None  # a late answer must not be taken for that to the next question
            return False
        return written

    @property
    def due(self) -> float | None:
        """When to step again even if nothing changes (time.monotonic); None: never."""
        return None if self._options.mode is Mode.OFF else self._next_verify

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not guarded, in words, with the remedy."""
        found = [self._failure] if self._failure else []
        if self._options.mode is Mode.OFF:
            return tuple(found)
        if not self._blocks():
            found.append(_NO_GATE)
        found += self._results.problems[:_MOST_NAMED]
        limit = time.monotonic() - UNKNOWN_GRACE_SECONDS
        late = sorted(str(pod) for pod, since in self._unknown_since.items() if since < limit)
        if late:
            named = ", ".join(late[:_MOST_NAMED]) + (f" and {len(late) - _MOST_NAMED} more" if len(late) > _MOST_NAMED else "")
            found.append(
                f"not guarded against forged addresses, because {self._options.results} does not name their port: {named}"
            )
        return tuple(found)

    def _remove(self) -> bool:
        """Once: what an agent with a guard has left here."""
        if self._removed:
            return False
        try:
            removed = remove_guard()
        except (OSError, KernelError) as error:
            self._failure = f"an earlier agent's guard cannot be removed: {error}"
            return False
        self._removed, self._failure = True, ""
        return removed

    def _read(self) -> None:
        results = read_results(self._options.results)
        kept = results.networks if results.readable else self._results.networks
        self._results, self._stale = CniResults(kept, results.problems), False

    def _begin_to_watch(self) -> None:
        try:
            watch = INotify(nonblocking=True)
        except OSError:
            return  # no more instances on this node: the folder is read every few seconds
        try:
            watch.add_watch(self._options.results, _CHANGES)
            self._watch = watch
        except OSError:
            watch.close()  # not there yet

    def _verify(self, guard: Guard) -> None:
        now = time.monotonic()
        if now >= self._next_verify:
            self._next_verify = now + VERIFY_SECONDS
            self._stale = True
            guard.verify()

    def _state(self, pods: Mapping[Key, Pod], ready: frozenset[Key], isolated: Mapping[Key, frozenset[Direction]]) -> GuardState:
        there = links()
        found = ports_of(self._results.networks, there, pods, isolated)
        now = time.monotonic()
        self._unknown_since = {pod: self._unknown_since.get(pod, now) for pod in found.unknown}
        blocks = self._blocks()
        own = (_address(raw) for raw in own_addresses() if raw)
        live = {key: (key, pod.uid, pod.addresses) for key, pod in pods.items() if pod.is_endpoint}
        self._admitted = frozenset(one for key, one in live.items() if key in ready or one in self._admitted)
        known = {address for _, _, addresses in self._admitted for address in addresses}
        known |= {address for address in own if any(block.contains(address) for block in blocks)}
        return GuardState(self._options.mode, found.ports, frozenset(known), blocks, tunnels_of(there))


def _address(raw: bytes) -> Address:
    return Address(4 if len(raw) == 4 else 6, int.from_bytes(raw, "big"))
