"""The IR as the API server holds it, kept up to date by reflectors and by the answers to our own writes.

    reflectors of AddressSets, CompiledPolicies --on_update, on_delete--> ObservedIR <--record-- requests (our own writes)
                                                                              '--on_foreign(path, object)--> publisher

What an object is reduced to (`ObservedObject`) is all that a comparison with the desired IR needs. No I/O.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from netpol_api import resources
from netpol_compiler.model.objects import Key
from netpol_compiler.policy import wire
from netpol_compiler.policy.slices import set_of_slice
from netpol_kube.client import Json

Item = str | Key
"""What is compared as a whole: a set, by its name, with all its slices; or a policy, by its key."""


@dataclass(frozen=True, slots=True)
class ObservedObject:
    """One IR object that the API server holds. `digest` covers all that we write but the span, and `needs`, which ages."""

    uid: str
    version: int
    digest: bytes
    span: frozenset[int]
    status: Json | None = None


class ObservedIR:
    """`objects`: path -> object. `slices`: set name -> the paths of its slices.

    `on_foreign(path, object)` is called when somebody else has written an object, or deleted it (None).
    """

    def __init__(self, on_foreign: Callable[[str, Json | None], None]) -> None:
        self.objects: dict[str, ObservedObject] = {}
        self.slices: dict[str, set[str]] = {}
        self._on_foreign = on_foreign
        self._being_written: set[str] = set()

    def on_update(self, path: str, data: Json) -> None:
        """The watch has an object. One that is being written is left to that write's own answer."""
        known = self.objects.get(path)
        # Mostly an echo of our own writes: thousands after a start, so nothing is worked out of them.
        if path in self._being_written or (known is not None and known.version >= version_of(data) > 0):
            return
        new = _observed(data)
        self._set(path, new)
        if known is None or (known.digest, known.span, known.uid) != (new.digest, new.span, new.uid):
            self._on_foreign(path, data)

    def on_delete(self, path: str) -> None:
        """The watch has an object's deletion."""
        if path not in self._being_written and path in self.objects:
            self._set(path, None)
            self._on_foreign(path, None)

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[None]:
        """While a write of ours is under way the watch does not count for this object."""
        self._being_written.add(path)
        try:
            yield
        finally:
            self._being_written.discard(path)

    def record(self, path: str, data: Json | None) -> None:
        """The API server's own answer: the object as it is now, None for deleted."""
        self._set(path, None if data is None else _observed(data))

    def _set(self, path: str, now: ObservedObject | None) -> None:
        if now is not None:
            self.objects[path] = now
        else:
            self.objects.pop(path, None)
        name = item_of(path)
        if isinstance(name, Key):
            return
        if now is not None:
            self.slices.setdefault(name, set()).add(path)
        elif name in self.slices:
            self.slices[name].discard(path)
            if not self.slices[name]:
                del self.slices[name]


class ObservedSink:
    """A reflector's way into the observed IR, for one of the two kinds."""

    def __init__(self, observed: ObservedIR, path_of: Callable[[str, str], str]) -> None:
        self._observed = observed
        self._path_of = path_of

    def put(self, data: Json) -> None:
        metadata = data["metadata"]
        self._observed.on_update(self._path_of(str(metadata.get("namespace") or ""), str(metadata["name"])), data)

    def gone(self, namespace: str, name: str) -> None:
        self._observed.on_delete(self._path_of(namespace, name))


def item_of(path: str) -> Item:
    """The set or policy that an IR object's path belongs to."""
    *_, second, kind, name = path.split("/")
    return set_of_slice(name) if kind == "addresssets" else Key(second, name)


def kind_of(item: Item) -> str:
    """The kind of the objects of which an item consists."""
    return "CompiledPolicy" if isinstance(item, Key) else "AddressSet"


def digest_of(body: Json) -> bytes:
    """16 bytes over all that readers of an IR object depend on: its spec without `needs`, and whose it is."""
    spec = body.get("spec")
    content = {k: v for k, v in spec.items() if k != "needs"} if isinstance(spec, dict) else spec
    metadata = body.get("metadata") or {}
    owners = [owner.get("uid") for owner in metadata.get("ownerReferences") or ()]
    label = (metadata.get("labels") or {}).get(resources.SET_LABEL)
    try:
        counted = wire.to_bytes({"spec": content, "owners": owners, "set": label})
    except wire.WireError:
        return b""  # no form of ours: it is written anew
    return hashlib.blake2b(counted, digest_size=16).digest()


def version_of(data: Json) -> int:
    """An object's resourceVersion as a number; 0 for none."""
    return resources.version_number((data.get("metadata") or {}).get("resourceVersion"))


def _observed(data: Json) -> ObservedObject:
    metadata: Any = data.get("metadata") or {}
    status = data.get("status")
    return ObservedObject(
        str(metadata.get("uid") or ""),
        version_of(data),
        digest_of(data),
        resources.span_of(metadata.get("labels") or {}),
        status if isinstance(status, dict) else None,
    )
