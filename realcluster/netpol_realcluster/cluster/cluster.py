"""Builds one real cluster, in the namespaces that `supervisor` is the first process of.

In: a plan, the folder of the nodes' programs, archives of images. Out: a control plane, nodes that are Ready, DNS that answers.
What does not depend on each other happens at the same time: the API server starts while the nodes' containerds do.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from netpol_api.kinds import DEPLOYMENT, NODE
from netpol_lab.control import kubernetes_bin
from netpol_lab.control.control_plane import APISERVER, LOCAL
from netpol_lab.errors import LabError
from netpol_lab.network import wiring
from netpol_lab.network.netns import Namespaces
from netpol_lab.processes import Processes
from netpol_lab.topology.model import LabHost, LabNode
from netpol_realcluster import plan
from netpol_realcluster.cluster import coredns
from netpol_realcluster.cluster.control_plane import CONTROLLERS, Plane
from netpol_realcluster.networks.choice import NETWORKS
from netpol_realcluster.nodes import images
from netpol_realcluster.nodes.node import Node
from netpol_realcluster.nodes.waiting import until
from netpol_realcluster.plan import Plan

_LIMIT = 90.0
_POLL = 0.1
_CONFIG, _INSIDE = plan.FOLDER / "kubeconfig", plan.FOLDER / "kubeconfig-inside"
_IMAGES = plan.FOLDER / "images"


class Builder:
    """`build` once."""

    def __init__(self, wanted: Plan, cgroup: str, tell: Callable[[str], None]) -> None:
        self.plan = wanted
        self._tell = tell
        logs = plan.FOLDER / "logs"
        logs.mkdir(exist_ok=True)
        self._spaces = Namespaces()
        self._processes = Processes(self._spaces, logs)
        self._network = NETWORKS[wanted.network]()
        self._plane = Plane(self._spaces, self._processes, wanted, self._network.users())
        self._nodes = [Node(self._spaces, self._processes, node, cgroup) for node in wanted.nodes]

    def build(self, programs: Path, archives: Iterable[Path], port: int) -> None:
        """Returns when every node is Ready and names are answered. Raises LabError.

        `port`: where the machine outside reaches the API server on its loopback, once the owner of this object forwards.
        """
        self._wire()
        # A node of some networks is connected only when all others are: none of them may wait for a thread.
        with ThreadPoolExecutor(max_workers=plan.MOST_NODES + 1) as pool:
            written = pool.submit(self._write_images, programs)
            prepared = [pool.submit(self._prepare, node, programs) for node in self._nodes]
            self._plane.start(self._tell, _LIMIT)
            self._write_kubeconfigs(port)
            self._plane.start_controllers(programs)
            self._apply([*self._network.objects(), *coredns.objects()])
            for name, command in self._network.beside([node.name for node in self._nodes]).items():
                self._processes.start(name, command, self.plan.api.netns)
            self._tell("starting the nodes")
            for done in prepared:
                done.result()
            blocks = dict(zip([node.name for node in self._nodes], pool.map(self._join, self._nodes), strict=True))
            list(pool.map(lambda node: self._connect(node, blocks), self._nodes))
            self._tell("importing images")
            imported = [pool.submit(self._load, node, [*written.result(), *archives]) for node in self._nodes]
            for node in self._nodes:
                node.wait(partial(self._ready, node), "Ready", "kubelet")
            for done in imported:
                done.result()
        self._tell("waiting for DNS")
        until(self._names_answered, "CoreDNS is ready", _LIMIT, self._processes, CONTROLLERS)

    def control(self, program: str, action: str) -> int | None:
        """Do one of `processes.ACTIONS`; returns the program's process id afterwards. Raises LabError."""
        return self._processes.control(program, action)

    def dial(self) -> socket.socket:
        """A fresh socket of the API server's network."""
        with self._spaces.inside(self.plan.api.netns):
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        return made

    # ---- machines ----------------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        """All machines, on one switch."""
        hosts = (self.plan.api, self.plan.outside)
        members: list[LabHost | LabNode] = [*hosts, *self.plan.nodes]
        self._ip("", wiring.switch_lines())
        for member in members:
            self._spaces.create(member.netns)
            self._ip("", wiring.uplink_lines(member))
            self._ip(member.netns, wiring.machine_lines(member.addresses))
        for host in hosts:
            self._spaces.sysctl(host.netns, wiring.QUIET)
        # A node reaches a Service's address only if it has some route for it, although kube-proxy sends the packet elsewhere.
        for node in self.plan.nodes:
            self._ip(node.netns, [f"route replace default via {self.plan.outside.addresses[0]}"])

    def _ip(self, space: str, lines: Iterable[str]) -> None:
        self._spaces.run(space, ["ip", "-batch", "-"], "\n".join(lines) + "\n")

    # ---- nodes -------------------------------------------------------------------------------------------------------

    def _prepare(self, node: Node, programs: Path) -> None:
        """Up to containerd, with what every pod needs: all that needs no API server."""
        node.make()
        node.start_containerd()
        archive = node.folder / "pause.tar"
        images.write(images.pause(programs), archive)
        node.load(archive)

    def _join(self, node: Node) -> str:
        """The rest, which does. Returns the block of addresses that the controller manager gave it for its pods."""
        node.start_kubelet(self._plane.kubelet_kubeconfig(node.node), self._plane.kubelet_client)
        node.start_proxy(self._plane.proxy_kubeconfig())
        node.wait(lambda: bool(self._block(node)), "a block of addresses for its pods", "kubelet")
        return self._block(node)

    def _connect(self, node: Node, blocks: Mapping[str, str]) -> None:
        """Pods of this node with all others."""
        others = {name: block for name, block in blocks.items() if name != node.name}
        self._network.start(node, blocks[node.name], others, self._plane.kubeconfig)
        # As a control plane that is a node itself: it reaches pods, which aggregated APIs and webhooks need.
        self._ip(self.plan.api.netns, [f"route replace {blocks[node.name]} via {node.name}"])

    def _block(self, node: Node) -> str:
        return str(self._get(NODE.path(name=node.name)).get("spec", {}).get("podCIDR", ""))

    def _ready(self, node: Node) -> bool:
        return _true(self._get(NODE.path(name=node.name)), "Ready")

    def _write_images(self, programs: Path) -> list[Path]:
        _IMAGES.mkdir()
        archives = []
        for number, image in enumerate(images.images(programs)):
            archives.append(_IMAGES / f"{number}.tar")
            images.write(image, archives[-1])
        return archives

    def _load(self, node: Node, archives: Iterable[Path]) -> None:
        for archive in archives:
            node.load(archive)

    # ---- objects -----------------------------------------------------------------------------------------------------

    def _names_answered(self) -> bool:
        return _true(self._get(DEPLOYMENT.path(coredns.NAMESPACE, coredns.NAME)), "Available")

    def _get(self, path: str) -> Mapping[str, Any]:
        """An object; empty when it is not there or the server does not answer."""
        answer = self._plane.server.ask(path)
        found: Mapping[str, Any] = json.loads(answer) if answer.startswith("{") else {}
        return found if found.get("kind") != "Status" else {}

    def _write_kubeconfigs(self, port: int) -> None:
        server = self._plane.server
        for path, url in ((_CONFIG, f"https://{LOCAL}:{port}"), (_INSIDE, server.server)):
            path.touch(mode=0o600)
            path.write_text(server.kubeconfig(url))

    def _apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """`kubectl apply`; again for a while, since a new API server takes a moment to make its namespaces."""
        kubectl = [str(kubernetes_bin.find().kubectl), f"--kubeconfig={_INSIDE}"]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        deadline = time.monotonic() + _LIMIT
        while True:
            try:
                self._spaces.run(self.plan.api.netns, [*kubectl, "apply", "--validate=false", "-f", "-"], text)
                return
            except LabError:
                if time.monotonic() > deadline or self._processes.pid(APISERVER) is None:
                    raise
                time.sleep(_POLL)


def _true(thing: Mapping[str, Any], condition: str) -> bool:
    conditions = thing.get("status", {}).get("conditions", ())
    return any(c["type"] == condition and c["status"] == "True" for c in conditions)
