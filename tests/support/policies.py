"""Random NetworkPolicies, as manifests, over the pods of the kernel tests' lab; equal for equal seeds."""

from __future__ import annotations

import random
from typing import Any

from packets import Manifest

NAMESPACES = ("a", "b", "c")
LABELS = {"app": ("server", "client", "none"), "tier": ("gold", "silver"), "id": ("1", "2")}
NAMESPACE_LABELS = {"team": ("a", "b", "none"), "kubernetes.io/metadata.name": NAMESPACES}
BLOCKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("0.0.0.0/0", ("10.244.1.0/24", "10.244.2.2/32", "172.31.7.0/24")),
    ("10.244.0.0/16", ("10.244.1.0/24", "10.244.1.3/32", "10.244.2.0/25")),
    ("10.244.1.0/24", ("10.244.1.2/31",)),
    ("172.31.7.109/32", ()),
    ("172.31.7.122/24", ("172.31.7.121/32",)),
    ("::/0", ("fd00:10:244:1::/64", "fd00:172:31:7::/64")),
    ("fd00:10:244::/48", ("fd00:10:244:2::/64", "fd00:10:244:1::2/128")),
)
PORTS: tuple[dict[str, Any], ...] = (
    {"port": 8080}, {"port": 9090}, {"port": "http"}, {"port": "other"}, {"port": 8080, "endPort": 8081},
    {"port": 1, "endPort": 65535},
    {"protocol": "TCP"}, {"protocol": "UDP"}, {"port": "names", "protocol": "UDP"}, {"port": 5353, "protocol": "UDP"},
    {"protocol": "SCTP"}, {"port": "signal", "protocol": "SCTP"},
)  # fmt: skip


def random_policies(seed: int, count: int) -> list[Manifest]:
    chance = random.Random(seed)
    return [_policy(f"random-{i}", chance) for i in range(count)]


def _policy(name: str, chance: random.Random) -> Manifest:
    types = chance.choice((["Ingress"], ["Ingress"], ["Egress"], ["Ingress", "Egress"]))
    spec: dict[str, Any] = {"podSelector": _selector(LABELS, chance), "policyTypes": types}
    for direction in types:
        spec[direction.lower()] = [_rule("from" if direction == "Ingress" else "to", chance) for _ in range(chance.randrange(4))]
    metadata = {"namespace": chance.choice(("a", "a", "b", "c")), "name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def _rule(peers: str, chance: random.Random) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if chance.random() < 0.85:
        rule[peers] = [_peer(chance) for _ in range(chance.randint(1, 3))]
    if chance.random() < 0.7:
        rule["ports"] = chance.sample(PORTS, chance.randint(1, 3))
    return rule


def _peer(chance: random.Random) -> dict[str, Any]:
    match chance.randrange(4):
        case 0:
            return {"podSelector": _selector(LABELS, chance)}
        case 1:
            return {"namespaceSelector": _selector(NAMESPACE_LABELS, chance)}
        case 2:
            return {"namespaceSelector": _selector(NAMESPACE_LABELS, chance), "podSelector": _selector(LABELS, chance)}
        case _:
            cidr, inside = chance.choice(BLOCKS)
            excepted = chance.sample(inside, chance.randint(0, len(inside)))
            return {"ipBlock": {"cidr": cidr, **({"except": excepted} if excepted else {})}}


def _selector(labels: dict[str, tuple[str, ...]], chance: random.Random) -> dict[str, Any]:
    key = chance.choice(list(labels))
    match chance.randrange(4):
        case 0:
            return {}
        case 1:
            return {"matchLabels": {key: chance.choice(labels[key])}}
        case _:
            operator = chance.choice(("In", "NotIn", "Exists", "DoesNotExist"))
            values = {"values": chance.sample(labels[key], chance.randint(1, 2))} if operator.endswith("In") else {}
            return {"matchExpressions": [{"key": key, "operator": operator, **values}]}
