"""A namespace of a test's own, with pods on the nodes that the test chooses; all of it by kubectl, as people do it.

    ground.apply(pod("server", 1, {"app": "server"}), policy("p", {"app": "server"}, ingress=[allow({"access": "yes"})]))
    ground.label("pod", "mover", access="yes")
    ground.see("friend -> server 8080 allowed")            at once
    ground.until("mover -> server 8080 allowed", limit=5)  as soon as it is so, and not later

Names of pods stand alone; the namespace is put before them. Packets are IPv4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_api import Cluster, Object
from packets import IPV4, see_packets

Labels = Mapping[str, str]

NODES = ("172.31.7.111", "172.31.7.112", "172.31.7.113")
"""Of the session's lab; tests write 1, 2 and 3."""
ADDRESS_ANNOTATION = "lab.npctl.dev/ip"
"""By which a pod says which address it wants."""
PORT, OTHER_PORT = 8080, 9090
"""Every pod listens on both."""
IN_FORCE = 30.0
"""Seconds that everything may take on a machine with other work; what is promised in seconds has its own limit."""


def pod(name: str, node: int, labels: Labels | None = None, *, address: str = "", namespace: str = "") -> Object:
    """A pod on node 1, 2 or 3, at `address` if it is given."""
    annotations = {ADDRESS_ANNOTATION: address} if address else {}
    ports = [{"containerPort": number} for number in (PORT, OTHER_PORT)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(name, namespace, labels=dict(labels or {}), annotations=annotations),
        "spec": {"nodeName": NODES[node - 1], "containers": [{"name": "main", "image": "nginx:1.28", "ports": ports}]},
    }


def policy(name: str, pods: Labels, *, ingress: Sequence[Object] = (), egress: Sequence[Object] | None = None) -> Object:
    """Isolates the pods with these labels for ingress, and for egress where rules are given."""
    spec: dict[str, Any] = {"podSelector": {"matchLabels": dict(pods)}, "policyTypes": ["Ingress"], "ingress": list(ingress)}
    if egress is not None:
        spec |= {"policyTypes": ["Ingress", "Egress"], "egress": list(egress)}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": _metadata(name, ""), "spec": spec}


def allow(pods: Labels | None = None, *, namespaces: Labels | None = None, port: int | None = None) -> Object:
    """An ingress rule for pods of the policy's namespace with these labels, or of the namespaces with those."""
    peer: dict[str, Any] = {}
    if namespaces is not None:
        peer["namespaceSelector"] = {"matchLabels": dict(namespaces)}
    if pods is not None:
        peer["podSelector"] = {"matchLabels": dict(pods)}
    return {"from": [peer], **({"ports": [{"port": port}]} if port else {})}


def space(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _metadata(name: str, space: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **({"namespace": space} if space else {}), **{k: v for k, v in more.items() if v}}


@dataclass(frozen=True)
class Ground:
    """One namespace in one lab."""

    cluster: Cluster
    namespace: str

    # -- changes ---------------------------------------------------------------------------------------

    def apply(self, *objects: Object, wait: bool = False) -> None:
        """`kubectl apply -f -`; with `wait`, returns when all of the lab is in force."""
        self.cluster.apply([self._placed(o) for o in objects])
        if wait:
            self.in_force()

    def _placed(self, data: Object) -> Object:
        if data["kind"] in ("Namespace", "Node"):
            return data
        return {**data, "metadata": {"namespace": self.namespace, **data["metadata"]}}

    def delete(self, kind: str, *names: str, namespace: str = "") -> None:
        """`kubectl delete`, which returns when they are gone."""
        self.cluster.kubectl("delete", kind, *names, "-n", namespace or self.namespace, "--timeout=60s", limit=90)

    def label(self, kind: str, name: str, **labels: str | None) -> None:
        """`kubectl label`; None takes a label away."""
        words = [f"{key}-" if value is None else f"{key}={value}" for key, value in labels.items()]
        place = () if kind == "namespace" else ("-n", self.namespace)
        self.cluster.kubectl("label", kind, name, *place, "--overwrite", *words)

    def patch(self, kind: str, name: str, patch: str, *more: str, how: str = "merge") -> None:
        """`kubectl patch`."""
        self.cluster.kubectl("patch", kind, name, "-n", self.namespace, f"--type={how}", "-p", patch, *more)

    # -- what is so ------------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> Any:
        return self.cluster.get(kind, name, "-n", self.namespace)

    def address(self, name: str) -> str:
        """The pod's own."""
        return str(self.get("pod", name)["status"]["podIP"])

    def in_force(self, limit: float = IN_FORCE) -> None:
        """Return when every node has in force what a compile from scratch of the API's objects gives."""
        self.cluster.client.wait(limit=limit)

    def place(self, name: str) -> str:
        """A pod's name as the lab takes it; what has a slash already stays."""
        return name if "/" in name else f"{self.namespace}/{name}"

    def connection(self, line: str) -> dict[str, Any]:
        """`friend -> server 8080` as the lab's client takes it; what follows is left out."""
        source, _, target, port = line.split()[:4]
        return {"source": self.place(source), "destination": self.place(target), "port": port, "family": 4}

    def verdicts(self, *lines: str, limit: float = 0.5) -> list[str]:
        """What becomes of each connection, tried at the same time."""
        seen = self.cluster.client.connect_many([self.connection(line) for line in lines], limit=limit)
        return [",".join(sorted({row["verdict"] for row in rows})) for rows in seen]

    def see(self, lines: str) -> None:
        """Send all packets at once and compare: SOURCE -> TARGET PORT allowed|refused, a line each."""
        rows = [line.split() for line in lines.strip().splitlines()]
        placed = [" ".join([self.place(row[0]), "->", self.place(row[2]), *row[3:]]) for row in rows]
        see_packets(self.cluster.client, "\n".join(placed), IPV4)

    def until(self, *lines: str, limit: float = IN_FORCE) -> None:
        """Return when all these lines hold at once. Raises AssertionError after `limit` seconds."""
        wanted = [line.split()[4] for line in lines]
        self.cluster.wait_for(lambda: self.verdicts(*lines) == wanted, limit, "; ".join(lines))
