"""Synthetic values as the objects that an API server takes: the inverse of the compiler's parsers, for `synthetic` clusters.

In: values of the compiler's model. Out: plain JSON objects. A pod is filled up to the size that pods have in real clusters,
with what makes them large there: environment, probes, annotations, and a status. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from netpol_api.api_objects import Json
from netpol_compiler.model.kinds import Direction
from netpol_compiler.model.objects import IPBlock, NamedPort, Namespace, Peer, Pod, Policy, Port, Rule
from netpol_compiler.model.selectors import Selector

POD_BYTES = 5000
"""A pod as the API server gives it, with the managedFields that it adds."""
_ADDED = 1900
"""Bytes that the API server adds to a pod of ours: defaults, managedFields, and what is told of its creation."""
_PADDING = "bench.npctl.dev/padding"
CREATED = "2026-01-01T00:00:00Z"


def namespace(value: Namespace) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": value.name, "labels": dict(value.labels)}}


def pod(value: Pod, size: int = POD_BYTES) -> Json:
    """The pod as it is created; its status is `pod_status`, which the API server takes by itself."""
    data = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": value.key.namespace, "name": value.key.name, "labels": dict(value.labels)},
        "spec": {"nodeName": value.node, "terminationGracePeriodSeconds": 0, "containers": [_container(value)]},
    }
    missing = size - _ADDED - len(str(data)) - len(str(pod_status(value)))
    data["metadata"]["annotations"] = {_PADDING: "x" * max(0, missing)}
    return data


def _container(value: Pod) -> Json:
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10, "failureThreshold": 3}
    return {
        "name": "main",
        "image": f"example.com/{value.key.namespace}/{value.labels['app']}:v1.2.3",
        "ports": [{"name": p.name, "protocol": p.protocol.value, "containerPort": p.port} for p in value.ports],
        "env": [{"name": f"SETTING_{i}", "value": f"value number {i} of this pod"} for i in range(10)],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "livenessProbe": probe,
        "readinessProbe": probe,
    }


def pod_status(value: Pod) -> Json:
    """What a kubelet writes about a pod that runs."""
    conditions = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "phase": value.phase,
        "podIP": value.addresses[0].text,
        "podIPs": [{"ip": a.text} for a in value.addresses],
        "hostIP": "192.0.2.1",
        "startTime": CREATED,
        "conditions": [{"type": c, "status": "True", "lastTransitionTime": CREATED} for c in conditions],
        "containerStatuses": [
            {
                "name": "main",
                "image": "example.com/app:v1.2.3",
                "imageID": f"sha256:{hash_like(value.uid)}",
                "containerID": f"containerd://{hash_like(value.uid)}",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": CREATED}},
            }
        ],
    }


def hash_like(text: str) -> str:
    """64 hexadecimal digits."""
    return text.encode().hex().ljust(64, "0")[:64]


def policy(value: Policy) -> Json:
    spec: Json = {
        "podSelector": selector(value.pod_selector),
        "policyTypes": [d.api_name for d in sorted(value.directions)],
    }
    for direction in value.directions:
        field, peers = ("ingress", "from") if direction is Direction.INGRESS else ("egress", "to")
        spec[field] = [_rule(rule, peers) for rule in value.rules if rule.direction is direction]
    metadata = {"namespace": value.key.namespace, "name": value.key.name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _rule(rule: Rule, peers: str) -> Json:
    return {peers: [_peer(p) for p in rule.peers or ()], "ports": [_port(p) for p in rule.ports or ()]}


def _peer(peer: Peer) -> Json:
    if isinstance(peer, IPBlock):
        return {"ipBlock": {"cidr": peer.cidr.text, "except": [e.text for e in peer.exceptions]}}
    found = {"podSelector": selector(peer.pod_selector)}
    if peer.namespace_selector is not None:
        found["namespaceSelector"] = selector(peer.namespace_selector)
    return found


def _port(port: Port) -> Json:
    if isinstance(port, NamedPort):
        return {"protocol": port.protocol.value, "port": port.name}
    return {"protocol": port.protocol.value, "port": port.first}


def selector(value: Selector) -> Json:
    return {"matchExpressions": list(_requirements(value))}


def _requirements(value: Selector) -> Iterator[Json]:
    for requirement in value.requirements:
        yield {"key": requirement.key, "operator": requirement.operator.value, "values": list(requirement.values)}
