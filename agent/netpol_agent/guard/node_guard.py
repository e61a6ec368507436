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
from netpol_agent.guard.guard import Guard, is_there, remove
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
_CHANGES = flags.CLOSE_WRITE | flags.MOVED_TO | flags.DELETE


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
        self._link = NftLink()
        """To nf_tables."""
        self._guard = Guard(self._link)
        """What the kernel holds."""
        self._removed = False
        """Whether an earlier agent's guard was looked for, where none is wanted."""
        self._watch = INotify(nonblocking=True)
        """Says when a result comes or goes."""
        self._watched = False
        """Whether the folder was there to be watched."""
        self._results: CniResults | None = None
        """What the folder held when it was read last; None: it must be read."""
        self._unknown_since: dict[Key, float] = {}
        """Since when a pod runs here whose port is not known (time.monotonic)."""
        self._next_verify = 0.0
        """When the kernel is read back (time.monotonic)."""
        self._failure = ""
        """Why the kernel could not be written; empty if it could."""

    def fileno(self) -> int:
        descriptor: int = self._watch.fileno()
        return descriptor

    def drain(self) -> None:
        """Take what `fileno` has announced."""
        if self._watch.read(timeout=0):
            self._results = None

    def step(self, pods: Mapping[Key, Pod], ready: Iterable[Key], isolated: Mapping[Key, frozenset[Direction]]) -> bool:
        """Bring the kernel up to date; whether anything was written. `ready`: the pods whose rules are in force."""
        if self._options.mode is Mode.OFF:
            return self._remove()
        if not self._watched:
            self._begin_to_watch()
        if self._results is None:
            self._results = read_results(self._options.results)
        try:
            self._verify()
            written = self._guard.sync(self._state(pods, frozenset(ready), isolated))
            self._failure = ""
        except (OSError, KernelError) as error:
            self._failure = str(error)
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
            found.append(
                "the node's pod blocks are not known, so new pods are open until their rules are in force: set --pod-cidr"
            )
        found += self._results.problems if self._results is not None else ()
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
        there = not self._removed and is_there(self._link)
        if there:
            try:
                remove(self._link)
                self._failure = ""
            except KernelError as error:
                self._failure = str(error)
                return False
        self._removed = True
        return there

    def _begin_to_watch(self) -> None:
        try:
            self._watch.add_watch(self._options.results, _CHANGES)
            self._watched = True
        except OSError:
            self._results = None  # not there yet: look again at the next step

    def _verify(self) -> None:
        now = time.monotonic()
        if now >= self._next_verify:
            self._next_verify = now + VERIFY_SECONDS
            self._guard.verify()

    def _state(self, pods: Mapping[Key, Pod], ready: frozenset[Key], isolated: Mapping[Key, frozenset[Direction]]) -> GuardState:
        there = links()
        found = ports_of(self._results.networks if self._results else (), there, pods, isolated)
        now = time.monotonic()
        self._unknown_since = {pod: self._unknown_since.get(pod, now) for pod in found.unknown}
        blocks = self._blocks()
        own = (_address(raw) for raw in own_addresses() if raw)
        known = {address for key in ready if key in pods for address in pods[key].addresses}
        known |= {address for address in own if any(block.contains(address) for block in blocks)}
        return GuardState(self._options.mode, found.ports, frozenset(known), blocks, tunnels_of(there))


def _address(raw: bytes) -> Address:
    return Address(4 if len(raw) == 4 else 6, int.from_bytes(raw, "big"))
