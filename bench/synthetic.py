"""A synthetic cluster of any size: namespaces, pods and policies that look like people's.

In: sizes and a seed. Out: a `Cluster`, equal for equal arguments. Nothing is read, nothing is timed.
Each namespace holds applications of several tiers (web, app, db); policies select one application and admit others by
pod selector, by namespace, by both, or by address block, on one to three ports, one in ten of them by name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from netpol_compiler.model.addresses import Address, parse_network
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import (
    NAMESPACE_NAME_LABEL,
    Cluster,
    ContainerPort,
    IPBlock,
    Key,
    Labels,
    NamedPort,
    Namespace,
    Node,
    Peer,
    Pod,
    PodPeer,
    Policy,
    Port,
    PortRange,
    Rule,
)
from netpol_compiler.model.selectors import Selector, label_selector

TIERS = ("web", "app", "db")
FIRST_ADDRESS = (10 << 24) | (64 << 16)
PODS_PER_NODE = 250


def cluster(namespaces: int = 100, pods: int = 10_000, policies: int = 1_000, seed: int = 1) -> Cluster:
    """A cluster in which every node runs `PODS_PER_NODE` pods (the last one fewer)."""
    chance = random.Random(seed)
    names = [f"team-{i:03d}" for i in range(namespaces)]
    made = [pod(i, names[i % namespaces], i // namespaces) for i in range(pods)]
    apps = max(1, pods // namespaces // 10)
    rules = [policy(i, names[i % namespaces], apps, names, chance) for i in range(policies)]
    return Cluster(
        namespaces={n: Namespace(n, Labels({NAMESPACE_NAME_LABEL: n, "zone": f"z{i % 4}"})) for i, n in enumerate(names)},
        pods={p.key: p for p in made},
        policies={p.key: p for p in rules},
        nodes={name: Node(name, Labels()) for name in sorted({p.node for p in made})},
    )


def pod(number: int, namespace: str, index: int) -> Pod:
    """Pod `index` of `namespace`, the `number`th of the cluster."""
    application, tier = f"app-{index // 10}", TIERS[index % 3]
    return Pod(
        key=Key(namespace, f"{application}-{tier}-{index}"),
        uid=f"uid-{number}",
        labels=Labels({"app": application, "tier": tier, "pod-template-hash": f"{index // 10:08x}"}),
        node=node_name(number // PODS_PER_NODE),
        addresses=(Address(4, FIRST_ADDRESS + number),),
        ports=(ContainerPort("http", Protocol.TCP, 8080 + index % 2),),
    )


def node_name(number: int) -> str:
    return f"node-{number:03d}"


def policy(number: int, namespace: str, apps: int, namespaces: list[str], chance: random.Random) -> Policy:
    """One policy: two in three for ingress only, the rest for both directions."""
    directions = frozenset({Direction.INGRESS} if number % 3 else {Direction.INGRESS, Direction.EGRESS})
    rules = tuple(
        Rule(direction, index, tuple(_peers(apps, namespaces, chance)), tuple(_ports(chance)))
        for direction in sorted(directions)
        for index in range(chance.randint(1, 3))
    )
    return Policy(Key(namespace, f"policy-{number}"), f"uid-policy-{number}", _pods(apps, chance), directions, rules)


def _pods(apps: int, chance: random.Random) -> Selector:
    return label_selector(app=f"app-{chance.randrange(apps)}", tier=chance.choice(TIERS))


def _peers(apps: int, namespaces: list[str], chance: random.Random) -> Iterator[Peer]:
    for _ in range(chance.randint(1, 3)):
        match chance.randrange(4):
            case 0:
                yield PodPeer(None, _pods(apps, chance))
            case 1:
                yield PodPeer(label_selector(zone=f"z{chance.randrange(4)}"), label_selector(tier=chance.choice(TIERS)))
            case 2:
                yield PodPeer(label_selector(**{NAMESPACE_NAME_LABEL: chance.choice(namespaces)}), _pods(apps, chance))
            case _:
                block = parse_network(f"172.{chance.randrange(16, 32)}.0.0/16")[0]
                yield IPBlock(block, (parse_network(f"{block.text.rsplit('.', 2)[0]}.{chance.randrange(256)}.0/24")[0],))


def _ports(chance: random.Random) -> Iterator[Port]:
    for _ in range(chance.randint(1, 3)):
        if chance.randrange(10) == 0:
            yield NamedPort(Protocol.TCP, "http")
        else:
            first = chance.choice((53, 80, 443, 3306, 5432, 6379, 8080, 9090))
            yield PortRange(Protocol.UDP if first == 53 else Protocol.TCP, first, first)
