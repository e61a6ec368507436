"""YAML, the IR's wire form and restore text from anybody: read or refused with a word, at a cost that grows with them."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builders import address, conn
from draws import pick
from generators import clusters
from hostile import assert_linear, peak, spoiled, spoiled_json
from netpol_compiler.model.kinds import FAMILIES, Family
from netpol_compiler.model.objects import Cluster, PortRange, Rejected
from netpol_compiler.node import compile_node
from netpol_compiler.policy import wire
from netpol_compiler.policy.ir import CompiledPolicy
from netpol_compiler.policy.pipeline import compile_cluster
from netpol_compiler.policy.verdict import Judge
from netpol_compiler.reading.objects import host_bits, parse_namespace, parse_node, parse_pod, parse_policy
from netpol_compiler.ruleset import render
from netpol_compiler.ruleset.changes import AppendRule
from netpol_compiler.ruleset.values import HOOK_PARENT, HOOK_RULE
from netpol_compiler.simulate import Packet, SimulateError, check_sets, parse_ipset_restore, parse_iptables_restore, walk
from netpol_manifests.documents import Document, classify, decode, parse_yaml
from search import searched

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
YAML_WORDS = (
    b"---\n", b"&a ", b"*a", b"<<: ", b"{", b"}", b"[", b"]", b": ", b"- ", b"\n", b"  ", b"\t", b"'", b'"', b"|\n", b">\n",
    b"!!int ", b"!x ", b"? ", b"%YAML 9\n", b"\0", b"\xff\xfe", b"\xc2\x85", b"\xe2\x80\xa8", b"0x", b".inf", b"1e999",
    b"null", b"~", b"kind: List\n", b"items:\n",
)  # fmt: skip


def read_manifests(content: bytes) -> None:
    """The whole way of a file, to frozen values and words for people."""
    text = decode(content, "x.yaml")
    documents: list[Document] = []
    rejected: list[Rejected] = []
    if isinstance(text, Rejected):
        rejected.append(text)
    else:
        documents, rejected = parse_yaml(text, "x.yaml")
    for document in documents:
        used = classify(document)
        rejected += [used] if isinstance(used, Rejected) else []
        host_bits(document.data)
        for parse in (parse_policy, parse_pod, parse_namespace, parse_node):
            rejected += parse(document.data)[1]
    assert all(r.words and r.line >= 0 for r in rejected)


files = st.sampled_from([path.read_bytes() for path in EXAMPLES])


@searched(200)
@given(files.flatmap(lambda content: spoiled(content, YAML_WORDS)))
def test_whatever_is_in_a_spoiled_file_is_read_or_refused(content: bytes) -> None:
    read_manifests(content)


yaml_pieces = st.lists(st.sampled_from([*YAML_WORDS, b"a", b"x: ", b"&b ", b"*b", b"spec: ", b"ipBlock: "]), max_size=40).map(
    b"".join
)


@searched(400)
@given(st.binary(max_size=60) | yaml_pieces)
def test_whatever_bytes_are_a_file_they_are_read_or_refused(content: bytes) -> None:
    read_manifests(content)


def nested_by_aliases(count: int) -> bytes:
    """Each anchor ninety levels deep, and in it the one before: no text is deep, the value is."""
    lines = [b"- &a0 x"]
    lines += [b"- &a%d " % i + b"[" * 90 + b"*a%d" % (i - 1) + b"]" * 90 for i in range(1, count)]
    return b"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n" + b"\n".join(lines) + b"\n"


def test_a_value_made_deep_by_aliases_is_refused_as_a_deep_one() -> None:
    text = decode(nested_by_aliases(30), "x.yaml")
    assert isinstance(text, str)
    documents, rejected = parse_yaml(text, "x.yaml")
    assert not documents
    assert "nested deeper" in rejected[0].words
    read_manifests(nested_by_aliases(30))


BOMBS = {
    "open brackets": lambda n: b"[" * n,
    "open braces": lambda n: b"{" * n,
    "dashes": lambda n: b"- " * n,
    "colons": lambda n: b"a: " * n,
    "one list": lambda n: b"[" + b"1," * n + b"]",
    "one mapping": lambda n: b"".join(b"k%d: 1\n" % i for i in range(n)),
    "the same key": lambda n: b"k: 1\n" * n,
    "documents": lambda n: b"---\na: 1\n" * n,
    "faulty documents": lambda n: b"---\n{a: 1, a: 2}\n" * n,
    "one long word": lambda n: b"a" * n,
    "one long number": lambda n: b"1" * n,
    "one long fraction": lambda n: b"1." + b"0_" * n,
    "one long key": lambda n: b"a" * n + b": 1",
    "anchors": lambda n: b"".join(b"- &a%d x\n" % i for i in range(n)),
    "aliases of one word": lambda n: b"- &a x\n" + b"- *a\n" * n,
    "laughter": lambda n: b"- &a0 [x,x]\n" + b"".join(b"- &a%d [*a%d,*a%d]\n" % (i, i - 1, i - 1) for i in range(1, n)),
    "merges": lambda n: b"a: &a {k: 1}\n" + b"".join(b"m%d:\n  <<: *a\n" % i for i in range(n)),
    "lists of lists": lambda n: b"apiVersion: v1\nkind: List\nitems:\n" + b"- {apiVersion: v1, kind: List, items: [{}]}\n" * n,
    "depth by aliases": lambda n: nested_by_aliases(n // 50),
    "tabs": lambda n: b"\t" * n,
    "quotes": lambda n: b'"' + b"\\n" * n,
    "blank lines": lambda n: b"\n" * n,
    "comments": lambda n: b"#" * n,
    "control characters": lambda n: b"\x01" * n,
    "peers": lambda n: (
        b"kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: a}\nspec:\n  ingress:\n  - from:\n"
        + b"    - {ipBlock: {cidr: 10.0.0.0/8, except: [x]}}\n" * n
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_reading_yaml_costs_what_it_is_long(bomb: str) -> None:
    assert_linear(BOMBS[bomb], read_manifests, 800)


NESTS = {
    "flow sequences": lambda n: "[" * n,
    "flow sequences, closed": lambda n: "[" * n + "]" * n,
    "flow sequences, a line each": lambda n: "[\n" * n,
    "flow sequences with entries": lambda n: "[a," * n,
    "flow mappings": lambda n: "{a: " * n,
    "flow mappings as keys": lambda n: "{" * n,
    "both": lambda n: "[{a: " * n,
    "anchors": lambda n: "[&a " * n,
    "after another fault": lambda n: "{{a: 1}: " + "[" * n,
    "behind an alias to nothing": lambda n: "[*a," + "[" * n,
    "block sequences": lambda n: "- " * n,
    "block mappings": lambda n: "".join(" " * i + "a:\n" for i in range(n // 10)),
    "explicit keys": lambda n: "? " * n,
    "deep, then wide": lambda n: "[" * 90 + "a," * n,
    "too deep, then wide": lambda n: "[" * 190 + "a," * n,
    "a quote, not closed": lambda n: "['" + "a " * n,
    "one long key": lambda n: "a" * n + ": 1",
}
"""Texts whose nesting, quoting or keys make a scanner look back; none of them is a document."""


class Scanner(yaml.SafeLoader):
    """PyYAML's own scanner, which works as libyaml's and reads where that is missing. Counts characters and open brackets."""

    steps = 0

    def forward(self, length: int = 1) -> None:
        Scanner.steps += length
        super().forward(length)

    def prefix(self, length: int = 1) -> str:
        Scanner.steps += length
        return super().prefix(length)

    def stale_possible_simple_keys(self) -> None:
        Scanner.steps += 1 + len(self.possible_simple_keys)
        super().stale_possible_simple_keys()


class Libyaml(yaml.CSafeLoader):
    """libyaml's scanner, of which only the events are seen. Counts for each the brackets that are open."""

    steps = brackets = 0

    def get_event(self) -> Any:
        event = super().get_event()
        self.brackets += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        Libyaml.steps += 1 + self.brackets
        return event


@pytest.mark.slow
@pytest.mark.parametrize("loader", [Scanner, Libyaml])
@pytest.mark.parametrize("kind", NESTS)
def test_twice_the_nesting_is_at_most_twice_the_work(
    kind: str, loader: type[Scanner | Libyaml], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml, "CSafeLoader", loader)
    steps = []
    for levels in (2000, 4000):
        loader.steps = 0
        parse_yaml(NESTS[kind](levels), "x.yaml")
        steps.append(loader.steps)
    assert 0 < steps[1] <= 2.2 * steps[0], steps


@pytest.mark.parametrize("kind", NESTS)
def test_what_is_nested_without_end_is_refused_with_file_line_and_remedy(kind: str) -> None:
    documents, rejected = parse_yaml(NESTS[kind](4000), "dir/x.yaml")
    assert documents == []
    assert [(r.file, r.line > 0) for r in rejected] == [("dir/x.yaml", True)]
    assert re.search("check|write|quote|not closed|left over", rejected[0].reason), rejected[0].reason


def test_aliases_cannot_make_much_of_little() -> None:
    assert peak(lambda: read_manifests(BOMBS["laughter"](1000))) < 30_000_000


# -- the wire form -------------------------------------------------------------------------------------


@st.composite
def wire_documents(draw: st.DrawFn) -> dict[str, Any]:
    ir = compile_cluster(draw(clusters().filter(lambda c: c.policies)))
    documents = [wire.policy_to_wire(p) for p in ir.policies.values()]
    documents += [wire.slice_to_wire(s, 0, 1, s.members) for s in ir.sets.values()]
    return pick(draw, documents)


def read_wire(content: bytes) -> list[Any]:
    """What the agent may take of it."""
    found: list[Any] = []
    with contextlib.suppress(wire.WireError):
        document = wire.from_bytes(content)
        for read in (wire.policy_from_wire, lambda d: wire.slices_from_wire([d]), wire.members_from_wire):
            with contextlib.suppress(wire.WireError):
                found.append(read(document))
    return found


@searched(300)
@given(wire_documents().flatmap(spoiled_json))
def test_whatever_a_document_of_the_ir_holds_is_read_or_refused(document: Any) -> None:
    for value in read_wire(json.dumps(document).encode()):
        if isinstance(value, CompiledPolicy):
            again = wire.policy_from_wire(wire.from_bytes(wire.to_bytes(wire.policy_to_wire(value))))
            assert again == value
            assert all(isinstance(p, PortRange) and 0 <= p.first <= p.last <= 65535 for r in value.rules for p in r.ports or ())


@searched(300)
@given(
    wire_documents()
    .map(wire.to_bytes)
    .flatmap(lambda c: spoiled(c, (b"{", b"]", b'"', b"1e999", b"-1", b"null", b"\xff", b"\\ud800")))
)
def test_whatever_bytes_are_a_document_of_the_ir_they_are_read_or_refused(content: bytes) -> None:
    read_wire(content)


SET = {"schema": 1, "name": "s", "words": "", "slice": 0, "slices": 1, "size": 0, "members": []}
SET |= {"selects": {"namespace": "a", "namespaceSelector": None, "podSelector": [], "namedPort": None}}
RULE = {"direction": "ingress", "index": 0, "sets": None, "blocks": None, "ports": None, "namedPorts": [], "endpoints": []}


def with_rule(**fields: Any) -> dict[str, Any]:
    body = {"schema": 1, "digest": "", "namespace": "a", "name": "p", "uid": "", "podSelector": [], "directions": ["ingress"]}
    return {**body, "rules": [{**RULE, **fields}], "rejected": []}


@pytest.mark.parametrize(
    "fields",
    [
        {"index": float("inf")},
        {"index": 1.5},
        {"index": "1"},
        {"index": True},
        {"ports": [{"protocol": "TCP", "first": 80, "last": 1e999}]},
        {"ports": [{"protocol": "TCP", "first": 90, "last": 80}]},
        {"ports": [{"protocol": "TCP", "first": -1, "last": 65536}]},
        {"sets": "abc", "blocks": []},
        {"sets": [], "blocks": {}},
        {"endpoints": "abc"},
    ],
    ids=str,
)
def test_a_rule_of_the_ir_with_what_does_not_belong_there_is_refused(fields: dict[str, Any]) -> None:
    """Found by spoiled documents: numbers without an end were a crash, and the rest was taken for something else."""
    wire.policy_from_wire(with_rule())
    with pytest.raises(wire.WireError):
        wire.policy_from_wire(wire.from_bytes(json.dumps(with_rule(**fields)).encode()))


@pytest.mark.parametrize("depth", [400, 900, 100_000])
@pytest.mark.parametrize("field", ["namespace", "directions", "rules", "podSelector"])
def test_a_document_of_the_ir_that_is_deep_is_refused(field: str, depth: int) -> None:
    document = json.dumps({**with_rule(), field: "deep"}).replace('"deep"', "[" * depth + "]" * depth)
    assert read_wire(document.encode()) == []


@pytest.mark.parametrize("members", [[5], ["10.0.0.1", 5], "10.0.0.1", {"10.0.0.1": 1}, [None], ["10.0.0.1,TCP,80"]], ids=str)
def test_a_set_of_the_ir_with_members_that_are_none_is_refused(members: Any) -> None:
    """Found by spoiled documents: the number 5 was read as the address 0.0.0.5."""
    with pytest.raises(wire.WireError):
        wire.slices_from_wire([{**SET, "members": members}])
    with pytest.raises(wire.WireError):
        wire.members_from_wire({**SET, "members": members})


def test_a_set_that_says_it_has_very_many_slices_costs_nothing() -> None:
    def read() -> None:
        with pytest.raises(wire.WireError):
            wire.slices_from_wire([{**SET, "slices": 3_000_000}])

    assert peak(read) < 1_000_000


# -- restore text --------------------------------------------------------------------------------------

RESTORE_WORDS = (
    " ", "\n", "-A FORWARD ", "-j ", "-g npc-forward", "! ", '"', "\\", ":x - [0:0]", "COMMIT", "*filter", "add ", "create ",
    "-exist", "/0", "/129", "0-65535", "\0", "\x85", "9" * 5000, "-m set --match-set", "-p tcp", "--dport", "²",
)  # fmt: skip


@st.composite
def rendered(draw: st.DrawFn) -> tuple[str, str]:
    cluster: Cluster = draw(clusters())
    ruleset = compile_node("n1", compile_cluster(cluster), cluster.pods.values()).ruleset
    family = pick(draw, FAMILIES)
    return render.full_ipset_text(ruleset), render.full_iptables_text(ruleset, family, [AppendRule(HOOK_PARENT, HOOK_RULE)])


@searched(300)
@given(st.data())
def test_whatever_restore_text_says_it_is_carried_out_or_refused(data: st.DataObject) -> None:
    sets_text, rules_text = (data.draw(spoiled(text, RESTORE_WORDS)) for text in data.draw(rendered()))
    packets = [
        Packet(address("10.0.0.1"), address("10.0.0.2"), dport=80),
        Packet(address("fd00::1"), address("fd00::2"), "udp", 53),
    ]
    with contextlib.suppress(SimulateError):
        sets = parse_ipset_restore(sets_text)
        tables = parse_iptables_restore(rules_text)
        check_sets(tables, sets)
        for packet in packets:
            with contextlib.suppress(SimulateError):
                walk(tables, sets, packet)


def filter_text(*lines: str) -> str:
    return "\n".join(["*filter", *lines, "COMMIT", ""])


def read_restore(text: str) -> None:
    for parse in (parse_iptables_restore, parse_ipset_restore):
        with contextlib.suppress(SimulateError):
            parse(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda n: filter_text(*(f":c{i} - [0:0]" for i in range(n)), *(f"-A c{i} -j DROP" for i in range(n))),
        lambda n: filter_text(*(f"-A FORWARD -s 10.0.{i // 256}.{i % 256} -j DROP" for i in range(n))),
        lambda n: filter_text("-A FORWARD " + "! " * n),
        lambda n: filter_text('-A FORWARD -m comment --comment "' + "\\" * n),
        lambda n: "create x hash:net\n" + "".join(f"add x 10.{i // 256}.{i % 256}.0/24\n" for i in range(n)),
        lambda n: "x " * n,
    ],
)
def test_reading_restore_text_costs_what_it_is_long(make: Any) -> None:
    assert_linear(make, read_restore, 500)


def test_chains_that_lead_into_each_other_deeper_than_any_stack_are_refused() -> None:
    chains = range(5000)
    links = [f"-A c{i} -j c{i + 1}" for i in chains[:-1]]
    with pytest.raises(SimulateError):
        parse_iptables_restore(filter_text(*(f":c{i} - [0:0]" for i in chains), "-A FORWARD -j c0", *links))


def test_a_judge_of_a_policy_read_from_the_wire_answers() -> None:
    """The document that the tests above spoil is a good one."""
    policy = wire.policy_from_wire(with_rule())
    cluster = Cluster()
    assert Judge(compile_cluster(cluster), cluster).judge(conn("10.0.0.1", "10.0.0.2")).allowed
    assert policy.rules[0].peers is None and Family.V4
