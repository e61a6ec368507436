"""Packets without a pause while something happens: what must always pass, and what must never.

    with Probes(ground, ["friend -> server 8080"], ["stranger -> server 8080"], control="friend -> other 8080") as probes:
        ... kill, change, start ...
    assert not probes.wrong

A connection counts as refused when no packet comes back within a limit below TCP's first repetition (1 s), so that a single
dropped packet shows. In each round the control goes along, a connection that no policy is about: a round in which it is not
answered in time tells of the machine and not of policies, and does not count.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

from ground_api import Ground

ALLOWED_WITHIN, REFUSED_AFTER = 0.9, 0.25
"""Seconds."""
PAUSE = 0.02
MOST = 4000
"""Rounds of one thread at most."""
ENOUGH = 20
"""Rounds below which nothing was shown: what went faster is probed for a while more."""
PATIENCE = 60.0


class Probes:
    """`wrong` says what was seen that must not be; `rounds` how many rounds counted, of both kinds."""

    def __init__(self, ground: Ground, always: Sequence[str], never: Sequence[str], control: str) -> None:
        self.wrong: list[str] = []
        self.rounds = {"allowed": 0, "refused": 0}
        self._ground = ground
        self._control = control
        self._stop = threading.Event()
        self._faults: list[BaseException] = []
        kinds = [("allowed", tuple(always), ALLOWED_WITHIN), ("refused", tuple(never), REFUSED_AFTER)]
        self._threads = [threading.Thread(target=self._run, args=kind, name=kind[0]) for kind in kinds if kind[1]]
        self._wanted = [kind[0] for kind in kinds if kind[1]]

    def __enter__(self) -> Probes:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._ground.cluster.wait_for(self._enough, PATIENCE, f"{ENOUGH} rounds of each kind that count: {self.rounds}")
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        if error is None and self._faults:
            raise self._faults[0]

    def more(self, rounds: int) -> None:
        """Return when so many more rounds of the refused kind have counted."""
        wanted = self.rounds["refused"] + rounds
        counted = lambda: bool(self._faults) or self.rounds["refused"] >= wanted  # noqa: E731
        self._ground.cluster.wait_for(counted, PATIENCE, f"{rounds} more rounds of probes")

    def _enough(self) -> bool:
        return bool(self._faults) or all(self.rounds[wanted] >= ENOUGH for wanted in self._wanted)

    def _run(self, expected: str, lines: tuple[str, ...], limit: float) -> None:
        try:
            for number in range(MOST):
                if self._stop.is_set():
                    return
                control, *seen = self._ground.verdicts(self._control, *lines, limit=limit)
                if control != "allowed":
                    continue
                self.rounds[expected] += 1
                pairs = zip(lines, seen, strict=True)
                self.wrong += [f"{line}: {s} in round {number}, not {expected}" for line, s in pairs if s != expected]
                self._stop.wait(PAUSE)
        except BaseException as fault:
            self._faults.append(fault)
