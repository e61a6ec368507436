"""The compiler in a process with a hash seed of its own, so that nothing can be in the order of hashes unseen.

In: clusters, pickled. Out: every byte that comes of them, of the IR and of both nodes' rules.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from types import TracebackType
from typing import Any

from generators import NODES
from netpol_compiler.model.kinds import FAMILIES
from netpol_compiler.model.objects import Cluster
from netpol_compiler.node import compile_node
from netpol_compiler.policy import wire
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.ruleset import render

_SERVE = "from other_process import serve; serve()"
_WORDS = frozenset(f"word {n}" for n in range(50))


def everything(cluster: Cluster) -> bytes:
    """The IR in its wire form, then the restore text of each node."""
    ir = compile_cluster(cluster)
    parts = [wire.to_bytes(wire.policy_to_wire(policy)) for _, policy in sorted(ir.policies.items())]
    parts += [wire.to_bytes(wire.slice_to_wire(s, 0, 1, s.members)) for _, s in sorted(ir.sets.items())]
    for name in sorted(NODES):
        ruleset = compile_node(name, ir, cluster.pods.values()).ruleset
        parts.append(render.full_ipset_text(ruleset).encode())
        parts += [render.full_iptables_text(ruleset, family).encode() for family in FAMILIES]
    return b"\n".join(parts)


def set_order(_: None) -> bytes:
    return "".join(_WORDS).encode()


class OtherProcess:
    """Started on entry, ended on exit."""

    def __init__(self, hash_seed: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.__exit__(kind, error, trace)  # closes its input, which ends it, and waits

    def everything(self, cluster: Cluster) -> bytes:
        return self._asked("everything", cluster)

    def set_order(self) -> bytes:
        """In what order it has the members of some set of texts."""
        return self._asked("set_order", None)

    def _asked(self, what: str, value: Any) -> bytes:
        assert self._process.stdin and self._process.stdout
        pickle.dump((what, value), self._process.stdin)
        self._process.stdin.flush()
        answer = pickle.load(self._process.stdout)
        assert isinstance(answer, bytes)
        return answer


def serve() -> None:
    """Answer until the input ends."""
    while True:
        try:
            what, value = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump({"everything": everything, "set_order": set_order}[what](value), sys.stdout.buffer)
        sys.stdout.buffer.flush()
