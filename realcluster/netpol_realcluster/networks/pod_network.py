"""What a pod network of the real cluster does, whichever it is; one that needs less leaves the rest as it is here.

In: nodes that the API server knows, each with its block of pod addresses. Out: the node's CNI configuration, routes or tunnels.
Which networks there are is in `network`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netpol_lab.control.control_plane import User
from netpol_realcluster.nodes.node import Node

Object = Mapping[str, Any]


class PodNetwork(ABC):
    """One pod network. The same object serves all nodes, from several threads."""

    programs: Mapping[str, str] = {}
    """What it calls besides what every node does, with the Debian packages."""
    trial: Sequence[str] = ()
    """A command that fails, in a network namespace of its own, where the kernel lacks what it needs."""

    def users(self) -> tuple[User, ...]:
        """Whom its programs are to the API server."""
        return ()

    def objects(self) -> Sequence[Object]:
        """What it needs on the API server; applied before anything of it starts."""
        return ()

    def beside(self, nodes: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Programs, by name, that it runs on the control plane's machine before any node of it starts. `nodes`: their names."""
        return {}

    @abstractmethod
    def start(self, node: Node, block: str, others: Mapping[str, str], kubeconfig: Callable[[User], str]) -> None:
        """Connect the node's pods, whose addresses are in `block`; ends with `node.write_cni`. Raises LabError.

        `others`: the blocks of the other nodes, by name, which is their address. `kubeconfig`: how one of `users` logs in.
        """
