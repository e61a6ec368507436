"""Routed pods as Calico makes them: a wire and a /32 route for each pod, and nodes that tell each other their blocks.

    bird-mesh        every node talks BGP to every other
    bird-reflector   every node talks to the route reflector alone, which runs on the control plane's machine

In: a node and its block. Out: BIRD 2 on the node with the routes to the other blocks in the kernel, and the CNI configuration.

Facts that it relies on: within one autonomous system (iBGP) what one neighbour told is not passed on to another, hence the mesh,
and a reflector's `rr client`, which leaves the next hop as it was, so that packets do not pass the reflector. `direct` takes that
next hop as it stands, since all are on one wire. The block itself is a blackhole on its node: pods' /32 routes are more special,
and what goes to an address that no pod has ends there rather than at the default gateway. Filters let nothing but blocks pass: in
and out. BIRD would wait 5 s before its first call and two minutes after a refused one, which is for networks larger than this.
"""

from __future__ import annotations

import textwrap
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

from netpol_lab.control.control_plane import User
from netpol_realcluster import plan
from netpol_realcluster.networks import cni
from netpol_realcluster.networks.pod_network import PodNetwork
from netpol_realcluster.nodes.node import Node

SYSTEM = 64512
BLOCK_PREFIX = 24
CONTROL = "/run/bird.ctl"
"""Where `birdc -s` asks a node's BIRD."""
REFLECTOR = "bird-reflector"


class _Bird(PodNetwork):
    programs: Mapping[str, str] = {"bird": "bird2"}

    def start(self, node: Node, block: str, others: Mapping[str, str], kubeconfig: Callable[[User], str]) -> None:
        """The others' blocks BIRD is told by its neighbours; here they say what to wait for."""
        config = node_config(node.name, block, self.neighbours(others))
        node.start("bird", ["bird", "-f", "-c", node.write("bird.conf", config), "-s", CONTROL])
        node.wait(lambda: set(others.values()) <= _learned(node), "routes to the blocks of the other nodes", "bird")
        cni.masquerade(node)
        node.write_cni([cni.ptp(block, plan.MTU), cni.PORT_MAPS])

    @abstractmethod
    def neighbours(self, others: Iterable[str]) -> Iterable[str]:
        """Whom a node talks BGP to."""


class Mesh(_Bird):
    """Full mesh."""

    def neighbours(self, others: Iterable[str]) -> Iterable[str]:
        return others


class Reflector(_Bird):
    """One route reflector for all."""

    def neighbours(self, others: Iterable[str]) -> Iterable[str]:
        return (plan.ADDRESSES[plan.API],)

    def beside(self, nodes: Sequence[str]) -> Mapping[str, Sequence[str]]:
        config = plan.FOLDER / f"{REFLECTOR}.conf"
        config.write_text(reflector_config(nodes))
        return {REFLECTOR: ["bird", "-f", "-c", str(config), "-s", str(config.with_suffix(".ctl"))]}


def _learned(node: Node) -> set[str]:
    """The blocks to which BIRD has put routes into the node's kernel."""
    lines = node.run(["ip", "route", "show", "proto", "bird"]).splitlines()
    return {line.split()[0] for line in lines if " via " in line}


def node_config(name: str, block: str, neighbours: Iterable[str]) -> str:
    """BIRD's on a node of that name: what it tells is its block, and what it is told goes into the kernel."""
    own = textwrap.dedent(f"""
        protocol static own {{ ipv4; route {block} blackhole; }}
        protocol kernel {{ ipv4 {{ import none; export where source = RTS_STATIC || source = RTS_BGP; }}; }}
    """)
    channel = 'ipv4 { import where is_block(); export where proto = "own" && is_block(); };'
    return _common(name) + own + "".join(_neighbour(n, name, channel) for n in neighbours)


def reflector_config(nodes: Iterable[str]) -> str:
    """BIRD's on the machine beside the nodes: it passes blocks on, and has no routes itself."""
    channel = "rr client; ipv4 { import where is_block(); export where is_block(); };"
    return _common(plan.ADDRESSES[plan.API]) + "".join(_neighbour(n, plan.ADDRESSES[plan.API], channel) for n in nodes)


def _common(router: str) -> str:
    """`router`: the address by which the others know it."""
    return textwrap.dedent(f"""\
        log stderr all;
        router id {router};
        protocol device {{ }}
        function is_block() {{ return net ~ [ {plan.POD_NETWORK}{{{BLOCK_PREFIX},{BLOCK_PREFIX}}} ]; }}
    """)


def _neighbour(address: str, own: str, channel: str) -> str:
    return textwrap.dedent(f"""\
        protocol bgp to_{address.replace(".", "_")} {{
          local {own} as {SYSTEM};
          neighbor {address} as {SYSTEM};
          direct;
          connect delay time 1;
          connect retry time 2;
          error wait time 1, 2;
          {channel}
        }}
    """)
