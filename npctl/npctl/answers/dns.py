"""Can a pod that is isolated for egress still look names up? The answer that `explain` and `lint` share.

In: the egress rules that hold for a pod, and the cluster. Out: `DnsView`. The cluster's DNS server is any pod that
listens on 53/UDP; where no file shows one, it is taken to be where clusters have it: in kube-system, labelled k8s-app=kube-dns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import NAMESPACE_NAME_LABEL, Cluster, Key, Labels, Pod
from netpol_compiler.policy.ir import AddressSet, CompiledPolicy, CompiledRule, SetSpec
from npctl.answers.describe import rule_words, spec_words

DNS_PORT = 53
_NAMESPACE = "kube-system"
_USUAL_LABELS = Labels({"k8s-app": "kube-dns"})


class DnsState(Enum):
    """OPEN: some rule reaches a DNS server or an address block on 53/UDP. TRAPPED: 53 is open, but only towards pods
    among which is no DNS server. SHUT: no rule opens 53/UDP. DENY_ALL: no rule allows anything, so nobody meant DNS."""

    OPEN = "open"
    TRAPPED = "trapped"
    SHUT = "shut"
    DENY_ALL = "deny-all"


@dataclass(frozen=True, slots=True)
class DnsView:
    """`rules`: (policy, rule index, towards whom) of the rules that open 53 in vain."""

    state: DnsState
    rules: tuple[tuple[Key, int, str], ...] = ()
    servers: tuple[Key, ...] = ()

    @property
    def where(self) -> str:
        """Where the DNS server is, in words."""
        if self.servers:
            return f"the cluster's DNS server is {', '.join(map(str, self.servers[:3]))}"
        return "no DNS server is among them (a cluster's DNS usually runs in kube-system)"


def dns_servers(cluster: Cluster) -> tuple[Pod, ...]:
    """The pods that listen on 53/UDP and are addresses for policies."""
    return tuple(p for p in cluster.pods.values() if p.is_endpoint and any(c[1:] == (Protocol.UDP, DNS_PORT) for c in p.ports))


def look(policies: Iterable[CompiledPolicy], sets: Mapping[str, AddressSet], cluster: Cluster) -> DnsView:
    """What the egress rules of `policies`, together, say about DNS."""
    servers = dns_servers(cluster)
    keys = tuple(sorted(p.key for p in servers))
    addresses = frozenset(a for p in servers for a in p.addresses)
    vain: list[tuple[Key, int, str]] = []
    rules = [(p.key, r) for p in policies for r in p.rules_of(Direction.EGRESS)]
    for policy, rule in rules:
        towards = _towards(rule, sets)
        if _opens(rule, sets, cluster, addresses):
            return DnsView(DnsState.OPEN, servers=keys)
        if rule.ports is not None and towards:
            vain.append((policy, rule.index, towards))
    if vain:
        return DnsView(DnsState.TRAPPED, tuple(vain), keys)
    return DnsView(DnsState.SHUT if rules else DnsState.DENY_ALL, servers=keys)


def _covers(rule: CompiledRule) -> bool:
    return rule.ports is None or any(p.contains(Protocol.UDP, DNS_PORT) for p in rule.ports)


def _opens(rule: CompiledRule, sets: Mapping[str, AddressSet], cluster: Cluster, servers: frozenset[Address]) -> bool:
    for name in rule.endpoints:
        if any(not isinstance(m, Address) and m.protocol is Protocol.UDP and m.port == DNS_PORT for m in sets[name].members):
            return True
    if not _covers(rule):
        return False
    # An address block with port 53 was written for a server that is known by its address.
    peers = rule.peers
    return peers is None or bool(peers.blocks) or any(_reaches(sets[name], cluster, servers) for name in peers.sets)


def _reaches(address_set: AddressSet, cluster: Cluster, servers: frozenset[Address]) -> bool:
    if servers:
        return bool(servers & address_set.members)
    return _admits_usual(address_set.spec, cluster)


def _admits_usual(spec: SetSpec, cluster: Cluster) -> bool:
    """Whether the usual DNS pod would be a member, if it were there."""
    if spec.namespace_selector is None:
        in_place = spec.namespace == _NAMESPACE
    else:
        namespace = cluster.namespaces.get(_NAMESPACE)
        in_place = spec.namespace_selector.matches(namespace.labels if namespace else Labels({NAMESPACE_NAME_LABEL: _NAMESPACE}))
    return in_place and spec.pod_selector.matches(_USUAL_LABELS)


def _towards(rule: CompiledRule, sets: Mapping[str, AddressSet]) -> str:
    """To whom the rule opens port 53 in vain; empty when it does not name 53 at all."""
    if not any(p.contains(Protocol.UDP, DNS_PORT) and not p.is_whole_protocol for p in rule.ports or ()):
        return ""
    return " and ".join(spec_words(sets[name].spec) for name in (rule.peers.sets if rule.peers else ()))


def trap_words(policy: Key, index: int, towards: str, view: DnsView) -> str:
    """The trap in one sentence."""
    rule = f"{policy} {rule_words(Direction.EGRESS, index)}"
    return f"{rule} opens port 53 only towards {towards}, and {view.where}: name lookups fail"
