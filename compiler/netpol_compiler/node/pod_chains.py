"""The chains that every packet of an isolated pod meets: the fixed ones, and one per pod and direction."""

from __future__ import annotations

from functools import lru_cache

from netpol_compiler.model.addresses import Address, host_network
from netpol_compiler.model.kinds import DIRECTIONS, Direction, Family
from netpol_compiler.model.objects import Key
from netpol_compiler.node.options import AcceptAction, LowerOptions
from netpol_compiler.policy.names import SCHEMA, chain_name
from netpol_compiler.ruleset import rule_text as text
from netpol_compiler.ruleset.values import FORWARD_CHAIN, Rules, set_prefix

_LOG_PREFIX = 63
"""Bytes of an NFLOG prefix at most."""


def isolated_set_name(direction: Direction, family: Family) -> str:
    """The set of local addresses that are isolated in `direction`; only the guard against remainders reads it."""
    return f"{set_prefix(family)}n{SCHEMA}-isolated-{direction.value}"


def fixed_chains(family: Family, options: LowerOptions) -> dict[str, Rules]:
    """npc-forward and npc-allow of one family."""
    passed = "ACCEPT" if options.accept is AcceptAction.ACCEPT else "RETURN"
    lines = [
        text.rule("-m conntrack --ctstate RELATED,ESTABLISHED", jump=passed),
        *text.family_rules(family),
        *(_guard(direction, family) for direction in DIRECTIONS),
        text.rule(jump=f"MARK --set-xmark 0x0/{options.mark:#x}"),
        *(text.rule(jump=text.chain_of(direction)) for direction in reversed(DIRECTIONS)),
    ]
    if options.accept is AcceptAction.ACCEPT:
        lines.append(text.rule(f"-m mark --mark {options.mark_text}", jump="ACCEPT"))
    return {FORWARD_CHAIN: tuple(lines), text.ALLOW_CHAIN: (text.rule(jump=f"MARK --set-xmark {options.mark_text}"),)}


def _guard(direction: Direction, family: Family) -> str:
    """Drop what can only be the remainder of a connection that was cut.

    Without it, a server that speaks first would open its cut connection again from the other side: conntrack
    takes up a TCP stream in the middle, with the server as the one who began (SEMANTICS 12).
    """
    reply = Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS
    ours = text.local_set(reply, isolated_set_name(direction, family))
    return text.rule("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", ours, jump="DROP")


@lru_cache(maxsize=8192)
def pod_chain_name(pod: Key, direction: Direction) -> str:
    """The chain of one pod and direction: `npc-pi-...` or `npc-pe-...`, the same in both families."""
    return chain_name(f"p{direction.value[0]}", pod.name, [pod.namespace, pod.name])


@lru_cache(maxsize=8192)
def pod_chain(pod: Key, direction: Direction, own: tuple[Address, ...], body: str, options: LowerOptions) -> Rules:
    """What decides for one isolated pod; `own` are its addresses of this family, `body` its bundle's chain."""
    prefix = f"npc {direction.value} {pod}"[:_LOG_PREFIX]
    # In iptables' own words and order, so that what is read back equals what was written.
    log = f'NFLOG --nflog-prefix "{prefix}" --nflog-group {options.log_group}'
    return (
        # SEMANTICS 10: through its own Service a pod meets itself here, before its address is masqueraded.
        *(_itself(direction, a) for a in own),
        # The other side's policies may have marked this packet already; here only our own answer counts.
        text.rule(jump=f"MARK --set-xmark 0x0/{options.mark:#x}"),
        text.rule(jump=body),
        text.rule(f"-m mark --mark {options.mark_text}", jump="RETURN"),
        text.rule(f"-m limit --limit {options.log_rate} --limit-burst {options.log_burst}", jump=log),
        text.rule(text.comment(f"{pod} is isolated for {direction.value} and nothing allows this"), jump="DROP"),
    )


def _itself(direction: Direction, address: Address) -> str:
    return text.rule(
        text.peer_address(direction, host_network(address).text), text.comment("the pod itself"), goto=text.ALLOW_CHAIN
    )
