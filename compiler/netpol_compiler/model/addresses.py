"""Addresses and networks as small sortable values, and the algebra on them.

Parsing and the algebra are netaddr's; what is kept is (version, integer), because ten
thousand pods' addresses are compared, hashed and sorted far more often than they are printed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import netaddr

from netpol_compiler.model.kinds import Family


class Address(NamedTuple):
    """One IP address. `version` is 4 or 6, `value` the address as an integer."""

    version: int
    value: int

    @property
    def family(self) -> Family:
        return Family(self.version)

    @property
    def text(self) -> str:
        """Canonical text: dotted quad, or RFC 5952 for IPv6."""
        return _text(self.version, self.value)

    def __str__(self) -> str:
        return self.text


class Network(NamedTuple):
    """An address block without host bits: `value` is its first address, `prefix` its length in bits."""

    version: int
    value: int
    prefix: int

    @property
    def family(self) -> Family:
        return Family(self.version)

    @property
    def text(self) -> str:
        """Canonical `address/prefix`; a full-length prefix is written too (10.0.0.1/32)."""
        return f"{_text(self.version, self.value)}/{self.prefix}"

    @property
    def last(self) -> int:
        """The block's last address, as an integer."""
        return self.value | ((1 << (self.family.bits - self.prefix)) - 1)

    def __str__(self) -> str:
        return self.text

    def contains(self, address: Address) -> bool:
        """Whether `address` is of this family and inside the block."""
        return self.version == address.version and self.value <= address.value <= self.last

    def covers(self, other: Network) -> bool:
        """Whether every address of `other` is inside this block."""
        return self.version == other.version and self.prefix <= other.prefix and self.value <= other.value <= self.last


@lru_cache(maxsize=65536)
def _text(version: int, value: int) -> str:
    if version == 4:
        return socket.inet_ntop(socket.AF_INET, value.to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16, "big"))


@lru_cache(maxsize=65536)
def parse_address(text: str) -> Address:
    """Parse one IPv4 or IPv6 address.

    Raises ValueError, with a reason for people, for anything else: also for the short and the
    octal forms of inet_aton ("10.1", "010.0.0.1"), which mean different things to different programs.
    """
    try:
        ip = netaddr.IPAddress(text, flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError, TypeError) as error:
        raise ValueError(f"{text!r} is not an IP address") from error
    return Address(ip.version, int(ip))


@lru_cache(maxsize=65536)
def parse_network(text: str) -> tuple[Network, bool]:
    """Parse a CIDR. Returns the block and whether the text had host bits set (legal input, SEMANTICS 6).

    Raises ValueError, with a reason for people, where there is no "/", or address or prefix is impossible.
    """
    address_text, slash, prefix_text = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} is not a CIDR: the prefix length is missing, as in {text}/32")
    address = parse_address(address_text)
    if not (prefix_text.isascii() and prefix_text.isdigit()) or int(prefix_text) > address.family.bits:
        raise ValueError(f"{text!r} is not a CIDR: the prefix length must be 0 to {address.family.bits}")
    network = network_of(address, int(prefix_text))
    return network, network.value != address.value


def network_of(address: Address, prefix: int) -> Network:
    """The block of length `prefix` that holds `address`."""
    shift = address.family.bits - prefix
    return Network(address.version, (address.value >> shift) << shift, prefix)


def host_network(address: Address) -> Network:
    """The block that holds exactly `address`: /32 or /128."""
    return Network(address.version, address.value, address.family.bits)


def halves(family: Family) -> tuple[Network, Network]:
    """0.0.0.0/0 or ::/0 as two /1 blocks: a hash:net set cannot hold a zero-length prefix."""
    return Network(int(family), 0, 1), Network(int(family), 1 << (family.bits - 1), 1)


def union(networks: Iterable[Network]) -> tuple[Network, ...]:
    """The smallest sorted list of blocks that covers exactly the same addresses."""
    return tuple(_from_netaddr(n) for n in netaddr.cidr_merge([_to_netaddr(n) for n in networks]))


def subtract(network: Network, exceptions: Iterable[Network]) -> tuple[Network, ...]:
    """`network` without `exceptions`, as the smallest sorted list of blocks."""
    cut = netaddr.IPSet([_to_netaddr(e) for e in exceptions if e.version == network.version])
    if not cut:
        return (network,)
    left = netaddr.IPSet([_to_netaddr(network)]) - cut
    return tuple(sorted(_from_netaddr(n) for n in left.iter_cidrs()))


def _to_netaddr(network: Network) -> netaddr.IPNetwork:
    return netaddr.IPNetwork((network.value, network.prefix), version=4 if network.version == 4 else 6)


def _from_netaddr(network: netaddr.IPNetwork) -> Network:
    return Network(network.version, network.first, network.prefixlen)
