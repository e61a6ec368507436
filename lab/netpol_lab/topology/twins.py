"""IPv6 twins of IPv4 addresses, for labs whose YAML only speaks IPv4.

The decimal octets become groups of the same digits: 10.200.36.67 is fd00:10:200:36::67, and the block
10.200.36.0/24 is fd00:10:200:36::/64. So people recognise them, and prefixes of whole octets stay prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netpol_compiler.model.addresses import Address, Network, parse_address, parse_network

_PREFIXES = {0: 0, 8: 32, 16: 48, 24: 64, 32: 128}


def twin_address(address: Address) -> Address:
    """The IPv6 twin of an IPv4 address; an IPv6 address is its own twin."""
    if address.version == 6:
        return address
    first, second, third, fourth = address.text.split(".")
    return parse_address(f"fd00:{first}:{second}:{third}::{fourth}")


def twin_network(network: Network) -> Network:
    """The IPv6 twin of an IPv4 block.

    Raises ValueError for a block whose prefix is not a whole number of octets: its twin would not be one block.
    """
    if network.version == 6:
        return network
    if network.prefix not in _PREFIXES:
        raise ValueError(f"{network} has no IPv6 twin: its prefix is not 8, 16, 24 or 32; give the IPv6 block beside it")
    address = "::" if network.prefix == 0 else twin_address(Address(4, network.value)).text
    return parse_network(f"{address}/{_PREFIXES[network.prefix]}")[0]


def with_twin_blocks(policy: Mapping[str, Any]) -> dict[str, Any]:
    """A NetworkPolicy whose IPv4 ipBlocks have their IPv6 twins beside them, so that it means the same in an IPv6 lab.

    Blocks without a twin (and what is no block at all) stay as they are. Other kinds of objects come back unchanged.
    """
    spec = policy.get("spec")
    if policy.get("kind") != "NetworkPolicy" or not isinstance(spec, Mapping):
        return dict(policy)
    changed = dict(spec)
    for rules, peers in (("ingress", "from"), ("egress", "to")):
        if isinstance(spec.get(rules), list):
            changed[rules] = [_twin_rule(rule, peers) for rule in spec[rules]]
    return {**policy, "spec": changed}


def _twin_rule(rule: Any, field: str) -> Any:
    if not isinstance(rule, Mapping) or not isinstance(rule.get(field), list):
        return rule
    return {**rule, field: [twin for peer in rule[field] for twin in (peer, _twin_peer(peer)) if twin is not None]}


def _twin_peer(peer: Any) -> Any:
    """The IPv6 peer that belongs beside an IPv4 one; None where there is none."""
    try:
        block = peer["ipBlock"]
        cidr = parse_network(block["cidr"])[0]
        if cidr.version == 6:
            return None
        exceptions = [twin_network(parse_network(e)[0]).text for e in block.get("except") or ()]
        return {"ipBlock": {"cidr": twin_network(cidr).text, **({"except": exceptions} if exceptions else {})}}
    except (KeyError, TypeError, ValueError):
        return None  # no block, or a wrong one: whoever reads the policy itself says so
