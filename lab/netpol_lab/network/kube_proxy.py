"""Services as kube-proxy's iptables mode programs them, as iptables-restore text for one node and family.

In: the topology's services with their endpoints. Out: the nat and filter chains' text, and the names of the chains in it.
The chains carry kube-proxy's names and do what its chains do; the hash in a name is ours.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from netpol_compiler.model.addresses import Network
from netpol_compiler.model.kinds import Family
from netpol_lab.topology.model import EndpointAddress, LabService, ServicePort, Topology, of_family

MARK = "0x4000"
HOOKS = (
    ("nat", "PREROUTING", "KUBE-SERVICES"),
    ("nat", "OUTPUT", "KUBE-SERVICES"),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING"),
    ("filter", "FORWARD", "KUBE-FORWARD"),
    ("filter", "FORWARD", "KUBE-SERVICES"),
    ("filter", "OUTPUT", "KUBE-SERVICES"),
)
_BASE_NAT = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")
_BASE_FILTER = ("KUBE-FORWARD", "KUBE-SERVICES")


@dataclass(slots=True)
class Chains:
    """One table's text under construction."""

    names: dict[str, None] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)

    def add(self, chain: str, rule: str) -> None:
        self.names[chain] = None
        self.rules.append(f"-A {chain} {rule}")

    def text(self, table: str, stale: Iterable[str]) -> str:
        gone = [s for s in stale if s not in self.names]
        declared = [f":{name} - [0:0]" for name in (*self.names, *gone)]
        return "\n".join([f"*{table}", *declared, *self.rules, *(f"-X {name}" for name in gone), "COMMIT", ""])


def chain_name(stem: str, *parts: str) -> str:
    """`stem` and 16 characters of a hash over the separated parts."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"{stem}-{base64.b32encode(digest).decode()[:16]}"


def service_rules(topology: Topology, node: str, family: Family, stale: Iterable[str] = ()) -> tuple[str, set[str]]:
    """The node's text for one family, and the nat chains that it holds; `stale` are chains of an earlier text."""
    nat, flt = Chains(dict.fromkeys(_BASE_NAT)), Chains(dict.fromkeys(_BASE_FILTER))
    nets = topology.pod_networks(family)
    nat.add("KUBE-MARK-MASQ", f"-j MARK --or-mark {MARK}")
    nat.add("KUBE-POSTROUTING", f"-m mark ! --mark {MARK}/{MARK} -j RETURN")
    nat.add("KUBE-POSTROUTING", f"-j MARK --xor-mark {MARK}")
    nat.add("KUBE-POSTROUTING", '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully')
    for service in sorted(topology.services.values(), key=lambda s: s.key):
        for port in service.ports:
            _port_rules(nat, flt, service, port, node, family, nets)
    nat.add("KUBE-SERVICES", "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    flt.add("KUBE-FORWARD", f"-m mark --mark {MARK}/{MARK} -j ACCEPT")
    flt.add("KUBE-FORWARD", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    return nat.text("nat", stale) + flt.text("filter", ()), set(nat.names)


def _port_rules(
    nat: Chains, flt: Chains, service: LabService, port: ServicePort, node: str, family: Family, nets: tuple[Network, ...]
) -> None:
    who = f"{service.key}{':' + port.name if port.name else ''}"
    proto = port.protocol.value.lower()
    match = f"-p {proto} -m {proto} --dport"
    address = of_family(service.cluster_ips, family)
    ends = [e for e in port.endpoints if e.address.version == family]
    if not ends:
        if address:
            flt.add("KUBE-SERVICES", f'-d {address} {match} {port.port} -m comment --comment "{who} has no endpoints" -j REJECT')
        if port.node_port:
            flt.add(
                "KUBE-SERVICES",
                f'-m addrtype --dst-type LOCAL {match} {port.node_port} -m comment --comment "{who} has no endpoints" -j REJECT',
            )
        return
    chain = chain_name("KUBE-SVC", str(service.key), port.name, proto)
    if address:
        nat.add("KUBE-SERVICES", f'-d {address} {match} {port.port} -m comment --comment "{who} cluster IP" -j {chain}')
        outside = " ".join(f"! -s {net}" for net in nets[:1])
        nat.add(chain, f'{outside} -d {address} {match} {port.port} -m comment --comment "{who} cluster IP" -j KUBE-MARK-MASQ')
    _spread(nat, chain, service, port, who, ends)
    if port.node_port:
        external = chain_name("KUBE-EXT", str(service.key), port.name, proto)
        nat.add("KUBE-NODEPORTS", f'{match} {port.node_port} -m comment --comment "{who}" -j {external}')
        _external(nat, external, chain, service, port, who, [e for e in ends if e.node == node], nets)


def _external(
    nat: Chains,
    external: str,
    chain: str,
    service: LabService,
    port: ServicePort,
    who: str,
    near: list[EndpointAddress],
    nets: tuple[Network, ...],
) -> None:
    """What arrives at the node's port. Cluster: masquerade, then any endpoint; Local: this node's endpoints, source kept."""
    if not service.local:
        nat.add(external, "-j KUBE-MARK-MASQ")
        nat.add(external, f"-j {chain}")
        return
    for net in nets:
        nat.add(external, f"-s {net} -j {chain}")
    nat.add(external, "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ")
    nat.add(external, f"-m addrtype --src-type LOCAL -j {chain}")
    if near:
        local = chain_name("KUBE-SVL", str(service.key), port.name, port.protocol.value)
        nat.add(external, f"-j {local}")
        _spread(nat, local, service, port, who, near)


def _spread(nat: Chains, chain: str, service: LabService, port: ServicePort, who: str, ends: list[EndpointAddress]) -> None:
    """An even choice among endpoints; an endpoint that reaches itself is masqueraded (hairpin)."""
    proto = port.protocol.value.lower()
    for index, end in enumerate(sorted(ends)):
        left = len(ends) - index
        target = chain_name("KUBE-SEP", str(service.key), port.name, proto, end.address.text, str(end.port))
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        goal = f"[{end.address}]:{end.port}" if end.address.version == 6 else f"{end.address}:{end.port}"
        nat.add(chain, f'-m comment --comment "{who} -> {goal}" {chance}-j {target}')
        if target in nat.names:
            continue
        nat.add(target, f"-s {end.address} -j KUBE-MARK-MASQ")
        nat.add(target, f"-p {proto} -m {proto} -j DNAT --to-destination {goal}")
