"""One set or policy at the API server made as it is desired: compare, and write what differs.

    DesiredIR, ObservedIR --IRWriter--> CheckedRequests (create, replace, delete)

A set's members keep their slice, also over a restart, so that one pod's change rewrites one slice. A span grows with the change
that needs it and shrinks at a regular audit only (`let_shrink`), so that a pod that moves to and fro costs no writes. In which
order items are written is the work queue's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from netpol_api import resources
from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import CompiledPolicy
from netpol_compiler.policy.slices import Slices
from netpol_kube.client import Json
from netpol_operator.publishing.desired import DesiredIR
from netpol_operator.publishing.observed import Item, ObservedIR, digest_of, item_of
from netpol_operator.publishing.requests import CheckedRequests

log = logging.getLogger("npctl.publish")


class IRWriter:
    """`on_write` is called after each object that was written."""

    def __init__(self, desired: DesiredIR, observed: ObservedIR, requests: CheckedRequests, on_write: Callable[[], None]) -> None:
        self._desired = desired
        self._observed = observed
        self._requests = requests
        self._on_write = on_write
        self._slices: dict[str, Slices[Any]] = {}
        self._stale_slices: set[str] = set()
        self._shrinking: set[str] = set()

    # -- what the next comparison has to know ----------------------------------------------------------

    def mark_stale(self, path: str) -> None:
        """This object may not be what we wrote last."""
        if not isinstance(item_of(path), Key):
            self._stale_slices.add(path)

    def let_shrink(self, path: str) -> None:
        """The next comparison takes back the labels of nodes that do not need this object any more."""
        known = self._observed.objects.get(path)
        if known is not None and not known.span <= self._desired.buckets(item_of(path)):
            self._shrinking.add(path)

    def adopt(self, data: Json) -> None:
        """Remember which slice holds which member, so that a restart or a change of leader moves none."""
        try:
            document = resources.document_of(data)
            name, index = str(document["name"]), int(document["slice"])
            self._slices.setdefault(name, Slices()).mirror(index, wire.members_from_wire(document))
        except (wire.WireError, KeyError, TypeError, ValueError) as error:
            log.warning("AddressSet %s: %s; it is written anew if it is wanted", data["metadata"].get("name"), error)

    # -- one item: each returns how many objects were written or deleted, and raises KubeError or NotLeading --

    async def write(self, item: Item) -> int:
        """Make a set or policy that is wanted as it should be."""
        return await (self._write_policy(item) if isinstance(item, Key) else self._write_set(item))

    async def delete(self, item: Item) -> int:
        """Delete a set or policy that nobody wants."""
        return await (self._delete_policy(item) if isinstance(item, Key) else self._delete_set(item))

    async def _write_set(self, name: str) -> int:
        """The slices of a set that differ from what is there."""
        address_set = self._desired.sets[name]
        slices = self._slices.setdefault(name, Slices())
        before = len(slices.parts)
        changed = slices.update(address_set.members)
        buckets = self._desired.buckets(name)
        writes = []
        for index, members in enumerate(slices.parts):
            path = resources.address_set_path(name, index)
            if index in changed or before != len(slices.parts) or self._is_outdated(path, buckets):
                # Until it is written it counts as stale: a failed write must not be taken for done.
                self._stale_slices.add(path)
                document = wire.slice_to_wire(address_set, index, len(slices.parts), members)
                writes.append(self._write_slice(path, resources.address_set_object(document, self._span(path, buckets))))
        wanted = {resources.address_set_path(name, index) for index in range(len(slices.parts))}
        surplus = self._observed.slices.get(name, set()) - wanted
        done = sum(await asyncio.gather(*writes))
        await asyncio.gather(*(self._requests.delete(path) for path in surplus))
        self._stale_slices -= surplus
        return done + len(surplus)

    async def _write_slice(self, path: str, body: Json) -> int:
        known, span = self._observed.objects.get(path), resources.span_of(body["metadata"]["labels"])
        differs = known is None or known.digest != digest_of(body) or known.span != span
        if differs:
            await self._requests.write(path, body)
            self._on_write()
        self._stale_slices.discard(path)
        self._shrinking.discard(path)
        return int(differs)

    async def _write_policy(self, key: Key) -> int:
        policy, path = self._desired.policies[key], resources.compiled_policy_path(key)
        body = resources.compiled_policy_object(policy, self._desired.generations.get(key, 0), self._needs(policy))
        buckets, known = self._desired.buckets(key), self._observed.objects.get(path)
        if known is not None and not self._is_outdated(path, buckets) and known.digest == digest_of(body):
            return 0
        body["metadata"]["labels"] = resources.span_labels(self._span(path, buckets))
        await self._requests.write(path, body)
        self._on_write()
        self._shrinking.discard(path)
        return 1

    async def _delete_policy(self, key: Key) -> int:
        path = resources.compiled_policy_path(key)
        known = path in self._observed.objects
        await self._requests.delete(path)
        return int(known)

    async def _delete_set(self, name: str) -> int:
        paths = list(self._observed.slices.get(name, ()))
        await asyncio.gather(*map(self._requests.delete, paths))
        self._slices.pop(name, None)
        self._stale_slices.difference_update(paths)
        return len(paths)

    # -- comparing -------------------------------------------------------------------------------------

    def _is_outdated(self, path: str, buckets: frozenset[int]) -> bool:
        """Whether an object has to be compared although its own content did not change."""
        known = self._observed.objects.get(path)
        return known is None or not buckets <= known.span or path in self._stale_slices or path in self._shrinking

    def _span(self, path: str, buckets: frozenset[int]) -> frozenset[int]:
        """The span to write: what is there shrinks only where it is let."""
        known = self._observed.objects.get(path)
        return buckets if known is None or path in self._shrinking else buckets | known.span

    def _needs(self, policy: CompiledPolicy) -> dict[str, str]:
        """The newest resourceVersion among the slices of each set that a policy names."""
        paths = {name: self._observed.slices.get(name, ()) for name in policy.set_names}
        return {name: str(max(self._observed.objects[p].version for p in found)) for name, found in paths.items() if found}
