"""The control plane of a real cluster: the lab's etcd and API server, and beside them the controllers and the scheduler.

In: the machine for it, and who else talks to the API server. Out: a control plane that serves, gives nodes their pod blocks and
tokens to service accounts, and asks kubelets on behalf of `kubectl exec` and `kubectl logs`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from netpol_kube.credentials import Credentials
from netpol_lab.control.certificates import make_identity
from netpol_lab.control.control_plane import ControlPlane, User, kubeconfig_text, options_of
from netpol_lab.network.netns import Namespaces
from netpol_lab.processes import Processes
from netpol_lab.topology.model import Families, LabNode
from netpol_realcluster import plan
from netpol_realcluster.plan import Plan

CONTROLLERS, SCHEDULER = "kube-controller-manager", "kube-scheduler"
_PROXY = "system:kube-proxy"


class Plane:
    """`start`, then `start_controllers`."""

    def __init__(self, spaces: Namespaces, processes: Processes, wanted: Plan, more: Iterable[User]) -> None:
        self._processes = processes
        self._pki = plan.FOLDER / "pki"
        self._own = {name: _user(f"system:{name}") for name in (CONTROLLERS, SCHEDULER)}
        self._proxy = _user(_PROXY)
        self._nodes = {node.name: _user(f"system:node:{node.name}", "system:nodes") for node in wanted.nodes}
        # A certificate of its own: kubelets are to believe the API server, and nobody else whom its authority signs.
        self.kubelet_client, key = make_identity(self._pki, "kubelet-client", "/O=system:masters/CN=kube-apiserver")
        more_options = {
            "kubelet-client-certificate": self.kubelet_client,
            "kubelet-client-key": key,
            "kubelet-preferred-address-types": "InternalIP",
        }
        users = (*self._own.values(), self._proxy, *self._nodes.values(), *more)
        self.server = ControlPlane(spaces, processes, plan.FOLDER, wanted.api, Families.IPV4, users, more_options)

    def start(self, tell: Callable[[str], None], limit: float) -> None:
        """etcd and the API server; returns when it is ready. Raises LabError."""
        self.server.start(tell, limit)

    def start_controllers(self, programs: Path) -> None:
        """The controller manager and the scheduler; does not wait. `programs`: their folder, as this process calls it."""
        configs = {name: self._write(f"{name}.conf", self.kubeconfig(user)) for name, user in self._own.items()}
        common = {"leader-elect": False, "bind-address": "127.0.0.1"}
        controllers = {
            **common,
            "kubeconfig": configs[CONTROLLERS],
            "use-service-account-credentials": True,
            "service-account-private-key-file": self._pki / "accounts.key",
            "root-ca-file": self._pki / "ca.crt",
            "allocate-node-cidrs": True,
            "flex-volume-plugin-dir": plan.FOLDER / "volume-plugins",  # else it makes a folder in the machine's own /usr
            "cluster-cidr": plan.POD_NETWORK,
            "service-cluster-ip-range": plan.SERVICE_NETWORK,
        }
        self._run(programs, CONTROLLERS, controllers)
        self._run(programs, SCHEDULER, {**common, "kubeconfig": configs[SCHEDULER]})

    def kubeconfig(self, user: User) -> str:
        """By which a program of the cluster is that user."""
        whole = self.server.credentials()
        return kubeconfig_text(Credentials(whole.server, ca=whole.ca, token=user.token))

    def kubelet_kubeconfig(self, node: LabNode) -> str:
        return self.kubeconfig(self._nodes[node.name])

    def proxy_kubeconfig(self) -> str:
        return self.kubeconfig(self._proxy)

    def _run(self, programs: Path, name: str, options: dict[str, object]) -> None:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(plan.FOLDER)}
        self._processes.start(name, [str(programs / name), *options_of(options)], self.server.netns, env)

    def _write(self, name: str, text: str) -> Path:
        path = self._pki / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path


def _user(name: str, *groups: str) -> User:
    return User(secrets.token_urlsafe(32), name, groups)
