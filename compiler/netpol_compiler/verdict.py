"""The verdict on one connection, evaluated from the IR, with the policy and rule that decided.

This is the second witness (the first is `oracle`), and the only place where `npctl` gets its answers from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from netpol_compiler.kinds import Direction
from netpol_compiler.objects import Key


class Reason(str, Enum):
    """Why one side of a connection passes or not."""

    NOT_ISOLATED = "not-isolated"  # no policy isolates the pod in this direction
    RULE = "rule"  # a rule allows it: `policy`, `rule_index`
    DEFAULT_DENY = "default-deny"  # isolated by `isolating`, and no rule of theirs matches
    SELF = "self"  # a pod always reaches itself (SEMANTICS 10)
    NODE = "node"  # the pod and the node that runs it always reach each other (SEMANTICS 9)
    NOT_A_POD = "not-a-pod"  # this end is no pod that policies can select


@dataclass(frozen=True, slots=True)
class SideVerdict:
    """One side: the source's egress or the destination's ingress.

    `policy` and `rule_index` (0-based) name the first deciding rule for RULE; `isolating` names every policy that
    isolates the pod in this direction. `words` is one sentence for people.
    """

    direction: Direction
    pod: Key | None
    allowed: bool
    reason: Reason
    policy: Key | None = None
    rule_index: int | None = None
    isolating: tuple[Key, ...] = ()
    words: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Both sides; the connection passes when both allow it (SEMANTICS 2)."""

    egress: SideVerdict
    ingress: SideVerdict

    @property
    def allowed(self) -> bool:
        return self.egress.allowed and self.ingress.allowed

    @property
    def deciding(self) -> SideVerdict:
        """The side to name in one line: the one that refuses, else the one that a rule allowed."""
        if not self.egress.allowed:
            return self.egress
        if not self.ingress.allowed or self.ingress.reason is not Reason.NOT_ISOLATED:
            return self.ingress
        return self.egress if self.egress.reason is Reason.RULE else self.ingress
