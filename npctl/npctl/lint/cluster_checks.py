"""Checks of what a policy means in the cluster at hand: DNS, selectors, ports, the pods it selects.

Each check reads the parsed policy, the IR's set members, or asks `Judge`; see `lint_model` for how one is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import ContainerPort, IPBlock, NamedPort, Peer, Pod, PodPeer, Port, PortRange, Rule
from netpol_compiler.policy.ir import AddressSet, SetSpec
from netpol_compiler.policy.names import address_set_name
from netpol_compiler.reading.fields import Path
from netpol_compiler.reading.policy import host_bits
from npctl.answers import dns
from npctl.answers.describe import key_list
from npctl.answers.dns import DnsState, DnsView
from npctl.lint.model import Hit, Severity, Subject, check

_DNS_REMEDY = (
    "add an egress rule to namespaceSelector kubernetes.io/metadata.name=kube-system with podSelector k8s-app=kube-dns,"
    " ports 53 UDP and TCP"
)
PEERS_FIELD = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


def rule_path(rule: Rule, *more: str | int) -> Path:
    return ("spec", rule.direction.value, rule.index, *more)


def _dns(subject: Subject) -> DnsView:
    """What all policies together say about DNS, for each distinct bundle of policies; the worst one."""
    if Direction.EGRESS not in subject.policy.directions:
        return DnsView(DnsState.OPEN)
    state = subject.state
    bundles = {tuple(p.key for p in state.judge.policies_for(pod, Direction.EGRESS)) for pod in subject.selected()}
    order = (DnsState.TRAPPED, DnsState.SHUT, DnsState.DENY_ALL, DnsState.OPEN)
    together = [[state.ir.policies[k] for k in keys] for keys in sorted(bundles or {(subject.key,)})]
    views = [dns.look(policies, state.ir.sets, state.cluster) for policies in together]
    return min(views, key=lambda v: order.index(v.state))


@check("NP001", Severity.WARNING, "port 53 open only towards pods among which is no DNS server (the DNS trap)")
def dns_trap(subject: Subject) -> Iterator[Hit]:
    view = _dns(subject)
    for policy, index, towards in view.rules:
        if policy == subject.key:
            message = f"opens port 53 only towards {towards}, and {view.where}: name lookups of the selected pods fail"
            remedy = _DNS_REMEDY
            yield ("spec", "egress", index), message, remedy


@check("NP002", Severity.WARNING, "egress isolated, some of it allowed, but port 53 nowhere: no name lookups")
def dns_shut(subject: Subject) -> Iterator[Hit]:
    view = _dns(subject)
    if view.state is DnsState.SHUT and subject.policy.rules_of(Direction.EGRESS):
        message = "no egress rule of any policy of these pods opens port 53/udp to a DNS server: name lookups fail"
        yield (
            ("spec", "egress"),
            message,
            "add an egress rule for ports 53 UDP and TCP to the DNS server, unless names are not used",
        )


@check("NP003", Severity.WARNING, "podSelector of the policy selects no pod")
def selects_nothing(subject: Subject) -> Iterator[Hit]:
    namespace = subject.key.namespace
    if any(subject.policy.pod_selector.matches(p.labels) for p in _pods_of(subject, namespace)):
        return
    words = subject.policy.pod_selector.words
    what = f"no pod of namespace {namespace} has {words}" if words else f"namespace {namespace} has no pods"
    yield ("spec", "podSelector"), f"selects nothing: {what}", _nearest(words, _pods_of(subject, namespace))


def _pods_of(subject: Subject, namespace: str) -> list[Pod]:
    return [p for p in subject.state.cluster.pods.values() if p.key.namespace == namespace]


def _nearest(words: str, pods: Iterable[Pod]) -> str:
    """The label there is that is written most like the one that is not."""
    from difflib import get_close_matches

    labels = {f"{k}={v}" for p in pods for k, v in p.labels.items()}
    close = get_close_matches(words, sorted(labels), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else "check the labels, or the namespace of the policy"


@check("NP004", Severity.WARNING, "a peer's selectors match nothing")
def peer_matches_nothing(subject: Subject) -> Iterator[Hit]:
    for rule, index, peer in _peers(subject):
        if not isinstance(peer, PodPeer) or _member_pods(subject, peer):
            continue
        path = rule_path(rule, PEERS_FIELD[rule.direction], index)
        spec = _spec(subject, peer)
        labels = [n.labels for n in subject.state.cluster.namespaces.values()]
        if peer.namespace_selector is not None and not any(peer.namespace_selector.matches(x) for x in labels):
            words = peer.namespace_selector.words
            yield (*path, "namespaceSelector"), f"no namespace has {words}", "label the namespace, or correct the selector"
        else:
            own = " (a podSelector alone means the policy's own namespace)" if peer.namespace_selector is None else ""
            pods = subject.state.cluster.pods.values()
            yield path, f"matches no pod now: {spec.words}{own}", _nearest(peer.pod_selector.words, pods)


def _peers(subject: Subject) -> Iterator[tuple[Rule, int, Peer]]:
    """Every peer that was understood, with its index as written."""
    for rule in subject.policy.rules:
        written = dict(subject.rules(rule.direction)).get(rule.index, {}).get(PEERS_FIELD[rule.direction])
        for peer in rule.peers or ():
            yield rule, _index_of(peer, rule, written), peer


def _index_of(peer: Peer, rule: Rule, written: Any) -> int:
    """Where a parsed peer was written: repeats are dropped by the parser, so positions shift only after a repeat."""
    from netpol_compiler.reading.policy import parse_policy

    for index, item in enumerate(written if isinstance(written, list) else ()):
        rules = [{PEERS_FIELD[rule.direction]: [item]}]
        spec = {"podSelector": {}, rule.direction.value: rules, "policyTypes": [rule.direction.api_name]}
        policy, _ = parse_policy({"metadata": {"name": "x"}, "spec": spec})
        if policy is not None and policy.rules and policy.rules[0].peers == (peer,):
            return index
    return 0


def _spec(subject: Subject, peer: PodPeer) -> SetSpec:
    return SetSpec(subject.key.namespace if peer.namespace_selector is None else None, peer.namespace_selector, peer.pod_selector)


def _member_pods(subject: Subject, peer: PodPeer) -> list[Pod]:
    """The pods of a peer, from the set that the compiler filled; a peer only of named ports has none, and is matched here."""
    spec = _spec(subject, peer)
    found: AddressSet | None = subject.state.ir.sets.get(address_set_name(spec))
    if found is not None:
        holders = subject.state.holders
        return list({p.key: p for m in found.members if (p := holders.get(m)) is not None}.values())  # type: ignore[arg-type]  # ADDRESS set
    namespaces = subject.state.cluster.namespaces
    return [
        p
        for p in subject.state.cluster.pods.values()
        if p.is_endpoint
        and peer.pod_selector.matches(p.labels)
        and (
            p.key.namespace == spec.namespace
            if peer.namespace_selector is None
            else peer.namespace_selector.matches(namespaces[p.key.namespace].labels)
        )
    ]


@check("NP005", Severity.WARNING, "a port on which none of the pods concerned listens")
def nobody_listens(subject: Subject) -> Iterator[Hit]:
    for rule in subject.policy.rules:
        pods = _destinations(subject, rule)
        if not any(p.ports for p in pods):
            continue  # container ports are a declaration: without any, nothing is known
        for port in rule.ports or ():
            if _is_dns(port) and rule.direction is Direction.EGRESS:
                continue  # NP001 says it better
            if not any(_listens(p, port) for p in pods):
                have = ", ".join(sorted({_container_port_text(c) for p in pods for c in p.ports}))
                whose = "the selected pods" if rule.direction is Direction.INGRESS else "the peers"
                message = f"none of {whose} declares {_port_text(port)}; they declare {have}"
                remedy = "policies see the pod's port, not the Service's: write the containerPort"
                yield _port_path(subject, rule, port), message, remedy


def _destinations(subject: Subject, rule: Rule) -> list[Pod]:
    """Whose ports a rule is about; empty where that are not (only) pods that are known."""
    if rule.direction is Direction.INGRESS:
        return subject.selected()
    if rule.peers is None or any(isinstance(p, IPBlock) for p in rule.peers):
        return []
    return [pod for peer in rule.peers if isinstance(peer, PodPeer) for pod in _member_pods(subject, peer)]


def _is_dns(port: Port) -> bool:
    return isinstance(port, PortRange) and port.first == port.last == dns.DNS_PORT


def _listens(pod: Pod, port: Port) -> bool:
    if isinstance(port, NamedPort):
        return bool(pod.named_port(port.name, port.protocol))
    return any(port.contains(c.protocol, c.port) for c in pod.ports)


def _container_port_text(port: ContainerPort) -> str:
    return f"{port.port}/{port.protocol.value}" + (f" ({port.name})" if port.name else "")


def _port_text(port: Port) -> str:
    if isinstance(port, NamedPort):
        return f"a port named {port.name} for {port.protocol.value}"
    if port.is_whole_protocol:
        return f"any {port.protocol.value} port"
    return f"{port.first}" + ("" if port.first == port.last else f"-{port.last}") + f"/{port.protocol.value}"


def _port_path(subject: Subject, rule: Rule, port: Port) -> Path:
    """The field where a parsed port was written."""
    written = dict(subject.rules(rule.direction)).get(rule.index, {}).get("ports")
    number = port.name if isinstance(port, NamedPort) else None if port.is_whole_protocol else port.first
    for index, item in enumerate(written if isinstance(written, list) else ()):
        if isinstance(item, dict) and item.get("port") == number and item.get("protocol", "TCP") == port.protocol.value:
            return rule_path(rule, "ports", index, *(["port"] if "port" in item else []))
    return rule_path(rule, "ports")


@check("NP006", Severity.ERROR, "an except that is not inside of its cidr")
def except_outside(subject: Subject) -> Iterator[Hit]:
    for rejected in subject.policy.rejected:
        if "except" in rejected.path:
            yield rejected.path, rejected.reason, "the whole ipBlock allows nothing until this is put right"


@check("NP007", Severity.ERROR, "a field or value that is not understood")
def not_understood(subject: Subject) -> Iterator[Hit]:
    for rejected in subject.policy.rejected:
        if "except" not in rejected.path:
            yield rejected.path, rejected.reason, "this part allows nothing; what the policy selects is isolated all the same"


@check("NP008", Severity.WARNING, "host bits set in a cidr")
def cidr_host_bits(subject: Subject) -> Iterator[Hit]:
    for path, text, network in host_bits(subject.document.data):
        one = f"{text.partition('/')[0]}/{network.family.bits}"
        yield path, f"{text} has host bits set and means {network}", f"write {network}, or {one} for one address"


@check("NP013", Severity.WARNING, "selects pods of the host's network, which policies do not reach")
def host_network(subject: Subject) -> Iterator[Hit]:
    selector = subject.policy.pod_selector
    pods = [p.key for p in _pods_of(subject, subject.key.namespace) if p.host_network and selector.matches(p.labels)]
    if pods and selector.requirements:
        message = f"would select {key_list(pods)}, which use their node's network: no policy applies to them"
        yield ("spec", "podSelector"), message, "protect the node itself, or give the pod its own network"


@check("NP014", Severity.WARNING, "the same policy written more than once")
def written_twice(subject: Subject) -> Iterator[Hit]:
    for old, new in subject.state.documents.replaced:
        if old is subject.document:
            message = f"is replaced by {new.file}:{new.line_of()}, which has the same name: only the last one counts"
            yield (), message, "give it another name"
