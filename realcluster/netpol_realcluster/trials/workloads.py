"""Pods and Services that tests put on a real cluster, in a namespace of their own.

In: names, labels, nodes. Out: manifests, and a `Field` that applies them, waits for what makes them usable and finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubectl import Kubectl
from netpol_realcluster.client import RealCluster
from netpol_realcluster.nodes import images
from netpol_realcluster.trials import endpoints
from netpol_realcluster.trials.endpoints import Place

Object = dict[str, Any]
PORT = 8080


def serving(port: int = PORT, name: str = "server", *, port_name: str = "http", **more: Any) -> Object:
    """A container with a web server. It is ready as soon as that answers."""
    return {
        "name": name,
        "image": images.AGNHOST,
        "args": ["netexec", f"--http-port={port}", "--udp-port=-1"],
        "ports": [{"name": port_name, "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/hostname", "port": port}, "periodSeconds": 1, "timeoutSeconds": 5},
        **more,
    }


def running(script: str, name: str = "script") -> Object:
    """A container with a shell script."""
    return {"name": name, "image": images.AGNHOST, "command": ["sh", "-c", script]}


def pod_spec(*containers: Object, node: str = "", **more: Any) -> Object:
    where = {"nodeName": node} if node else {}
    return {**where, "terminationGracePeriodSeconds": 0, "containers": list(containers) or [serving()], **more}


def pod(name: str, *containers: Object, node: str, labels: Mapping[str, str] | None = None, **more: Any) -> Object:
    """Without containers: a web server at PORT. Without labels: app=NAME. `more` are fields of its spec."""
    meta = {"name": name, "labels": dict(labels or {"app": name})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod_spec(*containers, node=node, **more)}


def controlled(kind: str, name: str, spec: Object, labels: Mapping[str, str], **more: Any) -> Object:
    """A workload of apps/v1 whose pods have these labels and this spec."""
    template = {"metadata": {"labels": dict(labels)}, "spec": spec}
    whole = {"selector": {"matchLabels": dict(labels)}, "template": template, **more}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": whole}


def service(name: str, labels: Mapping[str, str], *, target: int | str = PORT, node_port: int = 0, **more: Any) -> Object:
    """Port 80 of a ClusterIP, or of a NodePort where one is given."""
    port: Object = {"port": 80, "targetPort": target}
    spec: Object = {"selector": dict(labels), "ports": [port], **more}
    if node_port:
        spec["type"], port["nodePort"] = "NodePort", node_port
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


class Field:
    """One namespace of a real cluster. `make`, and at the end `clear`."""

    def __init__(self, real: RealCluster, kubectl: Kubectl, namespace: str) -> None:
        self.namespace = namespace
        self.kubectl = kubectl
        self._real = real
        self._within = f"--namespace={namespace}"

    def make(self, *objects: Object) -> None:
        """Apply them, and the namespace too where it is not there; returns when the pods among them are ready."""
        meta = {"name": self.namespace, "labels": {"kubernetes.io/metadata.name": self.namespace}}
        self.kubectl("apply", "-f", "-", objects=[{"apiVersion": "v1", "kind": "Namespace", "metadata": meta}])
        # Every new namespace gets this account a moment later, and no pod is admitted before.
        self.kubectl.until(lambda: self.has("serviceaccount", "default"), f"the account of {self.namespace}")
        if objects:
            self("apply", "-f", "-", objects=objects)
        self.ready(*(o["metadata"]["name"] for o in objects if o["kind"] == "Pod"))

    def __call__(self, *arguments: str, objects: Iterable[Object] = ()) -> str:
        """kubectl in this namespace."""
        return self.kubectl(self._within, *arguments, objects=objects)

    def has(self, kind: str, name: str) -> bool:
        return bool(self("get", kind, name, "--ignore-not-found", "--output=name"))

    def ready(self, *names: str) -> None:
        if names:
            self("wait", "--for=condition=Ready", "--timeout=55s", *(f"pod/{name}" for name in names))

    def item(self, kind: str, name: str) -> Any:
        """The object as the API server has it now."""
        return next(i for i in self.items(kind) if i["metadata"]["name"] == name)

    def items(self, kind: str, *options: str) -> list[Any]:
        return self.kubectl.items(kind, self._within, *options)

    def place(self, name: str) -> Place:
        """Where the pod is."""
        return endpoints.pod(self._real, self.item("pod", name))

    def address(self, service: str) -> str:
        """The Service's own."""
        return str(self.item("service", service)["spec"]["clusterIP"])

    def clear(self) -> None:
        """Remove the namespace; does not wait for the end of that."""
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")
