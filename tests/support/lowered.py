"""A small cluster whose pod `db` is isolated in tests, and its rules with the hashes left out."""

from __future__ import annotations

import re
from typing import NamedTuple

from builders import (
    Allow,
    cluster,
    egress_policy,
    namespace,
    pod,
    policy,
)
from netpol_compiler.model.kinds import Direction, Family
from netpol_compiler.model.objects import Cluster, Namespace, Pod, Policy
from netpol_compiler.node import LowerOptions, NodeCompiler, compile_node
from netpol_compiler.node.pod_chains import pod_chain_name
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.ruleset.render import rule_text
from netpol_compiler.ruleset.rules import Rules

DB = pod("a", "db", ["10.0.1.2", "fd00::12"], app="db", ports=["sql:5432", "web:8080"])
WEB = pod("a", "web", ["10.0.1.1", "fd00::11"], app="web", tier="front", ports=["web:80"])
BATCH = pod("a", "batch", ["10.0.1.3", "fd00::13"], app="batch")
OTHER = pod("b", "other", ["10.0.2.1", "fd00::21"], app="web", node="n2", ports=["web:8000"])
BASE = (namespace("a", team="red"), namespace("b", team="blue"), DB, WEB, BATCH, OTHER)


def node_of(c: Cluster, options: LowerOptions | None = None, name: str = "n1") -> NodeCompiler:
    return compile_node(name, compile_cluster(c), c.pods.values(), options)


class Body(NamedTuple):
    """The rules of a pod's body, hashes left out, comments left out; and the sets by their readable names."""

    rules: list[str]
    sets: dict[str, set[str]]


def plain(text: str) -> str:
    text = re.sub(r'-m comment --comment "[^"]*" ', "", text)
    return re.sub(r"(npc[46]?-[a-z0-9-]*)-[1-9A-HJ-NP-Za-km-z]{14}\b", r"\1", text)


def texts(rules: Rules) -> list[str]:
    return [rule_text(r) for r in rules]


def plain_rules(rules: Rules) -> list[str]:
    return [plain(text) for text in texts(rules)]


def targets(rules: Rules) -> list[str]:
    return [r.target for r in rules if r.target]


def body_of(node: NodeCompiler, local: Pod, direction: Direction, family: Family = Family.V4) -> Body:
    chain = next(t for t in targets(node.ruleset.chains[family][pod_chain_name(local.key, direction)]) if t.startswith("npc-b"))
    sets = {plain(name): set(s.members) for name, s in node.ruleset.sets.items() if s.family is family}
    return Body(plain_rules(node.ruleset.chains[family][chain]), sets)


def lowered(*objects: Policy | Pod | Namespace, direction: Direction = Direction.INGRESS, family: Family = Family.V4) -> Body:
    """The body of DB."""
    return body_of(node_of(cluster(*BASE, *objects)), DB, direction, family)


def ingress(*rules: Allow, **select: str) -> Policy:
    return policy("a", "p", select or {"app": "db"}, ingress=rules)


def egress(*rules: Allow) -> Policy:
    return egress_policy("a", "p", {"app": "db"}, *rules)
