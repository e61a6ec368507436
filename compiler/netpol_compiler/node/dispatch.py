"""From a direction's root chain to one pod's chain: a tree over the bits of the isolated local addresses.

The kernel tries a chain's rules in turn, so 250 pods in one chain would cost 125 tests on average. Here a chain
has four ways out as a rule, and an address is found in about two tests a level. The tree is a function of the set of
addresses (no history), and one pod more or less changes the chains on its path only.

nftables follows at most 15 chains from FORWARD, and refuses a table in which any path is longer. So the tree is never
deeper than LEVELS; addresses that are so unevenly spread that it would be stand in one chain below the last level.

Addresses that are not in the tree come back to npc-forward: open and isolated differ by this one chain transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from netpol_compiler.model.addresses import Address, Network, host_network, network_of
from netpol_compiler.model.kinds import Direction
from netpol_compiler.policy.names import chain_name
from netpol_compiler.ruleset.rules import ChainRule, Goto, Rules, local_address, rule
from netpol_compiler.ruleset.values import direction_chain

FAN = 4
"""Addresses that need no further chain."""

LEVELS = 5
"""Chains on a path at most, the one that the root goes to included. With the other chains of a path and the port
tree's LEVELS this is what the kernel follows."""

_MANY = 512  # addresses from which on a chain has eight ways out, so that the levels suffice


def lower_dispatch(direction: Direction, targets: Mapping[Address, str]) -> dict[str, Rules]:
    """The root chain of `direction` and its tree; `targets` are the pods' chains by address, all of one family."""
    chains: dict[str, Rules] = {}
    ordered = sorted(targets)
    if len(ordered) <= FAN:
        chains[direction_chain(direction)] = _leaves(direction, ordered, targets)
    else:
        prefix = _common(ordered[0], ordered[-1])
        chains[direction_chain(direction)] = (_way(direction, prefix, _chain(direction, prefix)),)
        _Tree(direction, targets, chains, 2 if len(ordered) <= _MANY else 3).grow(prefix, ordered, LEVELS)
    return chains


class _Tree(NamedTuple):
    """What stays the same while a tree grows. `bits`: address bits that one chain looks at."""

    direction: Direction
    targets: Mapping[Address, str]
    chains: dict[str, Rules]
    bits: int

    def grow(self, prefix: Network, ordered: Sequence[Address], levels: int) -> None:
        """Fill the chain of `prefix`, which holds all of `ordered`, and those below it, `levels` in all."""
        if len(ordered) <= FAN or levels == 1:
            self.chains[_chain(self.direction, prefix)] = _leaves(self.direction, ordered, self.targets)
            return
        length = min(prefix.prefix + self.bits, prefix.family.bits)
        parts: dict[Network, list[Address]] = {}
        for address in ordered:
            parts.setdefault(network_of(address, length), []).append(address)
        rules: list[ChainRule] = []
        for part in parts.values():
            if len(part) == 1:
                rules += _leaves(self.direction, part, self.targets)
                continue
            # The next chain stands for the longest prefix that its addresses share: no chain with one way out.
            below = _common(part[0], part[-1])
            rules.append(_way(self.direction, below, _chain(self.direction, below)))
            self.grow(below, part, levels - 1)
        self.chains[_chain(self.direction, prefix)] = tuple(rules)


def _leaves(direction: Direction, part: Sequence[Address], targets: Mapping[Address, str]) -> tuple[ChainRule, ...]:
    return tuple(_way(direction, host_network(a), targets[a]) for a in part)


def _way(direction: Direction, network: Network, chain: str) -> ChainRule:
    """iptables prints no match for a /0, so none is written: else the kernel's rule would never be the wanted one."""
    return rule(*([local_address(direction, network)] if network.prefix else []), action=Goto(chain))


def _common(low: Address, high: Address) -> Network:
    """The longest prefix shared by the lowest and the highest of some addresses, and so by all of them."""
    return network_of(low, low.family.bits - (low.value ^ high.value).bit_length())


def _chain(direction: Direction, prefix: Network) -> str:
    return chain_name(f"d{direction.value[0]}", prefix.text, [prefix.text])
