"""Values to restore text: the exact lines, and the order in which no line of them opens what must stay shut."""

from __future__ import annotations

from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset import render
from netpol_compiler.ruleset.changes import InsertRule, add_members, chain_changes, create_set, delete_members
from netpol_compiler.ruleset.rules import MAX_COMMENT, Jump, Verdict, clean_comment, rule
from netpol_compiler.ruleset.values import IPSet, Ruleset
from netpol_compiler.witnesses.restored import node_text

MEMBERS = ("10.0.0.0/8", "10.1.0.0/16 nomatch", "10.1.2.3", "9.0.0.0/8 nomatch")


def test_a_set_is_made_for_its_family_and_for_a_million_members() -> None:
    line = render.set_change_text(create_set(IPSet("npc4-x", "hash:net", Family.V4)))
    assert line == "create npc4-x hash:net family inet maxelem 1048576 -exist"
    line = render.set_change_text(create_set(IPSet("npc6-x", "hash:ip,port", Family.V6)))
    assert line.split()[2:5] == ["hash:ip,port", "family", "inet6"]


def test_exceptions_come_before_their_block_and_go_after_it() -> None:
    assert render.sets_text(add_members("s", MEMBERS)).splitlines() == [
        "add s 10.1.0.0/16 nomatch -exist",
        "add s 9.0.0.0/8 nomatch -exist",
        "add s 10.0.0.0/8 -exist",
        "add s 10.1.2.3 -exist",
    ]
    assert render.sets_text(delete_members("s", MEMBERS)).splitlines() == [
        "del s 10.0.0.0/8 -exist",
        "del s 10.1.2.3 -exist",
        "del s 10.1.0.0/16 -exist",
        "del s 9.0.0.0/8 -exist",
    ]


def test_a_transaction_declares_fills_hooks_and_then_deletes() -> None:
    up = {"b": (rule(action=Jump("a")),), "a": (rule(action=Verdict.DROP), rule(action=Verdict.RETURN))}
    changes = chain_changes(up, ["old", "c"], [InsertRule("FORWARD", rule(action=Jump("b")))])
    assert render.table_text(changes).splitlines() == [
        "*filter",
        ":a - [0:0]",
        ":b - [0:0]",
        ":c - [0:0]",
        ":old - [0:0]",
        "-A a -j DROP",
        "-A a -j RETURN",
        "-A b -j a",
        "-I FORWARD 1 -j b",
        "-X c",
        "-X old",
        "COMMIT",
    ]
    assert render.table_text(chain_changes({})) == ""


def test_a_node_from_nothing_has_the_hook_first_of_forward() -> None:
    texts = node_text(Ruleset({family: {"npc-forward": ()} for family in Family})).iptables
    assert [text.splitlines()[-2] for text in texts.values()] == ["-I FORWARD 1 -j npc-forward"] * 2


def test_nothing_in_a_comment_ends_its_quotes() -> None:
    for odd in "\"'\\`$\n\tä":
        commented = rule(action=Verdict.DROP, comment=clean_comment(f"a{odd}b"))
        assert render.rule_text(commented) == '-m comment --comment "a?b" -j DROP'
    assert len(clean_comment("x" * 1000)) == MAX_COMMENT
