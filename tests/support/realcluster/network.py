"""What a pod network of the real cluster does, whichever it is. Each has a module of its own; `NETWORKS` knows them by name.

In: nodes that the API server knows, each with its block of pod addresses. Out: the node's CNI configuration, routes or tunnels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from netpol_lab.controlplane import User
from realcluster import flannel
from realcluster.node import Node

Object = Mapping[str, Any]


class Network(Protocol):
    """One pod network. The same object serves all nodes, from several threads."""

    def users(self) -> tuple[User, ...]:
        """Whom its programs are to the API server."""

    def objects(self) -> list[Object]:
        """What it needs on the API server; applied before anything of it starts."""

    def start(self, node: Node, block: str, others: Mapping[str, str], kubeconfig: Callable[[User], str]) -> None:
        """Connect the node's pods, whose addresses are in `block`; ends with `node.write_cni`. Raises LabError.

        `others`: the blocks of the other nodes, by name, which is their address. `kubeconfig`: how one of `users` logs in.
        """


NETWORKS: Mapping[str, Callable[[], Network]] = {
    f"flannel-{backend}": partial(flannel.Flannel, backend) for backend in flannel.BACKENDS
}
DEFAULT = "flannel-vxlan"
