"""A small cluster in ordinary Kubernetes objects, for tests of the lab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def meta(name: str, namespace: str = "", labels: Mapping[str, str] | None = None) -> Object:
    return {"name": name, **({"namespace": namespace} if namespace else {}), **({"labels": dict(labels)} if labels else {})}


def node(number: int, block: str) -> Object:
    address = f"172.31.7.{number}"
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta(address), "spec": {"podCIDR": block}, "status": status}


def pod(namespace: str, name: str, where: int, *ports: tuple[str, int], **more: Any) -> Object:
    containers = [{"name": "c", "image": "c", "ports": [{"protocol": p, "containerPort": n} for p, n in ports]}]
    spec = {"nodeName": f"172.31.7.{where}", "containers": containers, **more}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta(name, namespace, {"app": name.rstrip("0123456789-")}),
        "spec": spec,
    }


def service(name: str, app: str, node_port: int, **more: Any) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": node_port}]
    spec = {"type": "NodePort", "selector": {"app": app}, "ports": ports, **more}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta(name, "python"), "spec": spec}


CLUSTER: list[Object] = [
    node(111, "10.200.36.0/24"),
    node(112, "10.200.37.0/24"),
    pod("python", "tomcat-1", 111, ("TCP", 8080), ("UDP", 5353), ("SCTP", 99)),
    pod("python", "tomcat-2", 112, ("TCP", 8080)),
    pod("python", "lone", 111, ("TCP", 8080)),
    pod("linux", "client", 112, ("TCP", 80)),
    pod("linux", "hosty", 112, ("TCP", 9100), hostNetwork=True),
    service("tomcat", "tomcat", 30015),
    service("lone", "lone", 30016),
    service("near", "lone", 30017, externalTrafficPolicy="Local"),
    service("empty", "nobody", 30018),
]
