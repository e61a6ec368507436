"""IPv6 twins of IPv4 addresses, for labs whose YAML only speaks IPv4.

The decimal octets become groups of the same digits: 10.200.36.67 is fd00:10:200:36::67, and the block
10.200.36.0/24 is fd00:10:200:36::/64. So people recognise them, and prefixes of whole octets stay prefixes.
"""

from __future__ import annotations

from netpol_compiler.addresses import Address, Network, parse_address, parse_network

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
