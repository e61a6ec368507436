"""Labs in which a pod cheats: every attack sent once without the guard and once with it, and what arrived.

    namespace a    node-a: victim (ingress from client only, 53/udp and 8080/tcp), client, attacker, jail (egress: nothing)
                   node-b: far, stranger (an attacker)

An attack counts as seen when a packet with its marker reaches the interface of the pod that it is for.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpol_agent.guard.state import link_local
from netpol_compiler.model.addresses import parse_address, parse_network
from netpol_compiler.model.kinds import Family
from netpol_lab.client import LabClient
from netpol_lab.network.wiring import gateway, mac_of, vxlan_mac
from netpol_lab.topology.model import LabNode
from packets import Manifest, namespace, node, pod

ATTACKER = Path(__file__).parents[1] / "attacks" / "attacker.py"
SERVER = (("web", 8080, "TCP"), ("names", 53, "UDP"))
ADDRESSES = {
    "victim": ("10.200.1.10", "fd00:10:200:1::10"),
    "client": ("10.200.1.11", "fd00:10:200:1::11"),
    "attacker": ("10.200.1.12", "fd00:10:200:1::12"),
    "jail": ("10.200.1.13", "fd00:10:200:1::13"),
    "far": ("10.200.2.10", "fd00:10:200:2::10"),
    "stranger": ("10.200.2.11", "fd00:10:200:2::11"),
}
NODES = {
    "node-a": (("172.31.7.121", "fd00:172:31:7::121"), ("10.200.1.0/24", "fd00:10:200:1::/64")),
    "node-b": (("172.31.7.122", "fd00:172:31:7::122"), ("10.200.2.0/24", "fd00:10:200:2::/64")),
}
WITNESS_SECONDS = 300
"""For all attacks together."""
ATTACK_SECONDS = 20
"""For all of one sender that follow each other."""
END = "end"


def base(families: str) -> list[Manifest]:
    """What every lab of this folder holds."""
    count = 2 if families == "dual" else 1

    def one(name: str, on: str, ports: Any = ()) -> Manifest:
        return pod(f"a/{name}", on, {"app": name}, ports, ADDRESSES[name][:count])

    return [
        *(node(name, addresses[:count], blocks[:count]) for name, (addresses, blocks) in NODES.items()),
        namespace("a"),
        one("victim", "node-a", SERVER),
        *(one(name, "node-a") for name in ("client", "attacker", "jail")),
        one("far", "node-b", SERVER),
        one("stranger", "node-b"),
        policy("victim", {"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": _ports()}]}),
        policy("jail", {"policyTypes": ["Egress"], "egress": []}),
    ]


def policy(name: str, spec: dict[str, Any]) -> Manifest:
    whole = {"podSelector": {"matchLabels": {"app": name}}, **spec}
    metadata = {"namespace": "a", "name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": whole}


def _ports() -> list[dict[str, Any]]:
    return [{"port": 8080}, {"port": 53, "protocol": "UDP"}]


@dataclass(frozen=True, slots=True)
class Attack:
    """`at`: whose interface it must reach. `rights`: what its pod needs beside a socket."""

    name: str
    by: str
    at: str
    program: str
    facts: dict[str, Any]
    rights: str = ""


class Field:
    """A lab, and attacks in it."""

    def __init__(self, lab: LabClient) -> None:
        self.lab = lab

    def start(self, pod_name: str, name: str, facts: dict[str, Any], **files: Any) -> subprocess.Popen[str]:
        program = [sys.executable, "-I", str(ATTACKER), name, json.dumps(facts)]
        command = [sys.executable, "-m", "npctl", "lab", "exec", "--name", self.lab.name, f"a/{pod_name}", "--", *program]
        return subprocess.Popen(command, text=True, env=os.environ, **files)

    def arrived(self, attacks: list[Attack]) -> frozenset[str]:
        """The names of those attacks of which a packet reached its target. Fails when an honest packet to it does not."""
        targets = sorted({attack.at for attack in attacks})
        facts = {"seconds": WITNESS_SECONDS, "until": END}
        witnesses = {at: self.start(at, "witness", facts, stdout=subprocess.PIPE) for at in targets}
        try:
            for witness in witnesses.values():
                assert witness.stdout is not None
                assert witness.stdout.readline() == "ready\n"
            for sender, group in itertools.groupby(attacks, key=lambda attack: attack.by):
                several = [[attack.program, {**attack.facts, "marker": attack.name}] for attack in group]
                program = self.start(sender, "several", {"attacks": several}, stderr=subprocess.PIPE)
                _, said = program.communicate(timeout=ATTACK_SECONDS)
                assert program.returncode == 0, said
            # An honest packet behind all of them: what comes before it has come, or does not come.
            for at in targets:
                honest = {"marker": END, "target": ADDRESSES[at][0], "port": 53}
                assert self.start("attacker" if at == "client" else "client", "plain_udp", honest).wait(ATTACK_SECONDS) == 0
            seen = {at: set(witness.communicate(timeout=ATTACK_SECONDS)[0].split("\n")) for at, witness in witnesses.items()}
            assert {at for at in targets if END not in seen[at]} == set(), "an honest packet did not arrive"
            return frozenset(attack.name for attack in attacks if attack.name in seen[attack.at])
        finally:
            for witness in witnesses.values():
                if witness.poll() is None:
                    witness.send_signal(signal.SIGKILL)
                    witness.wait()


def hardware_of(name: str) -> str:
    """A pod's hardware address: the lab's is made of its address."""
    return mac_of(parse_address(ADDRESSES[name][0]))


def bridge_hardware(node_name: str) -> str:
    """The hardware address of the bridge that a node's pods hang on."""
    return mac_of(gateway(parse_network(NODES[node_name][1][0])[0]))


def tunnel_end(node_name: str) -> str:
    """The hardware address of a node's VXLAN device, which anybody reads in the Node's annotations."""
    addresses = tuple(parse_address(a) for a in NODES[node_name][0])
    return vxlan_mac(LabNode(node_name, addresses, ()), Family.V4)


def link_local_of(name: str) -> str:
    """The address that a pod's kernel gives its interface by itself."""
    return link_local(bytes.fromhex(hardware_of(name).replace(":", ""))).text
