"""Text for `iptables-restore --noflush` and `ipset restore`, from a ruleset or from parts of one.

The order that makes a change safe is the agent's: sets up, members added, chains, members removed, sets down.
Each function here renders one of those steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.values import IPSet, Rules, Ruleset

MAXELEM = 1048576
"""maxelem of every set: the default of 65,536 has stopped other controllers in the field."""


def create_set(ipset: IPSet) -> str:
    """The `create` line of one set, repeatable (-exist)."""
    family = "inet" if ipset.family is Family.V4 else "inet6"
    return f"create {ipset.name} {ipset.type} family {family} maxelem {MAXELEM} -exist"


def add_members(name: str, members: Iterable[str]) -> list[str]:
    """`add` lines, sorted. Exceptions (`nomatch`) first: a block must never be there without them, not even for a moment."""
    return [f"add {name} {m} -exist" for m in sorted(members, key=lambda m: (not m.endswith(" nomatch"), m))]


def delete_members(name: str, members: Iterable[str]) -> list[str]:
    """`del` lines, sorted. A nomatch member goes last: until then the block it is cut from is closed there."""
    return [f"del {name} {m.removesuffix(' nomatch')} -exist" for m in sorted(members, key=lambda m: (m.endswith(" nomatch"), m))]


def destroy_set(name: str) -> str:
    return f"destroy {name}"


def chains_transaction(up: Mapping[str, Rules], down: Iterable[str] = (), extra: Iterable[str] = ()) -> str:
    """One `*filter` transaction: `up` chains declared (which empties them) and filled, `extra` lines
    (hooks) after them, `down` chains emptied and deleted last. Empty text when there is nothing to do."""
    down, extra = sorted(down), list(extra)
    if not up and not down and not extra:
        return ""
    lines = ["*filter"]
    lines += [f":{name} - [0:0]" for name in (*sorted(up), *down)]
    lines += [f"-A {name} {rule}" for name in sorted(up) for rule in up[name]]
    lines += extra
    lines += [f"-X {name}" for name in down]
    return "\n".join([*lines, "COMMIT", ""])


def full_ipset_text(ruleset: Ruleset) -> str:
    """The whole `ipset restore` text of a ruleset, both families."""
    lines: list[str] = []
    for name in sorted(ruleset.sets):
        lines += [create_set(ruleset.sets[name]), *add_members(name, ruleset.sets[name].members)]
    return "\n".join([*lines, ""]) if lines else ""


def full_iptables_text(ruleset: Ruleset, family: Family, hook: Iterable[str] = ()) -> str:
    """The whole `iptables-restore --noflush` text of one family; `hook` lines come last."""
    return chains_transaction(ruleset.chains.get(family, {}), extra=hook)
