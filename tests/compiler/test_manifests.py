"""Manifest texts: what becomes a document, and what is told, at which line, where it cannot."""

from __future__ import annotations

import pytest

from netpol_compiler.model.objects import Rejected
from netpol_compiler.reading.objects import locate, parse_policy
from netpol_manifests.documents import Document, Use, classify, decode, parse_yaml
from netpol_manifests.yaml_reader import MAX_DEPTH, MAX_TAG_DIRECTIVES

POD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n"


def read(text: str) -> tuple[list[Document], list[Rejected]]:
    return parse_yaml(text, "dir/f.yaml")


def test_every_document_of_a_text_is_read_and_empty_ones_are_skipped() -> None:
    documents, rejected = read(f"---\n{POD}---\n---\n# only words\n---\n{POD.replace('name: a', 'name: b')}")
    assert [d.name for d in documents] == ["a", "b"]
    assert rejected == []


def test_json_is_read_as_well() -> None:
    documents, rejected = read('{"apiVersion": "v1",\n\t"kind": "Pod", "metadata": {"name": "a", "namespace": "n"}}')
    assert [(d.kind, d.namespace, d.name, d.api_version) for d in documents] == [("Pod", "n", "a", "v1")]
    assert rejected == []


def test_a_list_is_flattened_and_its_items_keep_their_lines() -> None:
    item = "- apiVersion: v1\n  kind: Pod\n  metadata: {name: NAME}\n"
    items = item.replace("NAME", "a") + item.replace("NAME", "b")
    documents, rejected = read(f"apiVersion: v1\nkind: List\nitems:\n{items}")
    assert [(d.name, d.line_of(), d.line_of(("metadata",))) for d in documents] == [("a", 4, 6), ("b", 7, 9)]
    assert rejected == []


def test_items_of_a_typed_list_get_its_kind() -> None:
    documents, _ = read("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicyList\nitems:\n- metadata: {name: a}\n")
    assert [(d.kind, d.api_version) for d in documents] == [("NetworkPolicy", "networking.k8s.io/v1")]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("metadata", "name"), 4),
        (("spec", "ingress", 0, "from", 1, "ipBlock", "cidr"), 10),
        (("spec", "ingress", 0, "from", 1, "ipBlock", "nothing", "deeper"), 9),
        (("spec", "ingress", 7), 6),
        (("missing",), 1),
    ],
    ids=str,
)
def test_a_line_is_that_of_the_deepest_part_that_exists(path: tuple[str | int, ...], line: int) -> None:
    rest = "spec:\n  ingress:\n  - from:\n    - podSelector: {}\n    - ipBlock:\n        cidr: 10.0.0.0/8\n"
    documents, _ = read(POD + rest)
    assert documents[0].line_of(path) == line


def test_a_document_without_lines_says_zero() -> None:
    assert Document({"kind": "Pod"}).line_of(("kind",)) == 0


def test_a_rejected_field_gets_file_and_line() -> None:
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n"
    documents, _ = read(head + "spec:\n  ingress:\n  - ports:\n    - port: 99999\n")
    _, rejected = parse_policy(documents[0].data)
    words = locate(rejected[0], documents[0]).words
    assert words.startswith(
        "dir/f.yaml:7: NetworkPolicy default/p: spec.ingress[0].ports[0].port: the number 99999 is out of range"
    )


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: b\n\tc: d\n", 2, "indent with spaces"),
        ("a: [1,\n2\n", 2, "not closed"),
        ("a: 'x\nb: c\n", 2, "a quote is not closed"),
        ("a: b: c\n", 1, "quote text that contains ': '"),
        ("a:\n  - b\n c: d\n", 3, "indentation"),
        (POD + "  name: b\n", 5, "'name' is there twice (first in line 4)"),
        ("just text\n", 1, "expected a Kubernetes object"),
        ("- a\n- b\n", 1, "expected a Kubernetes object"),
        ("kind: Pod\nmetadata: {name: a}\n", 1, "apiVersion: is missing"),
        ("apiVersion: v1\nmetadata: {name: a}\n", 1, "kind: is missing"),
        ("apiVersion: v1\nkind: Pod\n", 1, "metadata: is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {}\n", 3, "metadata.name: is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  generateName: a-\n", 3, "write a name"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  name: 12\n", 4, "write it in quotes"),
        ("apiVersion: v1\nkind: List\nitems: 3\n", 3, "items: expected a list"),
        ("apiVersion: v1\nkind: List\nitems:\n- 3\n", 4, "expected a Kubernetes object"),
        ("a: b\x00\n", 1, "U+0000"),
        ("{{ .Values.a }}: b\n", 1, "template"),
        ("on: x\n", 1, "quotes"),
        ("a: !!python/object:os.system x\n", 1, "tag"),
        ("a: &a [*a]\n", 1, "alias *a"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), 1, "nested deeper than 100 levels; "),
        ("a:\n  " + "[" * 50_000, 2, "check brackets"),
        ("%TAG !a! x\n" * (MAX_TAG_DIRECTIVES + 1) + "--- 1\n", MAX_TAG_DIRECTIVES + 1, "leave them out"),
    ],
)
def test_what_cannot_be_read_is_told_with_line_and_remedy(text: str, line: int, words: str) -> None:
    documents, rejected = read(text)
    assert documents == []
    assert len(rejected) == 1
    assert words in rejected[0].words
    assert (rejected[0].file, rejected[0].line) == ("dir/f.yaml", line)


def test_a_deep_document_does_not_hide_the_next_but_a_bottomless_one_ends_the_reading() -> None:
    deep, bottomless = ("a: " + "[" * levels + "]" * levels for levels in (MAX_DEPTH + 1, 3 * MAX_DEPTH))
    for nested, names in ((deep, ["a"]), (bottomless, [])):
        documents, rejected = read(f"{nested}\n---\n{POD}")
        assert [d.name for d in documents] == names
        assert ["nested deeper" in r.reason for r in rejected] == [True]


def test_a_message_repeats_only_the_begin_of_a_long_text() -> None:
    long = "a" * 100_000
    for text in (f"{{? {long} : 1, ? {long} : 2}}", f"[*{long}]", f"!{long} x", f"!!int {long}"):
        _, rejected = read(text)
        assert "a" * 50 in rejected[0].reason
        assert len(rejected[0].reason) < 200


def test_an_alias_bomb_is_refused() -> None:
    rows = [f"l{n}: &l{n} [{','.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    documents, rejected = read("\n".join(["l0: &l0 [x,x,x,x,x,x,x,x,x,x]", *rows]))
    assert documents == []
    assert "aliases repeat more than" in rejected[0].reason


def test_honest_aliases_and_merges_work() -> None:
    documents, rejected = read(POD + "base: &b {p: 1, q: 2}\nuse: {<<: *b, q: 3}\nagain: *b\n")
    assert rejected == []
    assert documents[0].data["use"] == {"p": 1, "q": 3}
    assert documents[0].data["again"] == {"p": 1, "q": 2}


def test_documents_before_a_syntax_error_are_still_given() -> None:
    documents, rejected = read(POD + "---\na: [\n")
    assert [d.name for d in documents] == ["a"]
    assert len(rejected) == 1


def test_a_document_with_a_fault_does_not_hide_the_next() -> None:
    documents, rejected = read(f"{POD}  name: b\n---\n{POD}")
    assert [d.line_of() for d in documents] == [7]
    assert len(rejected) == 1


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("80", 80), ("0o17", 15), ("017", 15), ("0x1F", 31), ("0b101", 5), ("-3", -3), ("1_000", 1000),
        ("1.5", 1.5), ("1e3", 1000.0), (".inf", float("inf")), ("yes", True), ("n", False), ("off", False),
        ("~", None), ("", None), ("'80'", "80"),
        ("!!str 80", "80"),
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"), ("22:30", "22:30"), ("10.0.0.1", "10.0.0.1"), (".", "."), ("+", "+"),
    ],
)  # fmt: skip
def test_scalars_mean_what_they_mean_to_the_api_server(written: str, value: object) -> None:
    documents, rejected = read(POD + f"x: {written}\n")
    assert rejected == []
    assert documents[0].data["x"] == value
    assert type(documents[0].data["x"]) is type(value)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [(b"\xff\xfea\0", 1, "UTF-16"), (b"a: b\nc: \xe9\n", 2, "not UTF-8"), (b"a\nb\nc\0", 3, "NUL")],
)
def test_bytes_that_are_no_text_are_told_with_their_line(content: bytes, line: int, words: str) -> None:
    rejected = decode(content, "dir/f.yaml")
    assert isinstance(rejected, Rejected)
    assert words in rejected.reason
    assert rejected.line == line


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert decode(b"\xef\xbb\xbfa: b", "f") == "a: b"


@pytest.mark.parametrize(
    ("version", "kind", "use"),
    [
        ("v1", "Pod", Use.USED),
        ("apps/v1", "DaemonSet", Use.USED),
        ("networking.k8s.io/v1", "NetworkPolicy", Use.USED),
        ("v1", "Secret", Use.SKIPPED),
        ("rbac.authorization.k8s.io/v1", "ClusterRole", Use.SKIPPED),
        ("networking.k8s.io/v1", "Ingress", Use.SKIPPED),
    ],
)
def test_known_kinds_are_used_or_skipped(version: str, kind: str, use: Use) -> None:
    assert classify(Document({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}})) is use


@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        ("example.org/v1", "Gadget", "kind Gadget of example.org/v1 is not known"),
        ("extensions/v1beta1", "NetworkPolicy", "write apiVersion: networking.k8s.io/v1"),
        ("projectcalico.org/v3", "NetworkPolicy", "write apiVersion: networking.k8s.io/v1"),
        ("serving.knative.dev/v1", "Service", "write apiVersion: v1"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy", "would change the answers"),
    ],
)
def test_a_kind_that_may_matter_but_is_not_understood_is_an_error(version: str, kind: str, words: str) -> None:
    rejected = classify(Document({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}}))
    assert isinstance(rejected, Rejected)
    assert words in rejected.words
