"""Rules read back: of every rule that is written its value, and of every other its text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given

from generators import clusters
from netpol_compiler.model.objects import Cluster
from netpol_compiler.node import AcceptAction, LowerOptions, compile_node
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.ruleset.reader import read_rule
from netpol_compiler.ruleset.render import rule_text
from netpol_compiler.ruleset.rules import ChainRule, Goto, LimitMatch, Log, SetMatch, UnknownRule
from search import searched


@searched(200)
@given(clusters())
def test_every_rule_that_is_written_is_read_as_the_same_value(cluster: Cluster) -> None:
    for options in (LowerOptions(), LowerOptions(accept=AcceptAction.ACCEPT, mark=0x2)):
        node = compile_node("n1", compile_cluster(cluster), cluster.pods.values(), options)
        for chains in node.ruleset.chains.values():
            for rules in chains.values():
                assert tuple(read_rule(rule_text(rule)) for rule in rules) == rules


PARTS = ("-p tcp -m tcp --dport 80", "-m set --match-set npc4-x src", '-m comment --comment "a  b"')
PRINTED = f"-s 10.0.0.0/8 {' '.join(PARTS)} -g npc-allow"


@pytest.mark.parametrize("parts", list(itertools.permutations(PARTS)))
def test_the_order_in_which_an_iptables_prints_a_rule_does_not_matter(parts: tuple[str, ...]) -> None:
    found = read_rule(f"{' '.join(parts)} -s 10.0.0.0/8 -g npc-allow")
    assert rule_text(found) == PRINTED and found == read_rule(PRINTED)
    assert (found.target, found.sets) == ("npc-allow", {"npc4-x"})


def test_a_limit_is_the_same_in_both_spellings() -> None:
    words = '-m limit --limit 10/{} --limit-burst 20 -j NFLOG --nflog-group 100 --nflog-prefix "npc a b"'
    wanted = ChainRule((LimitMatch(10, 20),), Log("npc a b", 100))
    assert read_rule(words.format("sec")) == read_rule(words.format("second")) == wanted
    assert isinstance(read_rule(words.format("minute")), UnknownRule)


ODD = [
    "",
    "-j",
    "-s 10.0.0.1 -g npc-allow",
    "-s 10.0.0.1/8 -g npc-allow",
    "! -s 10.0.0.0/8 -g npc-allow",
    "-s 10.0.0.0/8 -s 11.0.0.0/8 -g npc-allow",
    "-i eth0 -g npc-allow",
    "-p tcp -m tcp --sport 80 -g npc-allow",
    "-p tcp -m udp --dport 80 -g npc-allow",
    "-p tcp -m tcp ! --dport 80 -g npc-allow",
    "-p tcp -m multiport --dports 80 -g npc-allow",
    "-p 6 -m tcp --dport 80 -g npc-allow",
    "-m set ! --match-set npc4-x src -g npc-allow",
    "-m set --match-set npc4-x src -m set --match-set npc4-y dst -g npc-allow",
    "-m set --match-set npc4-x src --return-nomatch -g npc-allow",
    "-m mark --mark 0x1 -g npc-allow",
    "-m mark --mark 0x01/0x1 -g npc-allow",
    "-m conntrack --ctstate RELATED --ctdir REPLY -g npc-allow",
    "-m comment --comment x -m comment --comment y -g npc-allow",
    '-m comment --comment "x \\" y" -g npc-allow',
    '-m comment --comment "x -g npc-allow',
    "-j npc-x -g npc-allow",
    "-j MARK --set-xmark 0x1/0x1 -g npc-allow",
    "-j REJECT --reject-with icmp-port-unreachable",
    "-j ACCEPT -m comment",
]


@pytest.mark.parametrize("text", ODD)
def test_a_rule_that_we_would_not_write_keeps_its_text(text: str) -> None:
    found = read_rule(text)
    assert isinstance(found, UnknownRule) and rule_text(found) == text
    assert found.target == ("npc-allow" if text.endswith("-g npc-allow") else found.target)
    assert found.sets == {name for name in ("npc4-x", "npc4-y") if name in text}


def test_going_to_a_chain_is_not_jumping_to_it() -> None:
    assert read_rule("-g npc-x") == ChainRule((), Goto("npc-x")) != read_rule("-j npc-x")


def test_the_ends_of_a_set_match_count() -> None:
    texts = [f"-m set --match-set npc4-x {ends} -g npc-allow" for ends in ("src", "dst", "dst,dst", "dst,src")]
    assert len(set(map(read_rule, texts))) == len(texts)
    assert all(isinstance(m, SetMatch) for text in texts for m in read_rule(text).matches)  # type: ignore[union-attr]
