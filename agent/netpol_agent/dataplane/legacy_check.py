"""A second reader of legacy tables: python-iptables, which asks the kernel through libiptc and not through text.

`python -m netpol_agent.dataplane.legacy_check` prints {"4": {chain: rules}, "6": ...} of our chains. It is a process of its own
because libxtables ends the process that meets something it does not know. Only legacy: nft tables are invisible here.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Mapping

from netpol_agent.dataplane.runner import Runner
from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.rules import Rules
from netpol_compiler.ruleset.values import CHAIN_PREFIX

_LIBRARIES = ("/usr/lib/*/xtables", "/usr/lib64/xtables", "/usr/lib/xtables", "/lib/xtables")


def cross_check(programmed: Mapping[Family, Mapping[str, Rules]], run: Runner) -> tuple[str, ...]:
    """Where the second reader sees something else than we wrote, in words; one line when it cannot be used."""
    done = run([sys.executable, "-m", "netpol_agent.dataplane.legacy_check"])
    try:
        seen = json.loads(done.out) if done.ok else None
    except ValueError:
        seen = None
    if not isinstance(seen, dict):
        reason = done.err.strip().splitlines()[-1:] or [f"exit code {done.code}"]
        return (f"python-iptables cannot read the legacy tables, so nothing cross-checks them: {reason[0]}",)
    differences = []
    for family, chains in programmed.items():
        theirs = seen.get(str(int(family)), {})
        ours = {name: len(rules) for name, rules in chains.items()}
        names = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
        if names:
            first = f"{names[0]}: {theirs.get(names[0])} rules where we wrote {ours.get(names[0])}"
            differences.append(f"python-iptables sees {len(names)} chains differently (IPv{int(family)}), such as {first}")
    return tuple(differences)


def read_tables() -> dict[str, dict[str, int]]:
    """Rules in each of our chains, by family. Raises whatever python-iptables raises."""
    found = [path for pattern in _LIBRARIES for path in glob.glob(pattern)]
    if found:
        os.environ.setdefault("XTABLES_LIBDIR", found[0])
    import iptc  # only here: it needs XTABLES_LIBDIR first, and only legacy nodes need it at all

    out = {}
    for family, table in ((Family.V4, iptc.Table), (Family.V6, iptc.Table6)):
        chains = table(table.FILTER).chains
        out[str(int(family))] = {chain.name: len(chain.rules) for chain in chains if chain.name.startswith(CHAIN_PREFIX)}
    return out


if __name__ == "__main__":
    json.dump(read_tables(), sys.stdout)
