"""The peers of compiled rules, for one family, as atoms: the smallest things that one match can test.

An atom is ANY, the name of an address set, or a block. Rules whose peers and ports coincide share their atoms,
and a group of many atoms is merged into one union set (`union_members`), so that the cost of a new connection
does not grow with the number of policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from netpol_compiler.model.addresses import Address, Network, halves, subtract
from netpol_compiler.model.kinds import Family
from netpol_compiler.model.objects import IPBlock
from netpol_compiler.policy.ir import CompiledRule, Endpoint
from netpol_compiler.policy.names import parse_set_name, set_name
from netpol_compiler.ruleset.values import IPSet


@dataclass(frozen=True, slots=True, order=True)
class SetAtom:
    """The members of one IR set. `ip_port`: it is a set of endpoints."""

    name: str
    ip_port: bool = False


@dataclass(frozen=True, slots=True, order=True)
class BlockAtom:
    """The addresses of one ipBlock."""

    block: IPBlock


@dataclass(frozen=True, slots=True)
class AnyAtom:
    """Every address of the family."""


ANY = AnyAtom()
Atom = SetAtom | BlockAtom | AnyAtom


def rule_atoms(rule: CompiledRule, family: Family) -> frozenset[Atom]:
    """The peers of `rule` in `family`; just ANY when that covers all, empty when nobody is allowed."""
    if rule.peers is None:
        return frozenset({ANY})
    blocks = [b for b in rule.peers.blocks if b.cidr.family is family]
    if any(b.cidr.prefix == 0 and not b.exceptions for b in blocks):
        return frozenset({ANY})
    return frozenset({*(SetAtom(n) for n in rule.peers.sets), *(BlockAtom(b) for b in blocks)})


def member_text(network: Network) -> str:
    """A set member as `ipset save` prints it: without a full-length prefix."""
    return network.text if network.prefix < network.family.bits else network.text.partition("/")[0]


@lru_cache(maxsize=16384)
def block_texts(block: IPBlock) -> frozenset[str]:
    """The block as positive members: what is left after its exceptions. For union sets, where a `nomatch`
    of one block would also cut from its neighbours (SEMANTICS 6)."""
    left = subtract(block.cidr, block.exceptions)
    return frozenset(member_text(part) for network in left for part in _splittable(network))


def nomatch_texts(block: IPBlock) -> frozenset[str]:
    """The block as one set of its own: the cidr, and its exceptions as `nomatch`."""
    wholes = set(_splittable(block.cidr))
    cuts = {part for exception in block.exceptions for part in _splittable(exception)}
    # What is cut away whole is left out, not put in and excepted: one element cannot be both.
    return frozenset({*map(member_text, wholes - cuts), *(f"{member_text(part)} nomatch" for part in cuts - wholes)})


def _splittable(network: Network) -> tuple[Network, ...]:
    """A zero-length prefix as its two halves: hash:net cannot hold it."""
    return halves(network.family) if network.prefix == 0 else (network,)


def block_set(block: IPBlock) -> IPSet:
    """The set of a block with exceptions. Equal blocks share it in every rule of the node."""
    parts = ["block", block.cidr.text, [e.text for e in block.exceptions]]
    name = set_name(block.cidr.family, False, block.cidr.text.replace(".", "-"), parts)
    return IPSet(name, "hash:net", block.cidr.family, nomatch_texts(block))


@lru_cache(maxsize=16384)
def kernel_set_name(ir_name: str, ip_port: bool, family: Family) -> str:
    """The kernel's name for one family of an IR set."""
    return set_name(family, ip_port, parse_set_name(ir_name).stem, ["ir", ir_name])


def set_texts(members: Iterable[Address | Endpoint], family: Family) -> frozenset[str]:
    """Those of `members` that are of one family, as the kernel prints them."""
    version = int(family)
    return frozenset(
        f"{m.address.text},{m.protocol.value.lower()}:{m.port}" if isinstance(m, Endpoint) else m.text
        for m in members
        if (m.address.version if isinstance(m, Endpoint) else m.version) == version
    )


def union_texts(atoms: Iterable[Atom], texts: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The members of a union set; `texts` gives those of the IR sets, by IR name."""
    parts = [
        texts.get(a.name, frozenset()) if isinstance(a, SetAtom) else block_texts(a.block)
        for a in atoms
        if not isinstance(a, AnyAtom)
    ]
    return frozenset().union(*parts)
