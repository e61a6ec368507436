"""Whatever an API server answers is taken or refused with a word; once it answers well, what is held is what there is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile import assert_linear, spoiled, spoiled_json
from netpol_api.resources import span_of, version_number
from netpol_kube import client, reflector
from netpol_kube.credentials import Credentials
from npctl.cluster.api import BUSY_TRIES, Api
from npctl.cluster.following import Following
from npctl.errors import CommandError
from odd_api import LIMIT, Answer, Heard, OddApi, answer, follow, half, page, raw, status, stream, thing
from search import searched

GOOD = page(1000, thing("a", 900, app="x"), thing("b", 901))
THERE = {("n", "a"): "900", ("n", "b"): "901"}
EVENT = {"type": "MODIFIED", "object": thing("a", 950, app="y")}
WORDS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\n",
    b",",
    b"null",
    b"1e999",
    b"NaN",
    b"\xff",
    b"\\ud800",
    b"\0",
    b'"ERROR"',
    b"9" * 5000,
)
DEEP = b"[" * 900 + b"]" * 900
"""As deep as the JSON reader takes it, nearly: what walks through it by recursion does not come to the end."""


class HeardApart(Heard):
    """By namespace and name, and of objects that lack their version too."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], str] = {}

    def put(self, data: dict[str, Any]) -> None:
        self.held[reflector.identity_of(data)] = data["metadata"].get("resourceVersion") or ""

    def gone(self, namespace: str, name: str) -> None:
        del self.held[namespace, name]


@pytest.fixture(autouse=True, scope="module")
def soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIRM_SECONDS", "RETRY_SECONDS", "LONGEST_RETRY_SECONDS"):
            patch.setattr(reflector, name, 0.002)
        for name in ("LONGEST_RETRY_AFTER", "BUSY_SECONDS", "LONGEST_BUSY_SECONDS"):
            patch.setattr(client, name, 0.002)
        yield


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


bodies = st.one_of(
    spoiled_json(GOOD).map(encoded),
    spoiled_json(status(410, "Expired")).map(encoded),
    spoiled(encoded(GOOD), WORDS),
    st.sampled_from([b"", DEEP, b'{"metadata":{"resourceVersion":"5"},"items":[{"metadata":{"name":' + DEEP + b"}}]}"]),
)
lists: st.SearchStrategy[Answer] = st.one_of(
    st.builds(raw, bodies, st.sampled_from([200, 200, 200, 204, 302, 400, 404, 410, 429, 500])),
    st.builds(raw, bodies, st.just(429), st.sampled_from(["", "x", "nan", "inf", "-1", "1e999", "9" * 5000])),
    st.just(half(GOOD)),
    st.sampled_from([7, 8]).map(lambda version: answer(page(version, thing("c", 3), more="the same"))),
)
lines = st.one_of(
    spoiled_json(EVENT).map(encoded),
    spoiled_json({"type": "ERROR", "object": status(410)}).map(encoded),
    spoiled(encoded(EVENT), WORDS),
    st.just(b'{"type":"ERROR","object":' + DEEP + b"}"),
    st.just(b'{"type":"ERROR","object":{"message":' + DEEP + b"}}"),
).map(lambda line: line + b"\n")
watches = st.builds(lambda lines, then: stream(*lines, then=then), st.lists(lines, max_size=4), st.sampled_from(["end", "break"]))


@searched(120)
@given(st.lists(lists, max_size=4), st.lists(watches, max_size=3))
def test_after_whatever_answers_a_reflector_holds_what_there_is(odd_lists: list[Answer], odd_watches: list[Answer]) -> None:
    missed = [stream(("ERROR", status(410)))] * (len(odd_lists) + 1)
    api = OddApi([*odd_lists, answer(GOOD)], [*odd_watches, *missed, stream(then="hang")])
    _, found = follow(api, lambda h, r: len(api.watches) == 1 and h.held == THERE and r.synced, HeardApart())
    assert found.held == THERE


class ToldApart:
    """What npctl's own following is told."""

    def __init__(self) -> None:
        self.there: dict[tuple[str, str], str] = {}

    def put(self, path: str, data: dict[str, Any]) -> None:
        self.there[reflector.identity_of(data)] = data["metadata"].get("resourceVersion") or ""

    def gone(self, path: str, namespace: str, name: str) -> None:
        del self.there[namespace, name]

    def listed(self, path: str) -> None:
        pass


def npctl_on(server: str) -> Api:
    return Api(client.ApiClient(Credentials(server, where="here"), far=True, busy_tries=BUSY_TRIES))


@contextlib.contextmanager
def told_in_words() -> Iterator[None]:
    """What npctl says of a failure is for people: lines that any terminal can take."""
    lines = []
    try:
        yield
    except CommandError as error:
        lines = error.lines
    assert all(line and line.isprintable() for line in lines), lines


@searched(60)
@given(st.lists(lists, max_size=4))
def test_whatever_answers_npctl_reads_a_list_or_says_why_not(odd_lists: list[Answer]) -> None:
    api = OddApi([*odd_lists, answer(GOOD)], [stream(then="hang")])
    with api.elsewhere() as server:
        npctl = npctl_on(server)
        while len(api.lists) > 1:
            with told_in_words():
                assert all(isinstance(item, dict) for item in npctl.listed("/api/v1/things"))
        assert [item["metadata"]["name"] for item in npctl.listed("/api/v1/things")] == ["a", "b"]


@searched(60)
@given(st.lists(lists, max_size=3), st.lists(watches, max_size=3))
def test_after_whatever_answers_npctl_follows_what_there_is(odd_lists: list[Answer], odd_watches: list[Answer]) -> None:
    missed = [stream(("ERROR", status(410)))] * (len(odd_lists) + 1)
    api = OddApi([*odd_lists, answer(GOOD)], [*odd_watches, *missed, stream(then="hang")])
    with api.elsewhere() as server:
        done = False
        while not done:
            told = ToldApart()
            with told_in_words():
                following = Following(npctl_on(server), {"/api/v1/things": {}}, told)
                done = following.until(lambda told=told: len(api.watches) == 1 and told.there == THERE, LIMIT)
                assert done, following.problem


def test_a_server_that_wants_to_be_left_alone_for_ever_is_asked_again() -> None:
    """Found by random answers: `Retry-After: inf` was waited for."""
    api = OddApi([raw(b"", 429, "inf"), answer(GOOD)], [stream(then="hang")])
    follow(api, lambda h, r: r.synced)


def test_a_list_that_always_goes_on_with_the_same_page_ends() -> None:
    api = OddApi([answer(page(7, thing("c", 3), more="x"))] * 2 + [answer(GOOD)], [stream(then="hang")])
    _, found = follow(api, lambda h, r: r.synced)
    assert found.failures == 1
    assert "goes on where it was" not in found.problem


@pytest.mark.parametrize("key", ["reason", "message"])
def test_what_a_server_says_is_one_line_that_any_log_can_take(key: str, caplog: pytest.LogCaptureFixture) -> None:
    """Found by random answers: half a character in a message could not be written down."""
    said = {**status(500), key: "no\ud800 \x1b[2J\nERROR forged"}
    api = OddApi([raw(encoded(said), 500), answer(GOOD)], [stream(("ERROR", said)), stream(then="hang")])
    follow(api, lambda h, r: r.synced and r.failures == 2)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["no\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}[2J ERROR forged" in line for line in warned] == [True, True]


@pytest.mark.parametrize(
    "metadata",
    [
        "x",
        {"name": 5},
        {"name": ["x"]},
        {"name": "x", "namespace": {}},
        {"name": "x", "uid": 5},
        {"name": "x", "resourceVersion": 5},
        {"name": "x", "labels": ["x"]},
        {"name": "x", "labels": {"x": 1}},
    ],
    ids=str,
)
def test_metadata_that_the_api_does_not_promise_are_refused(metadata: Any) -> None:
    """Found by random answers: some were a crash, others were kept under the text of a list."""
    with pytest.raises(client.ProtocolError):
        client.checked_object("/things", {"metadata": metadata})


@pytest.mark.parametrize("text", ["²", "x", "", "-1", "9" * 5000, None, 5, ["5"], "1.5"])
def test_what_is_no_version_is_the_version_0(text: Any) -> None:
    """Found by random answers: ² counts as a digit, and is no number."""
    assert version_number(text) == 0
    assert span_of({f"span.npctl.dev/b{text}": ""}) <= {5}


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda n: encoded({"type": "ADDED", "object": page(1, *[thing("a", 1)] * n)}),
        lambda n: encoded({"type": "ERROR", "object": {"message": "x" * n}}),
        lambda n: b"[" * n,
        lambda n: b"9" * n,
        lambda n: encoded({"type": "ADDED", "object": {"metadata": {"name": "x", "labels": {f"k{i}": "" for i in range(n)}}}}),
    ],
)
def test_reading_an_event_costs_what_it_is_long(make: Any) -> None:
    def read(line: bytes) -> None:
        with contextlib.suppress(client.KubeError):
            client._event("/things", line)

    assert_linear(make, read, 500)
