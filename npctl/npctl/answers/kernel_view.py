"""The chains and sets of one pod, as the kernel of its node gets them.

In: the state and a node, or a pod. Out: `NodeCompiler` rulesets, and the part of one that a pod's two chains reach.
"""

from __future__ import annotations

from typing import Any

from netpol_compiler.model.kinds import DIRECTIONS
from netpol_compiler.model.objects import Pod
from netpol_compiler.node import compile_node
from netpol_compiler.node.pod_chains import pod_chain_name
from netpol_compiler.ruleset.reach import matched_sets, reachable
from netpol_compiler.ruleset.render import rule_text
from netpol_compiler.ruleset.values import Ruleset
from npctl.inputs.state import State


def node_ruleset(state: State, node: str) -> Ruleset:
    """The whole desired state of one node."""
    return compile_node(node, state.ir, state.cluster.pods.values()).ruleset


def pod_rules(state: State, pod: Pod) -> dict[str, Any]:
    """`{"node", "chains": {"4": {name: [rules]}, "6": ...}, "sets": {name: {"type", "members"}}}` for one pod."""
    ruleset = node_ruleset(state, pod.node)
    chains: dict[str, dict[str, list[str]]] = {}
    sets: set[str] = set()
    for family, all_chains in ruleset.chains.items():
        if any(a.version == family for a in pod.addresses):
            names = reachable(all_chains, [pod_chain_name(pod.key, d) for d in DIRECTIONS])
            chains[str(int(family))] = {n: [rule_text(rule) for rule in all_chains[n]] for n in names}
            sets |= matched_sets(all_chains, names)
    known = [ruleset.sets[n] for n in sorted(sets & set(ruleset.sets))]
    return {
        "node": pod.node,
        "chains": chains,
        "sets": {s.name: {"type": s.type, "members": sorted(s.members)} for s in known},
    }
