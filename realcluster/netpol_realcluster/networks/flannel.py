"""flannel as people run it: flanneld on each node, masquerading and forwarding rules included, and the bridge plugin behind it.

In: the backend (one of `BACKENDS`), a node with its block. Out: flanneld's routes and devices, and the CNI configuration that
flannel's own plugin would make of its subnet file; that plugin does nothing else.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping

from netpol_lab.control.control_plane import User, options_of
from netpol_realcluster import plan
from netpol_realcluster.networks import cni
from netpol_realcluster.networks.pod_network import Object, PodNetwork
from netpol_realcluster.nodes.node import Node

BACKENDS = ("vxlan", "host-gw", "udp", "ipip")
_TRIALS = {"ipip": ("ip", "link", "add", "trial", "type", "ipip", "local", "192.0.2.1")}
_NAME = "flannel"


class Flannel(PodNetwork):
    """One flannel network."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self.trial = _TRIALS.get(backend, ())
        self._user = User(secrets.token_urlsafe(32), _NAME)

    def users(self) -> tuple[User, ...]:
        return (self._user,)

    def objects(self) -> list[Object]:
        api = "rbac.authorization.k8s.io"
        rules = [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
        ]
        meta = {"apiVersion": f"{api}/v1", "metadata": {"name": _NAME}}
        role = {"apiGroup": api, "kind": "ClusterRole", "name": _NAME}
        subjects = [{"apiGroup": api, "kind": "User", "name": _NAME}]
        return [
            {**meta, "kind": "ClusterRole", "rules": rules},
            {**meta, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": subjects},
        ]

    def start(self, node: Node, block: str, others: Mapping[str, str], kubeconfig: Callable[[User], str]) -> None:
        """The others' blocks flanneld finds out for itself."""
        backend = {"Type": self._backend}
        subnet = node.folder / "subnet.env"
        options = {
            "kube-subnet-mgr": True,
            "kubeconfig-file": node.write("flannel.conf", kubeconfig(self._user)),
            "net-config-path": node.write("net-conf.json", json.dumps({"Network": plan.POD_NETWORK, "Backend": backend})),
            "subnet-file": subnet,
            "iface": plan.DEVICE,
            "ip-masq": True,
        }
        node.start("flanneld", [str(plan.BINARIES / "flanneld"), *options_of(options)], {"NODE_NAME": node.name})
        node.wait(subnet.exists, "flannel's subnet file", "flanneld")
        told = dict(line.split("=", 1) for line in subnet.read_text().split())
        node.write_cni([cni.bridge(block, int(told["FLANNEL_MTU"])), cni.PORT_MAPS])
