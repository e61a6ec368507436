"""What a reflector makes of odd answers: nothing is lost, nothing is taken away that is still there, and it goes on."""

from __future__ import annotations

import pytest

from netpol_kube import reflector as module
from odd_api import OddApi, answer, follow, half, page, status, stream, thing


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(module, "CONFIRM_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)


def test_a_list_in_pages_then_the_watch_from_its_version():
    lists = [answer(page(7, thing("a", 1), thing("b", 2), more="x")), answer(page(7, thing("c", 3)))]
    api = OddApi(lists, [stream(("ADDED", thing("d", 8)), ("DELETED", thing("a", 9)), then="hang")])
    heard, _ = follow(api, lambda h, _: "-a" in h.words)
    assert heard.words == ["+a@1", "+b@2", "+c@3", "+d@8", "-a"]
    assert api.asked[1]["continue"] == "x"
    assert api.asked[2]["resourceVersion"] == "7"


@pytest.mark.parametrize("how", [answer(status(410, "Expired"), 410), stream(("ERROR", status(410, "Expired")))])
def test_after_410_a_new_list_tells_what_came_changed_and_went(how):
    lists = [answer(page(5, thing("a", 1), thing("b", 2))), answer(page(90, thing("b", 80), thing("c", 81)))]
    heard, reflector = follow(OddApi(lists, [how, stream(then="hang")]), lambda h, _: "-a" in h.words)
    assert heard.words == ["+a@1", "+b@2", "+b@80", "+c@81", "-a"]
    assert reflector.gaps == 1


def test_an_empty_list_after_a_full_one_takes_nothing_away_unless_the_next_agrees():
    full = answer(page(5, thing("a", 1), thing("b", 2)))
    lists = [full, answer(page(90)), full, answer(page(91))]
    api = OddApi(lists, [stream(("ERROR", status(410)))] * 2 + [stream(then="hang")])
    heard, _ = follow(api, lambda h, _: not h.there and bool(h.words))
    # The first empty list was contradicted by the list that was to confirm it; the second one was not.
    assert heard.words == ["+a@1", "+b@2", "-a", "-b"] or heard.words == ["+a@1", "+b@2", "-b", "-a"]
    assert sum("watch" not in query for query in api.asked) == 5, "each empty list was followed by one that was to confirm it"


def test_a_list_whose_pages_expire_in_the_middle_begins_anew():
    lists = [
        answer(page(5, thing("a", 1), more="x")),
        answer(status(410, "Expired"), 410),
        answer(page(6, thing("a", 1), thing("b", 2))),
    ]
    heard, reflector = follow(OddApi(lists, [stream(then="hang")]), lambda h, r: r.synced)
    assert heard.there == {"a": "1", "b": "2"}
    assert reflector.gaps == 0


@pytest.mark.parametrize(
    "odd",
    [
        half(page(5, thing("a", 1))),
        answer(["no", "object"]),
        answer({"metadata": {"resourceVersion": "5"}}),
        answer({"items": []}),
        answer(page(5, {"metadata": {}})),
        answer(status(500), 500),
        answer(status(503), 503),
        answer(status(403, "Forbidden"), 403),
        answer(status(429), 429, **{"Retry-After": "0"}),
    ],
)
def test_a_list_that_is_no_list_is_asked_for_again_and_nothing_counts_until_it_is_whole(odd):
    heard, reflector = follow(OddApi([odd, answer(page(6, thing("a", 1)))], [stream(then="hang")]), lambda h, r: r.synced)
    assert heard.there == {"a": "1"}
    assert reflector.failures == 1


def test_what_a_half_list_lacks_is_not_gone():
    lists = [
        answer(page(5, thing("a", 1), thing("b", 2))),
        half(page(90, thing("a", 1))),
        answer(page(91, thing("a", 1), thing("b", 2))),
    ]
    watches = [stream(("ERROR", status(410))), stream(("ADDED", thing("z", 95)), then="hang")]
    heard, _ = follow(OddApi(lists, watches), lambda h, _: "z" in h.there)
    assert not [w for w in heard.words if w.startswith("-")]


@pytest.mark.parametrize(
    "garbage",
    [b"not json\n", b"[]\n", b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":{"metadata":{}}}\n', ("ODD", thing("x", 9)),
     ("ADDED", {"metadata": {"name": "x"}}), b"\xff\xfe\n"],
)  # fmt: skip
def test_garbage_in_a_watch_leads_to_a_new_list(garbage):
    lists = [answer(page(5, thing("a", 1))), answer(page(90, thing("a", 1), thing("b", 80)))]
    heard, reflector = follow(OddApi(lists, [stream(garbage), stream(then="hang")]), lambda h, _: "b" in h.there)
    assert heard.there == {"a": "1", "b": "80"}
    assert "x" not in heard.there
    assert reflector.failures == 1


def test_a_watch_that_breaks_or_ends_goes_on_where_it_was_without_a_list():
    watches = [
        stream(("ADDED", thing("b", 6)), then="break"),
        stream(("BOOKMARK", {"metadata": {"resourceVersion": "50"}})),
        stream(("ADDED", thing("c", 60)), then="hang"),
    ]
    api = OddApi([answer(page(5, thing("a", 1)))], watches)
    heard, reflector = follow(api, lambda h, _: "c" in h.there)
    assert [q["resourceVersion"] for q in api.asked if "watch" in q] == ["5", "6", "50"]
    assert heard.there == {"a": "1", "b": "6", "c": "60"}
    assert reflector.gaps == 0


def test_an_event_of_any_length_arrives_whole():
    long = thing("long", 6, **{f"k{n}": "v" * 60 for n in range(20_000)})
    heard, _ = follow(OddApi([answer(page(5))], [stream(("ADDED", long), then="hang")]), lambda h, _: "long" in h.there)
    assert heard.there == {"long": "6"}


def test_a_half_event_at_the_end_of_a_watch_is_not_an_event():
    watches = [
        stream(b'{"type":"ADDED","object":{"metadata":{"name":"x","resourceVersion":"6"}}}'),
        stream(("ADDED", thing("y", 7)), then="hang"),
    ]
    heard, _ = follow(OddApi([answer(page(5))], watches), lambda h, _: "y" in h.there)
    assert "x" not in heard.there


def test_a_watch_that_is_silent_for_too_long_is_opened_again(monkeypatch):
    from netpol_kube import client

    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.2)
    api = OddApi([answer(page(5))], [stream(then="hang"), stream(("ADDED", thing("a", 6)), then="hang")])
    heard, _ = follow(api, lambda h, _: "a" in h.there)
    assert heard.there == {"a": "6"}
