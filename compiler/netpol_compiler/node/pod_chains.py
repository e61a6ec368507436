"""The chains that every packet of an isolated pod meets: the fixed ones, and one per pod and direction."""

from __future__ import annotations

from functools import lru_cache

from netpol_compiler.model.addresses import Address, host_network
from netpol_compiler.model.kinds import DIRECTIONS, Direction, Family
from netpol_compiler.model.objects import Key
from netpol_compiler.node.options import AcceptAction, LowerOptions
from netpol_compiler.policy.names import SCHEMA, chain_name
from netpol_compiler.ruleset.rules import (
    ChainRule,
    ConntrackMatch,
    Goto,
    Jump,
    LimitMatch,
    Log,
    Rules,
    TcpFlagsMatch,
    Verdict,
    clean_comment,
    family_rules,
    local_set,
    peer_address,
    rule,
)
from netpol_compiler.ruleset.values import ALLOW_CHAIN, FORWARD_CHAIN, direction_chain, set_prefix

_LOG_PREFIX = 63
"""Bytes of an NFLOG prefix at most."""


def isolated_set_name(direction: Direction, family: Family) -> str:
    """The set of local addresses that are isolated in `direction`; only the guard against remainders reads it."""
    return f"{set_prefix(family)}n{SCHEMA}-isolated-{direction.value}"


def fixed_chains(family: Family, options: LowerOptions) -> dict[str, Rules]:
    """npc-forward and npc-allow of one family."""
    accepts = options.accept is AcceptAction.ACCEPT
    rules = (
        rule(ConntrackMatch(("RELATED", "ESTABLISHED")), action=Verdict.ACCEPT if accepts else Verdict.RETURN),
        *family_rules(family),
        *(_guard(direction, family) for direction in DIRECTIONS),
        rule(action=options.clear_mark),
        *(rule(action=Jump(direction_chain(direction))) for direction in reversed(DIRECTIONS)),
        *((rule(options.marked, action=Verdict.ACCEPT),) if accepts else ()),
    )
    return {FORWARD_CHAIN: rules, ALLOW_CHAIN: (rule(action=options.set_mark),)}


def _guard(direction: Direction, family: Family) -> ChainRule:
    """Drop what can only be the remainder of a connection that was cut.

    Without it, a server that speaks first would open its cut connection again from the other side: conntrack
    takes up a TCP stream in the middle, with the server as the one who began (SEMANTICS 12).
    """
    reply = Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS
    ours = local_set(reply, isolated_set_name(direction, family))
    return rule(TcpFlagsMatch(("FIN", "SYN", "RST", "ACK"), ("SYN",), negated=True), ours, action=Verdict.DROP)


@lru_cache(maxsize=8192)
def pod_chain_name(pod: Key, direction: Direction) -> str:
    """The chain of one pod and direction: `npc-pi-...` or `npc-pe-...`, the same in both families."""
    return chain_name(f"p{direction.value[0]}", pod.name, [pod.namespace, pod.name])


@lru_cache(maxsize=8192)
def pod_chain(pod: Key, direction: Direction, own: tuple[Address, ...], body: str, options: LowerOptions) -> Rules:
    """What decides for one isolated pod; `own` are its addresses of this family, `body` its bundle's chain."""
    prefix = f"npc {direction.value} {pod}"[:_LOG_PREFIX]
    refused = f"{pod} is isolated for {direction.value} and nothing allows this"
    clear, allowed, limit = _in_every_pod_chain(options)
    return (
        # SEMANTICS 10: through its own Service a pod meets itself here, before its address is masqueraded.
        *(_itself(direction, a) for a in own),
        # The other side's policies may have marked this packet already; here only our own answer counts.
        clear,
        rule(action=Jump(body)),
        allowed,
        rule(limit, action=Log(prefix, options.log_group)),
        rule(action=Verdict.DROP, comment=clean_comment(refused)),
    )


@lru_cache(maxsize=8)
def _in_every_pod_chain(options: LowerOptions) -> tuple[ChainRule, ChainRule, LimitMatch]:
    """Hundreds of chains share these."""
    clear, allowed = rule(action=options.clear_mark), rule(options.marked, action=Verdict.RETURN)
    return clear, allowed, LimitMatch(options.log_rate, options.log_burst)


def _itself(direction: Direction, address: Address) -> ChainRule:
    return rule(peer_address(direction, host_network(address)), action=Goto(ALLOW_CHAIN), comment="the pod itself")
