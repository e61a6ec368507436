"""The network of a desired state made real; what cannot be built is left out for a while.

    DesiredState ──▶ PodNetworks ──real (blocks, in a thread)──▶ namespaces, cables, listeners
          ▲               └──▶ the same state, as far as its network is there; refused: uid -> why not
          └── planner: leaves out what is refused, and reports it on its object

One faulty pod must not keep the others from their network: when a build fails, the new pods are tried one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from netpol_compiler.model.objects import Key
from netpol_lab.errors import LabError
from netpol_lab.kubelet.desired_state import DesiredState, PlacedPod
from netpol_lab.offline.objects import LabState
from netpol_lab.topology.model import Topology

REFUSED_SECONDS = 5.0
"""So long a pod whose network could not be made is left out before it is tried again."""
BUILD_ERRORS = (LabError, OSError, KeyError)


class PodNetworks:
    """`refused`: uids of pods that are left out for now, and why. `on_retry` is called when one may be tried again."""

    def __init__(self, real: Callable[[LabState], None], on_retry: Callable[[], None]) -> None:
        self.refused: dict[str, str] = {}
        self._real = real
        self._on_retry = on_retry
        self._built = Topology()

    async def make(self, desired: DesiredState, running: Mapping[Key, PlacedPod]) -> DesiredState:
        """Make the network real, when `running` were the pods before; returns the state as far as it is."""
        problems = tuple(map(str, desired.problems))
        renewed = {
            k for k, p in desired.running.items()
            if k in running and running[k].uid != p.uid and not desired.topology.pods[k].host_network
        }  # fmt: skip
        if renewed:
            # Another pod of the same name gets a namespace of its own, even where it has the same address.
            rest = {k: p for k, p in self._built.pods.items() if k not in renewed}
            await self._build(replace(self._built, pods=rest), problems)
        if desired.topology == self._built:
            return desired
        try:
            await self._build(desired.topology, problems)
        except BUILD_ERRORS as error:
            return await self._without_faulty(desired, problems, error)
        return desired

    async def _build(self, topology: Topology, problems: tuple[str, ...]) -> None:
        await asyncio.to_thread(self._real, LabState(topology=topology, problems=problems))
        self._built = topology

    async def _without_faulty(self, desired: DesiredState, problems: tuple[str, ...], error: Exception) -> DesiredState:
        """Find the new pods that cannot be built, one by one. Raises `error` where it is none of them."""
        new = [k for k in desired.topology.pods if k not in self._built.pods]
        pods = {k: p for k, p in desired.topology.pods.items() if k not in new}
        faulty = set()
        for key in new:
            try:
                await self._build(replace(desired.topology, pods={**pods, key: desired.topology.pods[key]}), problems)
                pods[key] = desired.topology.pods[key]
            except BUILD_ERRORS as fault:
                self._refuse(desired.running[key].uid, f"its network cannot be made: {fault}")
                faulty.add(key)
        if not faulty:
            raise error
        await self._build(replace(desired.topology, pods=pods), problems)
        self._on_retry()
        return replace(desired, topology=self._built, running={k: p for k, p in desired.running.items() if k not in faulty})

    def _refuse(self, uid: str, reason: str) -> None:
        self.refused[uid] = reason

        def forget() -> None:
            self.refused.pop(uid, None)
            self._on_retry()

        asyncio.get_running_loop().call_later(REFUSED_SECONDS, forget)


__all__ = ["PodNetworks"]
