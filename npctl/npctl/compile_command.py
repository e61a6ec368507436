"""`npctl compile`: a node's whole restore text."""

from __future__ import annotations

from netpol_compiler.kinds import Family
from netpol_compiler.render import full_ipset_text, full_iptables_text
from netpol_compiler.ruleset import HOOK_PARENT, HOOK_RULE, Ruleset
from npctl.errors import usage
from npctl.kernelview import node_ruleset
from npctl.origin import Origin, open_origin
from npctl.output import Format, emit, say


def run(node: str, origin: Origin, output: Format) -> None:
    """Print the ruleset of `node`."""
    state = open_origin(origin).state
    if node not in state.nodes:
        raise usage(f"no node {node}, and no pod runs there", f"the nodes are {', '.join(sorted(state.nodes)) or 'none'}")
    ruleset = node_ruleset(state, node)
    texts = {family: _iptables(ruleset, family) for family in sorted(ruleset.chains)}
    ipset = full_ipset_text(ruleset)
    if output.is_data:
        sizes = {
            "chains": {str(int(f)): len(c) for f, c in ruleset.chains.items()},
            "rules": {str(int(f)): sum(map(len, c.values())) for f, c in ruleset.chains.items()},
            "sets": len(ruleset.sets),
            "members": sum(len(s.members) for s in ruleset.sets.values()),
        }
        emit({"node": node, "ipset": ipset, "iptables": {str(int(f)): t for f, t in texts.items()}, "sizes": sizes}, output)
        return
    say(f"# node {node}: ipset restore -exist\n{ipset.rstrip()}")
    for family, text in texts.items():
        say(f"\n# node {node}: {'ip6tables' if family is Family.V6 else 'iptables'}-restore --noflush\n{text.rstrip()}")


def _iptables(ruleset: Ruleset, family: Family) -> str:
    return full_iptables_text(ruleset, family, hook=[f"-I {HOOK_PARENT} 1 {HOOK_RULE}"])
