"""The simulator: a packet walked through rendered rules and sets, with the kernel's rules and nothing of ours.

In: the text that would be given to iptables-restore and ipset restore (or what their save programs print) and a
packet. Out: the verdict and every rule that matched on the way. It shares nothing with lowering and rendering, and
whatever it does not know is an error that names the line: a match passed over in silence would make it worthless.

    text -> tokens -> rules (matches, targets) -> tables --+
    text -> tokens -> sets --------------------------------+--> walk(packet) -> Walk

Excluded: tables other than filter, NAT, rate limits (`-m limit` always matches), time, sequence numbers, fragments.
"""

from netpol_compiler.simulate.errors import SimulateError
from netpol_compiler.simulate.packets import Conntrack, Packet, first_packet
from netpol_compiler.simulate.rules import comment_of
from netpol_compiler.simulate.sets import SetData, Sets, parse_ipset_restore
from netpol_compiler.simulate.tables import MAX_DEPTH, Rule, Tables, parse_iptables_restore
from netpol_compiler.simulate.walk import Step, Walk, check_sets, send, walk

__all__ = [
    "MAX_DEPTH",
    "Conntrack",
    "Packet",
    "Rule",
    "SetData",
    "Sets",
    "SimulateError",
    "Step",
    "Tables",
    "Walk",
    "check_sets",
    "comment_of",
    "first_packet",
    "parse_ipset_restore",
    "parse_iptables_restore",
    "send",
    "walk",
]
