"""NetworkPolicy at the border: what every way of writing it means, and that nothing misunderstood ever opens anything."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from netpol_compiler.model.addresses import parse_network
from netpol_compiler.model.kinds import Direction, Protocol
from netpol_compiler.model.objects import IPBlock, NamedPort, Peer, PodPeer, Policy, Port, PortRange, Rejected
from netpol_compiler.model.selectors import EVERYTHING, Operator, Requirement, Selector, label_selector, make_selector
from netpol_compiler.reading.objects import host_bits, parse_policy

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP


def parse(spec: str) -> tuple[Policy, tuple[Rejected, ...]]:
    """Parse a policy with this spec, written in YAML."""
    policy, rejected = parse_policy({"metadata": {"name": "p", "namespace": "n"}, "spec": yaml.safe_load(spec)})
    assert policy is not None
    assert policy.rejected == rejected
    return policy, rejected


def peers_of(text: str) -> tuple[tuple[Peer, ...] | None, tuple[Rejected, ...]]:
    policy, rejected = parse(f"{{podSelector: {{}}, ingress: [{{from: {text}}}]}}")
    return policy.rules[0].peers, rejected


def ports_of(text: str) -> tuple[tuple[Port, ...] | None, tuple[Rejected, ...]]:
    policy, rejected = parse(f"{{podSelector: {{}}, ingress: [{{ports: {text}}}]}}")
    return policy.rules[0].ports, rejected


def block(cidr: str, *exceptions: str) -> IPBlock:
    return IPBlock(parse_network(cidr)[0], tuple(parse_network(e)[0] for e in exceptions))


@pytest.mark.parametrize(
    ("spec", "directions"),
    [
        ("{podSelector: {}}", {INGRESS}),
        ("{podSelector: {}, policyTypes: []}", {INGRESS}),
        ("{podSelector: {}, policyTypes: null, egress: []}", {INGRESS}),
        ("{podSelector: {}, egress: [{}]}", {INGRESS, EGRESS}),
        ("{podSelector: {}, policyTypes: [Egress]}", {EGRESS}),
        ("{podSelector: {}, policyTypes: [Ingress, Egress]}", {INGRESS, EGRESS}),
        ("{podSelector: {}, policyTypes: [Ingress], egress: [{}]}", {INGRESS}),
    ],
)
def test_policy_types_default_as_in_the_api(spec: str, directions: set[Direction]) -> None:
    policy, rejected = parse(spec)
    assert policy.directions == directions
    assert rejected == ()


def test_rules_of_a_direction_outside_policy_types_have_no_effect() -> None:
    policy, _ = parse("{podSelector: {}, policyTypes: [Ingress], egress: [{}]}")
    assert policy.rules == ()


def test_an_unknown_policy_type_is_rejected_and_the_known_ones_count() -> None:
    policy, rejected = parse("{podSelector: {}, policyTypes: [Egress, Forward]}")
    assert policy.directions == {EGRESS}
    assert rejected[0].field == "spec.policyTypes[1]"


def test_without_a_known_policy_type_it_is_as_if_missing() -> None:
    policy, rejected = parse("{podSelector: {}, policyTypes: [ingress], egress: [{}]}")
    assert policy.directions == {INGRESS, EGRESS}
    assert len(rejected) == 1


@pytest.mark.parametrize("ingress", ["", ", ingress: []", ", ingress: null"])
def test_no_rules_under_isolation_allow_nothing(ingress: str) -> None:
    policy, rejected = parse(f"{{podSelector: {{}}{ingress}}}")
    assert policy.rules == ()
    assert rejected == ()


@pytest.mark.parametrize("rule", ["{}", "{from: []}", "{from: null}", "{from: [], ports: []}", "{ports: null}"])
def test_empty_from_means_every_source_and_empty_ports_every_port(rule: str) -> None:
    policy, rejected = parse(f"{{podSelector: {{}}, ingress: [{rule}]}}")
    assert (policy.rules[0].peers, policy.rules[0].ports) == (None, None)
    assert rejected == ()


@pytest.mark.parametrize(
    ("peer", "value"),
    [
        ("{podSelector: {}}", PodPeer(None, EVERYTHING)),
        ("{podSelector: {matchLabels: {a: b}}}", PodPeer(None, label_selector(a="b"))),
        ("{podSelector: {matchLabels: {a: b}}, namespaceSelector: null}", PodPeer(None, label_selector(a="b"))),
        ("{namespaceSelector: {}}", PodPeer(EVERYTHING, EVERYTHING)),
        ("{namespaceSelector: {matchLabels: {a: b}}, podSelector: null}", PodPeer(label_selector(a="b"), EVERYTHING)),
        ("{namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}", PodPeer(EVERYTHING, label_selector(a="b"))),
        ("{ipBlock: {cidr: 10.0.0.0/8}}", block("10.0.0.0/8")),
        ("{ipBlock: {cidr: 10.1.2.3/8, except: [10.1.0.0/16]}}", block("10.0.0.0/8", "10.1.0.0/16")),
        ("{ipBlock: {cidr: 0.0.0.0/0}}", block("0.0.0.0/0")),
        ("{ipBlock: {cidr: '::/0', except: ['fd00::/8']}}", block("::/0", "fd00::/8")),
    ],
)
def test_a_missing_selector_is_none_and_an_empty_one_matches_all(peer: str, value: Peer) -> None:
    assert peers_of(f"[{peer}]") == ((value,), ())


@pytest.mark.parametrize(
    ("peer", "field"),
    [
        ("{}", ""),
        ("null", ""),
        ("{podSelector: null}", ""),
        ("text", ""),
        ("{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}", ".ipBlock"),
        ("{podSelector: {}, podSelektor: {}}", ".podSelektor"),
        ("{podSelector: []}", ".podSelector"),
        ("{podSelector: {matchLabel: {a: b}}}", ".podSelector.matchLabel"),
        ("{podSelector: {matchLabels: {a: 1}}}", ".podSelector.matchLabels.a"),
        ("{podSelector: {matchLabels: {ä: x}}}", ".podSelector.matchLabels.ä"),
        ("{podSelector: {matchLabels: {a: 'ö'}}}", ".podSelector.matchLabels.a"),
        ("{podSelector: {matchExpressions: [{key: a, operator: In}]}}", ".podSelector.matchExpressions[0].values"),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            ".podSelector.matchExpressions[0].values",
        ),
        ("{podSelector: {matchExpressions: [{key: a, operator: Gt, values: [b]}]}}", ".podSelector.matchExpressions[0].operator"),
        ("{podSelector: {matchExpressions: [{operator: Exists}]}}", ".podSelector.matchExpressions[0].key"),
        ("{podSelector: {matchExpressions: [null]}}", ".podSelector.matchExpressions[0]"),
        ("{podSelector: {matchExpressions: [{key: a, operator: In, values: x}]}}", ".podSelector.matchExpressions[0].values"),
        ("{ipBlock: {}}", ".ipBlock.cidr"),
        ("{ipBlock: {cidr: 10.0.0.0}}", ".ipBlock.cidr"),
        ("{ipBlock: {cidr: 10.0.0.0/33}}", ".ipBlock.cidr"),
        ("{ipBlock: {cidr: 300.0.0.0/8}}", ".ipBlock.cidr"),
        ("{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}", ".ipBlock.cidr"),
        ("{ipBlock: {cidr: 10.0.0.0/8, excepts: []}}", ".ipBlock.excepts"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: 10.1.0.0/16}}", ".ipBlock.except"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}", ".ipBlock.except[0]"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}", ".ipBlock.except[0]"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [0.0.0.0/0]}}", ".ipBlock.except[0]"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/8']}}", ".ipBlock.except[0]"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, x]}}", ".ipBlock.except[1]"),
    ],
)
def test_a_peer_that_is_not_understood_allows_nothing_and_says_where(peer: str, field: str) -> None:
    peers, rejected = peers_of(f"[{peer}]")
    assert peers == ()
    assert [r.field for r in rejected] == [f"spec.ingress[0].from[0]{field}"]


def test_a_rejected_peer_leaves_the_others_standing() -> None:
    peers, rejected = peers_of("[{}, {podSelector: {}}]")
    assert peers == (PodPeer(None, EVERYTHING),)
    assert len(rejected) == 1


@pytest.mark.parametrize("value", ["text", "{podSelector: {}}", "3", "true"])
def test_a_list_of_another_type_is_nothing_never_everything(value: str) -> None:
    assert peers_of(value)[0] == ()
    assert ports_of(value)[0] == ()
    assert peers_of(value)[1]
    assert ports_of(value)[1]


@pytest.mark.parametrize(
    ("port", "value"),
    [
        ("{}", PortRange(TCP)),
        ("{protocol: UDP}", PortRange(UDP, 0, 65535)),
        ("{port: null, protocol: SCTP}", PortRange(SCTP)),
        ("{port: 80}", PortRange(TCP, 80, 80)),
        ("{port: 1, protocol: UDP}", PortRange(UDP, 1, 1)),
        ("{port: 65535, endPort: 65535}", PortRange(TCP, 65535, 65535)),
        ("{port: 8000, endPort: 8100}", PortRange(TCP, 8000, 8100)),
        ("{port: http}", NamedPort(TCP, "http")),
        ("{port: a-15-characters, protocol: UDP}", NamedPort(UDP, "a-15-characters")),
    ],
)
def test_ports_are_numbers_names_ranges_or_a_whole_protocol(port: str, value: Port) -> None:
    assert ports_of(f"[{port}]") == ((value,), ())


@pytest.mark.parametrize(
    ("port", "field"),
    [
        ("null", ""),
        ("80", ""),
        ("{port: 0}", ".port"),
        ("{port: -1}", ".port"),
        ("{port: 65536}", ".port"),
        ("{port: true}", ".port"),
        ("{port: 80.0}", ".port"),
        ("{port: '80'}", ".port"),
        ("{port: [80]}", ".port"),
        ("{port: a-16-characters-}", ".port"),
        ("{port: longer-than-fifteen}", ".port"),
        ("{port: HTTP}", ".port"),
        ("{port: a--b}", ".port"),
        ("{port: 8-8}", ".port"),
        ("{port: -a}", ".port"),
        ("{port: ''}", ".port"),
        ("{endPort: 80}", ".endPort"),
        ("{port: http, endPort: 80}", ".endPort"),
        ("{port: 80, endPort: 79}", ".endPort"),
        ("{port: 80, endPort: 70000}", ".endPort"),
        ("{port: 80, endPort: http}", ".endPort"),
        ("{port: 80, protocol: tcp}", ".protocol"),
        ("{port: 80, protocol: ICMP}", ".protocol"),
        ("{port: 80, protocol: 6}", ".protocol"),
        ("{port: 80, hostPort: 80}", ".hostPort"),
        ("{port: http, hostPort: 80}", ".hostPort"),
        ("{hostPort: 80}", ".hostPort"),
        ("{port: http, protocol: tcp}", ".protocol"),
        ("{protocol: tcp}", ".protocol"),
    ],
)
def test_a_port_that_is_not_understood_allows_nothing_and_says_where(port: str, field: str) -> None:
    ports, rejected = ports_of(f"[{port}]")
    assert ports == ()
    assert [r.field for r in rejected] == [f"spec.ingress[0].ports[0]{field}"]


@pytest.mark.parametrize(
    ("rule", "field"), [("{to: []}", ".to"), ("{from: [], port: 80}", ".port"), ("text", ""), ("null", ""), ("[]", "")]
)
def test_a_rule_that_is_not_understood_allows_nothing(rule: str, field: str) -> None:
    policy, rejected = parse(f"{{podSelector: {{}}, ingress: [{rule}, {{}}]}}")
    assert (policy.rules[0].peers, policy.rules[0].ports) == ((), ())
    assert (policy.rules[1].index, policy.rules[1].peers) == (1, None)
    assert [r.field for r in rejected] == [f"spec.ingress[0]{field}"]


def test_an_unknown_field_of_spec_is_told_and_the_policy_still_isolates() -> None:
    policy, rejected = parse("{podSelector: {matchLabels: {a: b}}, ingres: [{}]}")
    assert policy.directions == {INGRESS}
    assert policy.rules == ()
    assert "did you mean ingress?" in rejected[0].reason


@pytest.mark.parametrize("spec", ["null", "text", "[]"])
def test_without_a_usable_spec_every_pod_of_the_namespace_is_isolated(spec: str) -> None:
    policy, rejected = parse(spec)
    assert policy.pod_selector == EVERYTHING
    assert policy.directions == {INGRESS}
    assert policy.rules == ()
    assert rejected


def test_egress_of_a_wrong_type_isolates_egress() -> None:
    policy, rejected = parse("{podSelector: {}, egress: {to: []}}")
    assert policy.directions == {INGRESS, EGRESS}
    assert policy.rules == ()
    assert rejected[0].field == "spec.egress"


@pytest.mark.parametrize(
    ("selector", "value"),
    [
        ("null", EVERYTHING),
        ("{matchLabels: {a: b, c: 1}}", label_selector(a="b")),
        ("{matchLabels: {a: b}, matchExpressions: [{key: c, operator: Near, values: [d]}]}", label_selector(a="b")),
        ("{matchLabels: [a]}", EVERYTHING),
        ("text", EVERYTHING),
    ],
)
def test_a_requirement_of_the_policys_own_selector_that_is_not_understood_isolates_more(selector: str, value: Selector) -> None:
    policy, rejected = parse(f"{{podSelector: {selector}}}")
    assert policy.pod_selector == value
    assert bool(rejected) == (selector != "null")


def test_all_four_operators_are_read() -> None:
    with_values = "{key: a, operator: In, values: [y, x, x]}, {key: b, operator: NotIn, values: [x]}"
    without = "{key: p/c, operator: Exists}, {key: d, operator: DoesNotExist, values: []}"
    policy, rejected = parse(f"{{podSelector: {{matchExpressions: [{with_values}, {without}]}}}}")
    assert rejected == ()
    assert policy.pod_selector == make_selector(
        [
            Requirement("a", Operator.IN, ("x", "y")),
            Requirement("b", Operator.NOT_IN, ("x",)),
            Requirement("p/c", Operator.EXISTS),
            Requirement("d", Operator.DOES_NOT_EXIST),
        ]
    )


def test_names_at_their_limits_are_accepted_and_one_more_character_is_not() -> None:
    for name, namespace, usable in [("a" * 253, "b" * 63, True), ("a" * 254, "b", False), ("a", "b" * 64, False)]:
        policy, rejected = parse_policy({"metadata": {"name": name, "namespace": namespace}, "spec": {"podSelector": {}}})
        assert (policy is not None, rejected == ()) == (usable, usable)
    keys = {"k" * 63: "v" * 63, ".".join(["d" * 50] * 4) + "/" + "k": ""}
    assert parse_policy({"metadata": {"name": "a"}, "spec": {"podSelector": {"matchLabels": keys}}})[1] == ()
    for key, value in [("k" * 64, ""), ("k", "v" * 64), ("d" * 254 + "/k", ""), ("/k", ""), ("a/b/c", "")]:
        assert parse_policy({"metadata": {"name": "a"}, "spec": {"podSelector": {"matchLabels": {key: value}}}})[1]


@pytest.mark.parametrize("name", ["", None, 3, "Upper", "a_b", "-a", "ä", ["a"]])
def test_without_a_usable_name_there_is_no_policy(name: object) -> None:
    policy, rejected = parse_policy({"metadata": {"name": name}, "spec": {"podSelector": {}}})
    assert policy is None
    assert rejected[0].path == ("metadata", "name")


def test_a_missing_namespace_is_default() -> None:
    policy, _ = parse_policy({"metadata": {"name": "a"}, "spec": {"podSelector": {}}})
    assert policy is not None
    assert policy.key.namespace == "default"


def test_host_bits_are_legal_and_can_be_listed() -> None:
    data = {
        "metadata": {"name": "a"},
        "spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.0.0.0/16"]}}]}]},
    }
    assert parse_policy(data)[1] == ()
    assert host_bits(data) == (
        (("spec", "ingress", 0, "from", 0, "ipBlock", "cidr"), "10.1.2.3/8", parse_network("10.0.0.0/8")[0]),
    )


def test_five_thousand_peers_are_read() -> None:
    blocks = [{"ipBlock": {"cidr": f"10.{i // 256}.{i % 256}.0/24"}} for i in range(5000)]
    policy, rejected = parse_policy({"metadata": {"name": "a"}, "spec": {"ingress": [{"from": blocks}]}})
    assert policy is not None
    assert policy.rules[0].peers is not None
    assert (len(policy.rules[0].peers), rejected) == (5000, ())


_FIELDS = [
    "podSelector",
    "namespaceSelector",
    "ipBlock",
    "cidr",
    "except",
    "ingress",
    "egress",
    "from",
    "to",
    "ports",
    "port",
    "endPort",
    "protocol",
    "policyTypes",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "other",
]
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["Ingress", "10.0.0.0/8", "In"])
)
_ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=3),
    max_leaves=12,
)


@given(spec=_ANYTHING)
def test_whatever_spec_holds_there_is_a_policy_that_isolates(spec: Any) -> None:
    policy, rejected = parse_policy({"metadata": {"name": "a"}, "spec": spec})
    assert policy is not None
    assert policy.directions
    assert all(r.words and r.path for r in rejected)


@given(peer=_ANYTHING)
def test_whatever_one_peer_holds_it_is_one_peer_or_nothing_never_all(peer: Any) -> None:
    policy, rejected = parse_policy(
        {"metadata": {"name": "a"}, "spec": {"podSelector": {}, "ingress": [{"from": [peer], "ports": [peer]}]}}
    )
    assert policy is not None
    assert policy.rules[0].peers is not None
    assert policy.rules[0].ports is not None
    assert len(policy.rules[0].peers) <= 1
    assert rejected or policy.rules[0].peers
