"""Which policies are in force on this node: what `npctl wait` waits for.

Not the question of `netpol_api.in_force`, which compares the nodes' answers with what was compiled: only the agent knows what its
kernel has.

In: the compiler and the dataplane after a sync. Out: the digest of each policy that selects a live pod here and whose rules the
kernel has. A policy that waits for a set, or one of whose chains or sets could not be written, is left out, or is there with
the version that is in force.
"""

from __future__ import annotations

from netpol_agent.dataplane.dataplane import Behind
from netpol_compiler.model.kinds import DIRECTIONS
from netpol_compiler.model.objects import Key, Pod
from netpol_compiler.node import NodeCompiler
from netpol_compiler.node.pod_chains import pod_chain_name
from netpol_compiler.ruleset.reach import matched_sets, reachable


def policies_in_force(compiler: NodeCompiler, behind: Behind) -> dict[str, str]:
    """`namespace/name` -> digest. `behind`: what of the compiler's ruleset the kernel lacks."""
    if behind.everything:
        return {}
    chosen: set[Key] = set()
    late: set[Key] = set(compiler.incomplete)
    for pod in compiler.pods.values():
        if pod.is_live:
            policies = compiler.policies_of(pod.key)
            chosen |= policies
            if behind and policies and _lacks(compiler, pod, behind):
                late |= policies
    # What has no digest was not published: it only stands for what is not known yet.
    return {str(key): digest for key in sorted(chosen - late) if (digest := compiler.policies[key].digest)}


def pods_in_force(compiler: NodeCompiler, behind: Behind) -> frozenset[Key]:
    """The live pods with all their rules in the kernel, and those that no policy selects."""
    if behind.everything:
        return frozenset()
    live = (pod for pod in compiler.pods.values() if pod.is_endpoint)
    return frozenset(
        pod.key for pod in live if not behind or not compiler.policies_of(pod.key) or not _lacks(compiler, pod, behind)
    )


def _lacks(compiler: NodeCompiler, pod: Pod, behind: Behind) -> bool:
    """Whether something on the pod's way is not in the kernel."""
    for family, chains in compiler.ruleset.chains.items():
        names = reachable(chains, [pod_chain_name(pod.key, d) for d in DIRECTIONS])
        if not behind.chains.get(family, frozenset()).isdisjoint(names) or not behind.sets.isdisjoint(
            matched_sets(chains, names)
        ):
            return True
    return False
