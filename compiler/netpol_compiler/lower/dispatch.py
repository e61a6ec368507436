"""From a direction's root chain to one pod's chain: a tree over the bits of the isolated local addresses.

The kernel tries a chain's rules in turn, so 250 pods in one chain would cost 125 tests on average. Here a chain
has at most FAN rules; an address is found in about half of FAN times log4(pods) tests. The tree is a function of the set of
addresses (no history), and one pod more or less changes the chains on its path only.

Addresses that are not in the tree come back to npc-forward: open and isolated differ by this one chain transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netpol_compiler.addresses import Address, Network, host_network, network_of
from netpol_compiler.kinds import Direction, Family
from netpol_compiler.lower import rules as text
from netpol_compiler.lower.atoms import member_text
from netpol_compiler.names import chain_name
from netpol_compiler.ruleset import Rules

FAN = 4
_BITS = 2  # log2(FAN)


def lower_dispatch(direction: Direction, family: Family, targets: Mapping[Address, str]) -> dict[str, Rules]:
    """The root chain of `direction` and its tree; `targets` are the pods' chains by address, all of `family`."""
    chains: dict[str, Rules] = {}
    ordered = sorted(targets)
    if len(ordered) <= FAN:
        chains[text.chain_of(direction)] = _leaves(direction, ordered, targets)
    else:
        prefix = _common(ordered[0], ordered[-1])
        line = text.rule(text.local_address(direction, prefix.text), goto=_chain(direction, prefix))
        chains[text.chain_of(direction)] = (line,)
        _branch(direction, prefix, ordered, targets, chains)
    return chains


def _branch(
    direction: Direction, prefix: Network, ordered: Sequence[Address], targets: Mapping[Address, str], chains: dict[str, Rules]
) -> None:
    """Fill the chain of `prefix`, which holds all of `ordered` (more than FAN addresses), and those below it."""
    length = min(prefix.prefix + _BITS, prefix.family.bits)
    parts: dict[Network, list[Address]] = {}
    for address in ordered:
        parts.setdefault(network_of(address, length), []).append(address)
    lines: list[str] = []
    for part in parts.values():
        if len(part) == 1:
            lines += _leaves(direction, part, targets)
            continue
        # The next chain stands for the longest prefix that its addresses share: no chain with one way out.
        below = _common(part[0], part[-1])
        lines.append(text.rule(text.local_address(direction, member_text(below)), goto=_chain(direction, below)))
        if len(part) <= FAN:
            chains[_chain(direction, below)] = _leaves(direction, part, targets)
        else:
            _branch(direction, below, part, targets, chains)
    chains[_chain(direction, prefix)] = tuple(lines)


def _leaves(direction: Direction, part: Sequence[Address], targets: Mapping[Address, str]) -> Rules:
    return tuple(text.rule(text.local_address(direction, host_network(a).text), goto=targets[a]) for a in part)


def _common(low: Address, high: Address) -> Network:
    """The longest prefix shared by the lowest and the highest of some addresses, and so by all of them."""
    return network_of(low, low.family.bits - (low.value ^ high.value).bit_length())


def _chain(direction: Direction, prefix: Network) -> str:
    return chain_name(f"d{direction.value[0]}", prefix.text, [prefix.text])
