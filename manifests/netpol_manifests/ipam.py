"""Giving out addresses: pools over blocks, stable and deterministic. Pure.

In: blocks, and what is taken. Out: addresses. The lab and `npctl` on files use it in place of a cluster's own allocation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from netpol_compiler.model.addresses import Address, Network
from netpol_compiler.model.kinds import Family

_FIRST = 2  # .0 is the network, .1 the gateway
NODE_PREFIX = {Family.V4: 24, Family.V6: 64}


@dataclass(slots=True)
class Pool:
    """The addresses of one block. `taken` is shared among pools, so that no address is given out twice."""

    block: Network
    taken: set[Address] = field(default_factory=set)
    _next: int = _FIRST

    def take(self) -> Address | None:
        """The next free address, or None when the block is full. The broadcast address of IPv4 is never given out."""
        last = self.block.last - (1 if self.block.family is Family.V4 else 0)
        while self.block.value + self._next <= last:
            address = Address(self.block.version, self.block.value + self._next)
            self._next += 1
            if address not in self.taken:
                self.taken.add(address)
                return address
        return None


def node_block(cidr: Network, index: int) -> Network | None:
    """The `index`th node's block (/24 or /64) of the cluster's pod CIDR; None when the CIDR has no more."""
    prefix = max(NODE_PREFIX[cidr.family], cidr.prefix)
    value = cidr.value + (index << (cidr.family.bits - prefix))
    return Network(cidr.version, value, prefix) if value <= cidr.last else None
