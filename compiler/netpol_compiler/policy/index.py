"""Which addresses does each set spec have now? Kept up to date one change at a time.

    set_pod ---> who holds each address --+
                                          +--> LabelIndex (address <-> set) --> members
    set_namespace, want ------------------+

In: `set_namespace`, `set_pod`, `want`, and their removals. Out: `members(name)`, and the names that changed since `take_dirty()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.objects import Key, Namespace, Pod
from netpol_compiler.policy.ir import Endpoint, SetKind, SetSpec
from netpol_compiler.policy.label_index import Change, GroupSelector, LabelIndex


@dataclass(eq=False, slots=True)
class _Set:
    """A wanted spec, how many policies want it, and its members now."""

    spec: SetSpec
    uses: int = 0
    members: set[Address | Endpoint] = field(default_factory=set)


class Index:
    """See the module's docstring. Not thread-safe; no I/O."""

    def __init__(self) -> None:
        # Each address with the labels of the pod that holds it, and each wanted set, by name.
        self._labels: LabelIndex[Address, str] = LabelIndex()
        self._sets: dict[str, _Set] = {}
        self._pods: dict[Key, Pod] = {}
        # The pods that claim an address, and the one of them that holds it.
        self._claims: dict[Address, tuple[Pod, ...]] = {}
        self._holders: dict[Address, Pod] = {}
        # The sets whose members may have changed since `take_dirty`.
        self._dirty: set[str] = set()

    # -- what is wanted --------------------------------------------------------------------------------

    def want(self, name: str, spec: SetSpec) -> None:
        """Keep the set `name` filled from now on; call `unwant` as often as this was called."""
        if name not in self._sets:
            self._sets[name] = _Set(spec)
            self._dirty.add(name)
            selector = GroupSelector(spec.namespace, spec.namespace_selector, spec.pod_selector)
            self._apply(self._labels.set_group(name, selector))
        self._sets[name].uses += 1

    def unwant(self, name: str) -> None:
        wanted = self._sets[name]
        wanted.uses -= 1
        if wanted.uses:
            return
        self._labels.remove_group(name)
        del self._sets[name]
        self._dirty.add(name)

    def spec(self, name: str) -> SetSpec | None:
        """The spec of a wanted set; None when nobody wants it (any more)."""
        wanted = self._sets.get(name)
        return wanted.spec if wanted else None

    def members(self, name: str) -> frozenset[Address] | frozenset[Endpoint]:
        return frozenset(self._sets[name].members)  # type: ignore[return-value]  # one kind per set, by its spec

    def take_dirty(self) -> frozenset[str]:
        """Names whose members may have changed, or that came or went, since the last call."""
        dirty, self._dirty = frozenset(self._dirty), set()
        return dirty

    # -- what there is ---------------------------------------------------------------------------------

    def set_namespace(self, namespace: Namespace) -> None:
        for change in self._labels.set_namespace(namespace.name, namespace.labels):
            self._apply(change)

    def remove_namespace(self, name: str) -> None:
        """Forget a namespace's labels. Its pods, if any are left, count by the namespace's name alone."""
        for change in self._labels.set_namespace(name, None):
            self._apply(change)

    def set_pod(self, pod: Pod) -> None:
        old = self._pods.get(pod.key)
        if old != pod:
            self._pods[pod.key] = pod
            self._claim(old, pod)

    def remove_pod(self, key: Key) -> None:
        self._claim(self._pods.pop(key, None), None)

    # -- addresses and their holders -------------------------------------------------------------------

    def _claim(self, old: Pod | None, new: Pod | None) -> None:
        """Replace the claims of a pod's old state by those of its new one."""
        before, now = _claimed(old), _claimed(new)
        for address in dict.fromkeys((*before, *now)):
            others = tuple(pod for pod in self._claims.get(address, ()) if pod is not old)
            self._settle(address, (*others, new) if new is not None and address in now else others)

    def _settle(self, address: Address, claims: tuple[Pod, ...]) -> None:
        """Give `address` to the one of `claims` that holds it now, and carry its memberships over."""
        if claims:
            self._claims[address] = claims
        else:
            del self._claims[address]
        holder = max(claims, key=lambda p: (p.created, p.uid, p.key), default=None)
        before = self._holders.get(address)
        if before is holder:
            return
        if before is not None:
            self._change(before, address, joined=False)
            del self._holders[address]
        if holder is None:
            self._labels.remove_entity(address)
        else:
            self._holders[address] = holder
            self._labels.set_entity(address, holder.key.namespace, holder.labels)
            self._change(holder, address, joined=True)

    # -- members ---------------------------------------------------------------------------------------

    def _apply(self, change: Change[str, Address]) -> None:
        for address in change.gained:
            self._update(change.group, self._holders[address], address, joined=True)
        for address in change.lost:
            self._update(change.group, self._holders[address], address, joined=False)

    def _change(self, pod: Pod, address: Address, joined: bool) -> None:
        for name in self._labels.groups_of(address):
            self._update(name, pod, address, joined)

    def _update(self, name: str, pod: Pod, address: Address, joined: bool) -> None:
        wanted = self._sets[name]
        entries = _entries(wanted.spec, pod, address)
        if entries:
            (wanted.members.update if joined else wanted.members.difference_update)(entries)
            self._dirty.add(name)


def _claimed(pod: Pod | None) -> tuple[Address, ...]:
    return pod.addresses if pod is not None and pod.is_endpoint else ()


def _entries(spec: SetSpec, pod: Pod, address: Address) -> tuple[Address, ...] | tuple[Endpoint, ...]:
    """What one held address of one matching pod puts into a set."""
    if spec.kind is SetKind.ADDRESS or spec.named_port is None:
        return (address,)
    port = spec.named_port
    return tuple(Endpoint(address, port.protocol, n) for n in pod.named_port(port.name, port.protocol))
