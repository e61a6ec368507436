"""The kernel sets of one node: those of IR sets, unions of several, and blocks with exceptions.

A kernel set exists while some body names it. In: address sets and lowered bodies. Out: the live mapping `sets`,
and from `flush` the names that changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from netpol_compiler.model.kinds import Family
from netpol_compiler.node.peers import Atom, SetAtom, kernel_set_name, set_texts, union_texts
from netpol_compiler.node.policy_chains import LoweredBody
from netpol_compiler.policy.ir import AddressSet, SetKind
from netpol_compiler.policy.names import parse_set_name
from netpol_compiler.ruleset.values import IPSet


@dataclass(frozen=True, slots=True)
class _Union:
    """A union set's family and atoms; `names` are the IR sets among them."""

    family: Family
    atoms: frozenset[Atom]
    names: frozenset[str]

    @property
    def type(self) -> str:
        return _type(any(isinstance(a, SetAtom) and a.ip_port for a in self.atoms))


def _type(ip_port: bool) -> str:
    return "hash:ip,port" if ip_port else "hash:net"


def _atom(ir_name: str) -> SetAtom:
    return SetAtom(ir_name, parse_set_name(ir_name).kind is SetKind.ENDPOINT)


class KernelSets:
    """See the module's docstring."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = tuple(families)
        self.address_sets: dict[str, AddressSet] = {}
        self.sets: dict[str, IPSet] = {}
        self._texts: dict[Family, dict[str, frozenset[str]]] = {f: {} for f in self._families}
        self._uses: Counter[tuple[Family, SetAtom]] = Counter()
        self._block_uses: Counter[str] = Counter()
        self._unions: dict[str, _Union] = {}
        self._rendered: dict[str, AddressSet] = {}
        self._leaving: set[str] = set()
        self._stale_unions: set[str] = set()
        self._dirty: set[str] = set()  # IR names
        self._touched: set[str] = set()  # kernel names

    @property
    def known(self) -> frozenset[str]:
        """The IR sets that are here and are to stay."""
        return frozenset(self.address_sets) - self._leaving

    def put(self, address_set: AddressSet) -> None:
        self._leaving.discard(address_set.name)
        if self.address_sets.get(address_set.name) != address_set:
            self.address_sets[address_set.name] = address_set
            self._dirty.add(address_set.name)

    def drop(self, name: str) -> None:
        """Let an IR set go: at once when no body names it, else as soon as none does. A policy that waits for its
        new sets still needs its old ones: unknown is never empty."""
        if name in self.address_sets:
            self._leaving.add(name)

    def put_plain(self, ipset: IPSet) -> None:
        """A set that is made of nothing else."""
        if self.sets.get(ipset.name) != ipset:
            self.sets[ipset.name] = ipset
            self._touched.add(ipset.name)

    def replace(self, family: Family, old: LoweredBody | None, new: LoweredBody | None) -> None:
        """A body was lowered again: what it names now, and no longer."""
        for atom in new.uses if new else ():
            self._uses[(family, atom)] += 1
            self._dirty.add(atom.name)
        for atom in old.uses if old else ():
            self._uses[(family, atom)] -= 1
            self._dirty.add(atom.name)
        for name, block in (new.blocks if new else {}).items():
            self._block_uses[name] += 1
            self.put_plain(block)
        for name in old.blocks if old else ():
            self._block_uses[name] -= 1
            if not self._block_uses[name]:
                del self._block_uses[name]
                self._remove(name)
        for name in (old.unions if old else {}).keys() - (new.unions if new else {}).keys():
            del self._unions[name]
            self._remove(name)
        for name, atoms in (new.unions if new else {}).items():
            union = _Union(family, atoms, frozenset(a.name for a in atoms if isinstance(a, SetAtom)))
            if self._unions.get(name) != union:
                self._unions[name] = union
                self._stale_unions.add(name)

    def flush(self) -> frozenset[str]:
        """Bring `sets` up to date; returns the kernel names that may differ from before."""
        for ir_name in [n for n in self._leaving if not self._used(n)]:
            self._leaving.discard(ir_name)
            del self.address_sets[ir_name]
            self._dirty.add(ir_name)
        changed = {ir_name for ir_name in self._dirty if self._refresh(ir_name)}
        for name, union in self._unions.items():
            if name in self._stale_unions or not union.names.isdisjoint(changed):
                self.put_plain(IPSet(name, union.type, union.family, union_texts(union.atoms, self._texts[union.family])))
        self._stale_unions.clear()
        touched, self._touched = frozenset(self._touched), set()
        self._dirty.clear()
        return touched

    def _used(self, ir_name: str) -> bool:
        atom = _atom(ir_name)
        return any(self._uses[(f, atom)] for f in self._families) or any(ir_name in u.names for u in self._unions.values())

    def _refresh(self, ir_name: str) -> bool:
        """The kernel sets of one IR set, and its members for the unions. Returns whether the members differ."""
        old, new = self._rendered.pop(ir_name, None), self.address_sets.get(ir_name)
        if new is not None:
            self._rendered[ir_name] = new
        atom = _atom(ir_name)
        for family in self._families:
            texts = self._texts[family]
            if new is None:
                texts.pop(ir_name, None)
            elif new is not old:
                # Only what differs is turned to text: one pod's change in a set of ten thousand costs one address.
                gone = set_texts(old.members - new.members, family) if old else frozenset()
                come = set_texts(new.members - old.members if old else new.members, family)
                texts[ir_name] = (texts.get(ir_name, frozenset()) - gone) | come
            kernel = kernel_set_name(ir_name, atom.ip_port, family)
            if self._uses[(family, atom)]:
                self.put_plain(IPSet(kernel, _type(atom.ip_port), family, texts.get(ir_name, frozenset())))
            else:
                del self._uses[(family, atom)]
                self._remove(kernel)
        return new is not old

    def _remove(self, name: str) -> None:
        if self.sets.pop(name, None) is not None:
            self._touched.add(name)
