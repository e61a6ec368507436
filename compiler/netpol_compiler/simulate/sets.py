"""ipsets from `ipset restore` or `ipset save` text, with the kernel's rules for membership.

In: text. Out: `Sets` by name. Only the types that a policy needs: hash:ip, hash:net, hash:ip,port, hash:net,port.
What the kernel would refuse (a zero prefix in hash:net, a full set, a repeated element without -exist) is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netpol_compiler.model.addresses import Address, Network, host_network, parse_address, parse_network
from netpol_compiler.model.kinds import Family
from netpol_compiler.simulate.errors import SimulateError
from netpol_compiler.simulate.numbers import decimal, number
from netpol_compiler.simulate.packets import WITH_PORTS, protocol_number
from netpol_compiler.simulate.tokens import split

TYPES = ("hash:ip", "hash:net", "hash:ip,port", "hash:net,port")
MAX_NAME = 31
_DEFAULT_MAXELEM = 65536
_NO_PORT = (0, 0)
_EXTENSIONS = ("counters", "comment", "skbinfo", "forceadd")
_CARRIED = {"comment": "comment", "timeout": "timeout", "packets": "counters", "bytes": "counters"}
"""What an element may carry, and the extension that the set needs for it."""

Service = tuple[int, int]
"""(protocol number, port); (0, 0) in a type without ports."""


@dataclass(eq=False, slots=True)
class SetData:
    """One set. `elements[prefix length][(first address, service)]` says whether that element is a nomatch.

    `extensions`: what its elements may carry besides, as words of `create`; it changes no membership.
    """

    name: str
    type: str
    family: Family
    maxelem: int
    extensions: frozenset[str] = frozenset()
    elements: dict[int, dict[tuple[int, Service], bool]] = field(default_factory=dict)

    @property
    def has_ports(self) -> bool:
        return self.type.endswith(",port")

    def __len__(self) -> int:
        return sum(map(len, self.elements.values()))

    def contains(self, address: Address, service: Service = _NO_PORT) -> bool:
        """The element with the longest prefix that covers `address` decides: a nomatch one says no."""
        for prefix in sorted(self.elements, reverse=True):
            shift = self.family.bits - prefix
            nomatch = self.elements[prefix].get(((address.value >> shift) << shift, service))
            if nomatch is not None:
                return not nomatch
        return False

    def copy(self) -> SetData:
        elements = {prefix: dict(of_prefix) for prefix, of_prefix in self.elements.items()}
        return SetData(self.name, self.type, self.family, self.maxelem, self.extensions, elements)


Sets = Mapping[str, SetData]


def parse_ipset_restore(text: str, base: Sets | None = None) -> Sets:
    """Carry out `text` on `base` (nothing at first), which is not changed. Raises SimulateError with the line."""
    sets = {name: each.copy() for name, each in (base or {}).items()}
    for place, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#") or line.strip() == "COMMIT":
            continue
        try:
            words = split(line)
            exist = any(w in ("-exist", "-!") for w in words)
            command, *arguments = [w for w in words if w not in ("-exist", "-!")]
            if command not in _COMMANDS:
                raise SimulateError(f"unknown command {command!r}")
            _COMMANDS[command](sets, arguments, exist)
        except (SimulateError, ValueError) as error:
            raise SimulateError(str(error), place, line) from error
    return sets


def _known(sets: dict[str, SetData], name: str) -> SetData:
    if name not in sets:
        raise SimulateError(f"there is no set {name!r}")
    return sets[name]


def _create(sets: dict[str, SetData], arguments: list[str], exist: bool) -> None:
    name, kind, *options = arguments
    if kind not in TYPES:
        raise SimulateError(f"unknown set type {kind!r}")
    if len(name) > MAX_NAME:
        raise SimulateError(f"the set's name is longer than {MAX_NAME} characters")
    made = SetData(name, kind, *_create_options(options))
    old = sets.get(name)
    if old is None:
        sets[name] = made
    elif not exist or (old.type, old.family, old.maxelem) != (kind, made.family, made.maxelem):
        raise SimulateError(f"set {name!r} exists already, as {old.type} of IPv{int(old.family)} with maxelem {old.maxelem}")


def _create_options(options: list[str]) -> tuple[Family, int, frozenset[str]]:
    """Family, maxelem, and the extensions."""
    family, maxelem, extensions = Family.V4, _DEFAULT_MAXELEM, set()
    while options:
        option = options.pop(0)
        if option in _EXTENSIONS:
            extensions.add(option)
            continue
        value = options.pop(0) if options else ""
        if option == "family" and value in ("inet", "inet6"):
            family = Family.V4 if value == "inet" else Family.V6
        elif option == "maxelem":
            maxelem = decimal(value, 0xFFFFFFFF, "maxelem")
        elif option == "initval":
            number(value)
        elif option in ("hashsize", "bucketsize", "timeout"):
            decimal(value, 0xFFFFFFFF, option)
            extensions.add(option)
        else:
            raise SimulateError(f"unknown option of create: {option} {value}".rstrip())
    return family, maxelem, frozenset(extensions)


def _add(sets: dict[str, SetData], arguments: list[str], exist: bool) -> None:
    name, entry, *options = arguments
    target, nomatch = _known(sets, name), False
    while options:
        option = options.pop(0)
        if option == "nomatch" and target.type.startswith("hash:net"):
            nomatch = True
        elif option in _CARRIED and _CARRIED[option] in target.extensions and options:
            options.pop(0)
        else:
            raise SimulateError(f"unknown option of add: {option}")
    for prefix, element in _elements(target, entry):
        of_prefix = target.elements.setdefault(prefix, {})
        if element in of_prefix and not exist:
            raise SimulateError("the element is in the set already")
        if element not in of_prefix and len(target) >= target.maxelem:
            raise SimulateError(f"the set is full: maxelem {target.maxelem}")
        of_prefix[element] = nomatch


def _del(sets: dict[str, SetData], arguments: list[str], exist: bool) -> None:
    name, entry = arguments
    target = _known(sets, name)
    for prefix, element in _elements(target, entry):
        if target.elements.get(prefix, {}).pop(element, None) is None and not exist:
            raise SimulateError("the element is not in the set")


def _flush(sets: dict[str, SetData], arguments: list[str], _exist: bool) -> None:
    for name in arguments or list(sets):
        _known(sets, name).elements.clear()


def _destroy(sets: dict[str, SetData], arguments: list[str], _exist: bool) -> None:
    for name in arguments or list(sets):
        del sets[_known(sets, name).name]


def _swap(sets: dict[str, SetData], arguments: list[str], _exist: bool) -> None:
    one, two = (_known(sets, name) for name in arguments)
    if (one.type, one.family) != (two.type, two.family):
        raise SimulateError("only sets of one type and family can be swapped")
    one.elements, two.elements = two.elements, one.elements
    one.maxelem, two.maxelem = two.maxelem, one.maxelem


_COMMANDS = {"create": _create, "add": _add, "del": _del, "flush": _flush, "destroy": _destroy, "swap": _swap}


def _elements(target: SetData, entry: str) -> list[tuple[int, tuple[int, Service]]]:
    """(prefix length, key) of what `entry` stands for: one element, or one per port of a range."""
    place, comma, service = entry.partition(",")
    if bool(comma) != target.has_ports:
        raise SimulateError(f"{entry!r} is no element of a {target.type}")
    network = _network(place)
    if network.family is not target.family:
        raise SimulateError(f"{place} is not of the set's family")
    if target.type.startswith("hash:ip") and network.prefix != network.family.bits:
        raise SimulateError(f"{target.type} holds single addresses, not {place}")
    if target.type == "hash:ip" and (network.value, network.family) == (0, Family.V4):
        raise SimulateError("hash:ip cannot hold 0.0.0.0")
    if network.prefix == 0:
        raise SimulateError("a prefix length of 0 cannot be held by a hash type")
    services = _services(service) if comma else [_NO_PORT]
    return [(network.prefix, (network.value, each)) for each in services]


def _network(text: str) -> Network:
    return parse_network(text)[0] if "/" in text else host_network(parse_address(text))


def _services(text: str) -> list[Service]:
    """`tcp:80`, `80` (TCP), `udp:53-55`."""
    name, colon, ports = text.partition(":")
    protocol = protocol_number(name if colon else "tcp")
    first, dash, last = (ports if colon else text).partition("-")
    if protocol not in WITH_PORTS:
        raise SimulateError(f"elements of protocol {name} are not known here")
    low, high = (decimal(each, 65535, "a port") for each in (first, last if dash else first))
    if low > high:
        raise SimulateError(f"impossible port range in {text!r}")
    return [(protocol, port) for port in range(low, high + 1)]
