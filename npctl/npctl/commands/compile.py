"""`npctl compile`: a node's whole restore text."""

from __future__ import annotations

from netpol_compiler.model.kinds import Family
from netpol_compiler.witnesses.restored import node_text
from npctl.answers.kernel_view import node_ruleset
from npctl.errors import usage
from npctl.inputs.origin import Origin, open_origin
from npctl.output import Format, emit, say


def run(node: str, origin: Origin, output: Format) -> None:
    """Print the ruleset of `node`."""
    state = open_origin(origin).state
    if node not in state.nodes:
        raise usage(f"no node {node}, and no pod runs there", f"the nodes are {', '.join(sorted(state.nodes)) or 'none'}")
    ruleset = node_ruleset(state, node)
    text = node_text(ruleset)
    if output.is_data:
        sizes = {
            "chains": {str(int(f)): len(c) for f, c in ruleset.chains.items()},
            "rules": {str(int(f)): sum(map(len, c.values())) for f, c in ruleset.chains.items()},
            "sets": len(ruleset.sets),
            "members": sum(len(s.members) for s in ruleset.sets.values()),
        }
        rules = {str(int(family)): each for family, each in text.iptables.items()}
        emit({"node": node, "ipset": text.ipset, "iptables": rules, "sizes": sizes}, output)
        return
    say(f"# node {node}: ipset restore -exist\n{text.ipset.rstrip()}")
    for family, each in text.iptables.items():
        say(f"\n# node {node}: {'ip6tables' if family is Family.V6 else 'iptables'}-restore --noflush\n{each.rstrip()}")
