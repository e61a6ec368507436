"""One node's ruleset, kept up to date one change at a time: the agent's core, without I/O.

    local pods ----+                       +--> pod chains, dispatch trees
    policies ------+--> bundles --> bodies +--> body chains, union sets, block sets
    address sets --+                       +--> sets
                                           flush() -> Touched (what a sync has to look at)

A bundle is the policies of one pod and direction; pods with the same bundle (and, for ingress, the same numbers
behind named ports) share a body. Only what a change reaches is lowered again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import DIRECTIONS, Direction, Family
from netpol_compiler.model.objects import Key, NamedPort, Pod
from netpol_compiler.node.dispatch import lower_dispatch
from netpol_compiler.node.options import LowerOptions
from netpol_compiler.node.pod_chains import fixed_chains, isolated_set_name, pod_chain, pod_chain_name
from netpol_compiler.node.policy_chains import LoweredBody, lower_body
from netpol_compiler.node.selection import Selection
from netpol_compiler.node.sets import KernelSets
from netpol_compiler.policy.ir import IR, AddressSet, CompiledPolicy
from netpol_compiler.policy.names import chain_name
from netpol_compiler.policy.verdict import holders
from netpol_compiler.ruleset.rules import Rules
from netpol_compiler.ruleset.values import IPSet, Ruleset, Touched


class BodyKey(NamedTuple):
    """A bundle's identity. `numbers`: what its named ports mean on the pods that share the body."""

    direction: Direction
    namespace: str
    policies: tuple[str, ...]
    numbers: tuple[tuple[NamedPort, tuple[int, ...]], ...]


@lru_cache(maxsize=8192)
def body_chain(key: BodyKey) -> str:
    """The chain of a body: `npc-bi-...` or `npc-be-...`, stable while the bundle has the same policies."""
    numbers = [[n.protocol.value, n.name, list(v)] for n, v in key.numbers]
    stem = key.policies[0] if len(key.policies) == 1 else f"{len(key.policies)}"
    return chain_name(f"b{key.direction.value[0]}", stem, [key.namespace, list(key.policies), numbers])


@dataclass(eq=False, slots=True)
class _Body:
    """The pods that use a body, and what it was lowered to."""

    pods: set[Key] = field(default_factory=set)
    lowered: dict[Family, LoweredBody] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Lowered:
    """One direction and family: the pods' chains by address, the dispatch tree, and those chains."""

    targets: dict[Address, str] = field(default_factory=dict)
    tree: dict[str, Rules] = field(default_factory=dict)
    chains: dict[str, Rules] = field(default_factory=dict)


class NodeCompiler:
    """See the module's docstring. Feed it, then `flush`; `ruleset` is live and always as of the last flush."""

    def __init__(self, node: str, options: LowerOptions | None = None) -> None:
        self.node = node
        self.options = options or LowerOptions()
        self._pods: dict[Key, Pod] = {}
        self._policies: dict[Key, CompiledPolicy] = {}
        self._waiting: dict[Key, CompiledPolicy] = {}
        self._selection = Selection()
        self._held: dict[Key, tuple[Address, ...]] = {}
        self._bodies: dict[BodyKey, _Body] = {}
        self._pod_bodies: dict[Key, dict[Direction, BodyKey]] = {}
        self._dirty_pods: set[Key] = set()
        self._dirty_policies: dict[str, set[str]] = defaultdict(set)
        self._kernel_sets = KernelSets(self.options.families)
        self._chains: dict[Family, dict[str, Rules]] = {f: dict(fixed_chains(f, self.options)) for f in self.options.families}
        self._touched_chains: dict[Family, set[str]] = {f: set(c) for f, c in self._chains.items()}
        self._directions: dict[tuple[Family, Direction], _Lowered] = {}
        self._pods_moved = True
        self.ruleset = Ruleset(self._chains, self._kernel_sets.sets)

    # -- what there is ---------------------------------------------------------------------------------

    def set_pod(self, pod: Pod) -> None:
        """A pod that runs on this node, or its new state."""
        if self._pods.get(pod.key) == pod:
            return
        self._pods[pod.key] = pod
        self._selection.set_pod(pod)
        self._dirty_pods.add(pod.key)

    def remove_pod(self, key: Key) -> None:
        if self._pods.pop(key, None) is not None:
            self._selection.remove_pod(key)
            self._dirty_pods.add(key)

    def set_policy(self, policy: CompiledPolicy) -> None:
        """A policy, or its new version. A new version waits, and the old one stays, until all its sets are here."""
        self._waiting[policy.key] = policy

    def remove_policy(self, key: Key) -> None:
        self._waiting.pop(key, None)
        if self._policies.pop(key, None) is not None:
            self._dirty_pods |= self._selection.remove_policy(key)
            self._dirty_policies[key.namespace].add(key.name)

    def set_address_set(self, address_set: AddressSet) -> None:
        self._kernel_sets.put(address_set)

    def remove_address_set(self, name: str) -> None:
        self._kernel_sets.drop(name)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as it should be, in words: policies that wait for sets."""
        return tuple(
            f"policy {key}: waits for set {', '.join(sorted(policy.set_names - self._kernel_sets.known))}"
            for key, policy in sorted(self._waiting.items())
        )

    @property
    def incomplete(self) -> frozenset[Key]:
        """The policies in force whose sets are not all here: they isolate, and allow less than they should."""
        return frozenset(key for key, policy in self._waiting.items() if self._policies.get(key) is policy)

    def policies_of(self, pod: Key) -> frozenset[Key]:
        """The policies that select a pod of this node, whether or not it has an address yet."""
        return self._selection.of(pod)

    @property
    def pods(self) -> Mapping[Key, Pod]:
        return self._pods

    @property
    def policies(self) -> Mapping[Key, CompiledPolicy]:
        """The policies as they are in force here (those in `problems` in their old version)."""
        return self._policies

    @property
    def address_sets(self) -> Mapping[str, AddressSet]:
        return self._kernel_sets.address_sets

    # -- flush -----------------------------------------------------------------------------------------

    def flush(self) -> Touched:
        """Bring `ruleset` up to date; returns the names that may differ from before."""
        self._admit_policies()
        self._settle_addresses()
        self._lower_bodies(self._assign_bodies())
        if self._pods_moved:
            for family in self.options.families:
                for direction in DIRECTIONS:
                    self._lower_direction(family, direction)
        self._pods_moved = False
        self._dirty_pods.clear()
        self._dirty_policies.clear()
        chains = {f: frozenset(names) for f, names in self._touched_chains.items() if names}
        self._touched_chains = {f: set() for f in self.options.families}
        return Touched(chains, self._kernel_sets.flush())

    def _admit_policies(self) -> None:
        known = self._kernel_sets.known
        for key, policy in list(self._waiting.items()):
            old = self._policies.get(key)
            complete = policy.set_names <= known
            if not complete and old is not None:
                continue
            # A new policy isolates at once; through sets that are still missing it allows nothing (fail closed).
            self._policies[key] = policy  # an equal one too: how its digest is made may have changed
            if old != policy:
                self._dirty_pods |= self._selection.set_policy(policy)
                self._dirty_policies[key.namespace].add(key.name)
            if complete:
                del self._waiting[key]

    def _settle_addresses(self) -> None:
        """Who holds which address. A pod whose answer changed is dirty, also when only its rival changed."""
        if not self._dirty_pods:
            return
        held: dict[Key, list[Address]] = defaultdict(list)
        for address, pod in holders(self._pods.values()).items():
            held[pod.key].append(address)
        now = {key: tuple(sorted(addresses)) for key, addresses in held.items()}
        moved = {key for key in now.keys() | self._held.keys() if now.get(key) != self._held.get(key)}
        self._dirty_pods |= moved
        self._pods_moved = self._pods_moved or bool(moved)
        self._held = now

    # -- bodies ----------------------------------------------------------------------------------------

    def _assign_bodies(self) -> set[BodyKey]:
        """Give each dirty pod its bodies; returns the bodies that have to be lowered or dropped."""
        stale = {
            key
            for key in self._bodies
            if key.namespace in self._dirty_policies and not self._dirty_policies[key.namespace].isdisjoint(key.policies)
        }
        moved: set[BodyKey] = set()
        for pod in self._dirty_pods:
            new = self._bundles(self._pods[pod]) if pod in self._held else {}
            old = self._pod_bodies.pop(pod, {})
            if new:
                self._pod_bodies[pod] = new
            self._pods_moved = self._pods_moved or new != old
            for key in set(old.values()) - set(new.values()):
                self._bodies[key].pods.discard(pod)
            for key in new.values():
                self._bodies.setdefault(key, _Body()).pods.add(pod)
            moved |= {*old.values(), *new.values()}
        return stale | {key for key in moved if self._families_of(self._bodies[key]) != self._bodies[key].lowered.keys()}

    def _families_of(self, body: _Body) -> set[Family]:
        """The families in which some pod of a body has an address; in the others it would never be entered."""
        versions = {a.version for pod in body.pods for a in self._held[pod]}
        return {family for family in self.options.families if int(family) in versions}

    def _bundles(self, pod: Pod) -> dict[Direction, BodyKey]:
        chosen = [self._policies[k] for k in sorted(self._selection.of(pod.key))]
        bundles = {}
        for direction in DIRECTIONS:
            policies = [p for p in chosen if direction in p.directions]
            if policies:
                names = {n for p in policies for r in p.rules_of(direction) for n in r.named_ports}
                numbers = tuple((n, pod.named_port(n.name, n.protocol)) for n in sorted(names))
                bundles[direction] = BodyKey(direction, pod.key.namespace, tuple(p.key.name for p in policies), numbers)
        return bundles

    def _lower_bodies(self, stale: set[BodyKey]) -> None:
        for key in stale:
            body = self._bodies[key]
            wanted = self._families_of(body)
            for family in self.options.families:
                old = body.lowered.pop(family, None)
                new = self._lower(key, family) if family in wanted else None
                self._replace_chains(family, old.chains if old else {}, new.chains if new else {})
                self._kernel_sets.replace(family, old, new)
                if new is not None:
                    body.lowered[family] = new
            if not body.pods:
                del self._bodies[key]

    def _lower(self, key: BodyKey, family: Family) -> LoweredBody:
        policies = [self._policies[Key(key.namespace, name)] for name in key.policies]
        return lower_body(body_chain(key), key.direction, family, policies, dict(key.numbers))

    def _replace_chains(self, family: Family, old: Mapping[str, Rules], new: Mapping[str, Rules]) -> None:
        chains, touched = self._chains[family], self._touched_chains[family]
        for name in old.keys() - new.keys():
            del chains[name]
            touched.add(name)
        for name, rules in new.items():
            if chains.get(name) != rules:
                chains[name] = rules
                touched.add(name)

    # -- pods ------------------------------------------------------------------------------------------

    def _lower_direction(self, family: Family, direction: Direction) -> None:
        """The dispatch tree and the pod chains of one direction and family."""
        before = self._directions.get((family, direction), _Lowered())
        targets: dict[Address, str] = {}
        chains: dict[str, Rules] = {}
        for pod, bodies in self._pod_bodies.items():
            own = tuple(a for a in self._held[pod] if a.version == int(family))
            if direction in bodies and own:
                name = pod_chain_name(pod, direction)
                chains[name] = pod_chain(pod, direction, own, body_chain(bodies[direction]), self.options)
                targets.update(dict.fromkeys(own, name))
        tree = before.tree if before.tree and targets == before.targets else lower_dispatch(direction, targets)
        self._replace_chains(family, {**before.chains, **before.tree}, {**chains, **tree})
        self._directions[(family, direction)] = _Lowered(targets, tree, chains)
        isolated = frozenset(a.text for a in targets)
        self._kernel_sets.put_plain(IPSet(isolated_set_name(direction, family), "hash:net", family, isolated))


def compile_node(node: str, ir: IR, pods: Iterable[Pod], options: LowerOptions | None = None) -> NodeCompiler:
    """A node's compiler, fed with a whole state and flushed; `pods` may be the cluster's: the node's own are used."""
    compiler = NodeCompiler(node, options)
    for pod in pods:
        if pod.node == node:
            compiler.set_pod(pod)
    for address_set in ir.sets.values():
        compiler.set_address_set(address_set)
    for policy in ir.policies.values():
        compiler.set_policy(policy)
    compiler.flush()
    return compiler
