"""Who is meant by the words after `connect`: pods, nodes, hosts, services, addresses and names, as values.

python/nginx...          a pod, by its name, its workload's name, or a beginning that only one pod has
node/172.31.7.113        a node, by name or address (as a source: the node's own processes)
host/172.31.7.109        a machine beside the nodes, by name or address
svc/python/NAME          a Service, at its cluster address
10.200.36.67             an address, whoever has it
www.example.com          a name, which the source asks the lab's DNS server for (destinations only)
"""

from __future__ import annotations

from dataclasses import dataclass

from netpol_compiler.model.addresses import Address, parse_address
from netpol_compiler.model.objects import Key
from netpol_lab.errors import LabError
from netpol_lab.topology.model import LabHost, LabNode, LabPod, Listen, Topology
from netpol_lab.topology.twins import twin_address


@dataclass(frozen=True, slots=True)
class Target:
    """`netns` empty: nothing of the lab that could be a source. `lookup`: a name still to be asked for."""

    name: str
    netns: str = ""
    addresses: tuple[Address, ...] = ()
    listens: tuple[Listen, ...] = ()
    namespace: str = ""
    lookup: str = ""


def find(text: str, topology: Topology) -> Target:
    """The target that `text` means. Raises LabError when there is none, or more than one."""
    kind, _, rest = text.partition("/")
    if kind == "svc" and "/" in rest:
        return _service(rest, topology)
    if kind in ("node", "host") and rest:
        return _machine(kind, rest, topology)
    if rest:
        return _pod_target(_pod(kind, rest, topology))
    try:
        return _address(parse_address(text), topology)
    except ValueError:
        pass
    default = [p for p in topology.pods.values() if p.key.namespace == "default" and p.key.name.startswith(text)]
    if default:
        return _pod_target(_pod("default", text, topology))
    return Target(text, lookup=text)


def source(text: str, topology: Topology) -> Target:
    """Like `find`, for something that can send."""
    target = find(text, topology)
    if not target.netns:
        raise LabError(f"{text!r} cannot be a source: give a pod (namespace/name), node/NAME or host/ADDRESS")
    return target


def _pod(namespace: str, name: str, topology: Topology) -> LabPod:
    here = {p.key.name: p for p in topology.pods.values() if p.key.namespace == namespace}
    if name in here:
        return here[name]
    found = sorted(n for n in here if n.startswith(name + "-")) or sorted(n for n in here if n.startswith(name))
    exact_workload = bool(found) and found[0].startswith(name + "-")
    if len(found) == 1 or exact_workload:
        return here[found[0]]
    if found:
        raise LabError(f"{namespace}/{name} could be any of {', '.join(found)}")
    there = ", ".join(sorted(here)) or "none"
    raise LabError(f"no running pod {namespace}/{name} in the lab; pods in {namespace}: {there}")


def _pod_target(pod: LabPod) -> Target:
    return Target(str(pod.key), pod.netns, pod.addresses, pod.listens, pod.key.namespace)


def _machine(kind: str, text: str, topology: Topology) -> Target:
    machines: tuple[LabNode | LabHost, ...] = tuple(topology.nodes.values() if kind == "node" else topology.hosts.values())
    for machine in machines:
        if machine.name == text:
            return _machine_target(kind, machine, machine.addresses)
    try:
        address = parse_address(text)
    except ValueError:
        address = None
    for machine in machines:
        extra = machine.extra if isinstance(machine, LabHost) else ()
        if address in (*machine.addresses, *extra):
            return _machine_target(kind, machine, (address,))
        # In a lab without IPv4 people still call a machine by the address in their YAML.
        if address is not None and twin_address(address) in machine.addresses:
            return _machine_target(kind, machine, machine.addresses)
        if address is not None and twin_address(address) in extra:
            return _machine_target(kind, machine, (twin_address(address),))
    known = ", ".join(f"{m.name} ({', '.join(a.text for a in m.addresses)})" for m in machines)
    raise LabError(f"no {kind} {text!r} in the lab; there are {known or 'none'}")


def _machine_target(kind: str, machine: LabNode | LabHost, addresses: tuple[Address, ...]) -> Target:
    return Target(f"{kind}/{machine.name}", machine.netns, addresses, machine.listens if isinstance(machine, LabHost) else ())


def _service(text: str, topology: Topology) -> Target:
    namespace, _, name = text.partition("/")
    service = topology.services.get(Key(namespace, name))
    if service is None:
        known = ", ".join(sorted(str(k) for k in topology.services)) or "none"
        raise LabError(f"no service {text} in the lab; there are {known}")
    if not service.cluster_ips:
        raise LabError(f"service {text} is headless: connect to its pods or to its name")
    return Target(f"svc/{text}", "", service.cluster_ips, tuple(Listen(p.protocol, p.port) for p in service.ports))


def _address(address: Address, topology: Topology) -> Target:
    """An address as itself; its owner is known where there is one, so that it can be a source too."""
    for pod in topology.pods.values():
        if address in pod.addresses and not pod.host_network:
            return Target(str(pod.key), pod.netns, (address,), pod.listens, pod.key.namespace)
    for node in topology.nodes.values():
        if address in node.addresses:
            return _machine_target("node", node, (address,))
    for host in topology.hosts.values():
        if address in (*host.addresses, *host.extra):
            return _machine_target("host", host, (address,))
    return Target(address.text, "", (address,))
