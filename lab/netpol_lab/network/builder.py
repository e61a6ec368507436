"""Brings the namespaces to a topology: creates, changes and removes what differs from what is built.

In: a Topology, again and again. Effects: network namespaces, links, routes, sysctls, and the iptables chains of the
masquerade and of the services. The policies' chains are the agents' business alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from netpol_lab.errors import LabError
from netpol_lab.network import cni_results, kube_proxy, wiring
from netpol_lab.network.netns import Namespaces
from netpol_lab.topology.model import Backend, Families, LabHost, LabNode, LabPod, NetworkKind, Topology

_GOING = 77  # a group of links, for those that are about to be deleted


class Builder:
    """Owns everything below the lab's network; one caller at a time."""

    def __init__(self, spaces: Namespaces, kind: NetworkKind, backend: Backend, families: Families) -> None:
        self.spaces = spaces
        self.kind = kind
        self.backend = backend
        self.families = families
        self.built = Topology()
        self._service_chains: dict[tuple[str, int], set[str]] = {}
        self._texts: dict[tuple[str, int, str], str] = {}

    def start(self) -> None:
        """The switch that all machines hang on."""
        self.spaces.sysctl(
            "", {**wiring.QUIET, "net/bridge/bridge-nf-call-iptables": 0, "net/bridge/bridge-nf-call-ip6tables": 0}
        )
        self._ip("", wiring.switch_lines())

    def apply(self, wanted: Topology) -> None:
        """Make the network what `wanted` says. Raises LabError with the failing command's words."""
        stale = {name for name, node in self.built.nodes.items() if wanted.nodes.get(name) != node}
        self._remove_pods(
            [p for k, p in self.built.pods.items() if not p.host_network and not self._stays(p, wanted.pods.get(k), stale)],
            self.built.nodes,
        )
        for name in stale:
            self._remove_node(self.built.nodes[name])
        new_nodes = [n for n in wanted.nodes.values() if self.built.nodes.get(n.name) != n]
        new_hosts = [h for h in wanted.hosts.values() if h.name not in self.built.hosts]
        self._add_machines(new_nodes, new_hosts, wanted)
        if wanted.nodes != self.built.nodes:
            self._connect_machines(wanted)
        new_pods = [p for k, p in wanted.pods.items() if not p.host_network and not self._stays(self.built.pods.get(k), p, stale)]
        self._add_pods(new_pods, wanted)
        self._add_strays(new_pods, new_nodes, wanted)
        self._program(wanted)
        self.built = wanted

    @staticmethod
    def _stays(built: LabPod | None, wanted: LabPod | None, stale: set[str]) -> bool:
        """Whether the pod's namespace and cable can stay as they are."""
        if built is None or wanted is None or built.node in stale:
            return False
        return (built.node, built.addresses, built.host_network) == (wanted.node, wanted.addresses, wanted.host_network)

    def _ip(self, netns: str, lines: Iterable[str], program: str = "ip") -> None:
        text = "\n".join(lines)
        if text:
            self.spaces.run(netns, [program, "-batch", "-"], text + "\n")

    def _add_machines(self, nodes: list[LabNode], hosts: list[LabHost], wanted: Topology) -> None:
        machines: list[LabNode | LabHost] = [*nodes, *hosts]
        for machine in machines:
            self.spaces.create(machine.netns)
            self.spaces.sysctl(machine.netns, wiring.FORWARDING)
        self._ip("", [line for m in machines for line in wiring.uplink_lines(m)])
        world = next((h for h in wanted.hosts.values() if h.extra), None)
        for node in nodes:
            self.spaces.sysctl(node.netns, wiring.BRIDGE_FILTER)
            ways = world.addresses if world else ()
            self._ip(node.netns, wiring.machine_lines(node.addresses) + wiring.node_lines(node, self.kind, ways))
        for host in hosts:
            self._ip(host.netns, wiring.machine_lines(host.addresses))

    def _connect_machines(self, wanted: Topology) -> None:
        for node in wanted.nodes.values():
            others = [n for n in wanted.nodes.values() if n.name != node.name]
            ip_lines, bridge_lines = wiring.peer_lines(others, self.kind)
            self._ip(node.netns, ip_lines)
            self._ip(node.netns, bridge_lines, "bridge")
        for host in wanted.hosts.values():
            self._ip(host.netns, wiring.host_lines(host, wanted))

    def _add_pods(self, pods: list[LabPod], wanted: Topology) -> None:
        self._remove_pods([p for p in pods if p.netns in self.spaces], wanted.nodes)  # what a change that failed has left
        for pod in pods:
            self.spaces.create(pod.netns)
            self.spaces.sysctl(pod.netns, wiring.QUIET)
        for node in wanted.nodes.values():
            mine = [p for p in pods if p.node == node.name]
            self._ip(node.netns, [line for p in mine for line in wiring.pod_cable(p, self.kind)])
            for pod in mine:
                self.spaces.sysctl(node.netns, wiring.pod_sysctls(pod, self.kind))
                self._ip(pod.netns, wiring.pod_lines(pod, node, self.kind))
                cni_results.keep(pod, node.netns, self.kind)

    def _add_strays(self, pods: list[LabPod], nodes: list[LabNode], wanted: Topology) -> None:
        """Routes to pods whose addresses lie outside their node's blocks: to new ones on all nodes, to all on new nodes."""
        fresh, newcomers = {n.name for n in nodes}, {p.key for p in pods}
        for pod in wanted.pods.values():
            for name, lines in wiring.stray_routes(pod, wanted.nodes.values(), self.kind).items():
                if name in fresh or pod.key in newcomers:
                    self._ip(wanted.nodes[name].netns, lines)

    def _remove_pods(self, pods: list[LabPod], nodes: Mapping[str, LabNode]) -> None:
        for node in nodes.values():
            mine = [p for p in pods if p.node == node.name]
            for pod in mine:
                cni_results.forget(pod, node.netns)
            lines = [
                line.replace("route replace", "route del")
                for pod in pods
                for line in wiring.stray_routes(pod, nodes.values(), self.kind).get(node.name, ())
            ]
            # The veth pairs are deleted by hand: a namespace itself ends late when a process in it still runs. As one group,
            # because the kernel waits for all its processors at each deletion.
            lines += [f"link set {pod.device} group {_GOING}" for pod in mine] + ([f"link del group {_GOING}"] if mine else [])
            if lines:
                with contextlib.suppress(LabError):  # some were deleted in the pod, or never plugged in
                    self.spaces.run(node.netns, ["ip", "-force", "-batch", "-"], "\n".join(lines) + "\n")
        for pod in pods:
            self.spaces.remove(pod.netns)

    def _remove_node(self, node: LabNode) -> None:
        self._ip(node.netns, ["link del eth0"])
        self.spaces.remove(node.netns)
        for family in (4, 6):
            self._service_chains.pop((node.netns, family), None)
        self._texts = {k: v for k, v in self._texts.items() if k[0] != node.netns}

    def _program(self, wanted: Topology) -> None:
        """The chains of masquerade and services, where their text changed; hooks are made once."""
        for node in wanted.nodes.values():
            for family in self.families.each:
                slot = (node.netns, int(family))
                first = slot not in self._service_chains
                services, chains = kube_proxy.service_rules(wanted, node.name, family, self._service_chains.get(slot, ()))
                masquerade = wiring.masquerade_rules(node, wanted, family)
                text = services + masquerade + (_hooks() if first else "")
                if self._texts.get((*slot, "key")) == _key(wanted, masquerade, node.name):
                    continue
                self.spaces.run(
                    node.netns, [self.backend.tool(family, "restore"), "--noflush", "-w", "5"], text, env=lock_of(node.netns)
                )
                self._service_chains[slot] = chains
                self._texts[(*slot, "key")] = _key(wanted, masquerade, node.name)


def lock_of(netns: str) -> dict[str, str]:
    """The xtables lock is a file: every node of the lab needs its own, as every machine has its own."""
    return {"XTABLES_LOCKFILE": f"/run/xtables-{netns}.lock"}


def _key(topology: Topology, masquerade: str, node: str) -> str:
    return repr((sorted(topology.services.items()), masquerade, node))


def _hooks() -> str:
    """Jumps into the chains: kube-proxy puts its own first, flannel appends."""
    lines: list[str] = []
    for table in ("nat", "filter"):
        lines.append(f"*{table}")
        lines += [
            f"-I {hook} -j {chain}" if table == "nat" else _filter_hook(hook, chain)
            for t, hook, chain in kube_proxy.HOOKS
            if t == table
        ]
        lines += [f"-A {hook} -j {chain}" for t, hook, chain in wiring.MASQUERADE_HOOKS if t == table]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def _filter_hook(hook: str, chain: str) -> str:
    new = "-m conntrack --ctstate NEW " if chain == "KUBE-SERVICES" else ""
    return f"-I {hook} {new}-j {chain}"
