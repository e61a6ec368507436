"""When a policy is in force, and who lags: from what operator and agents publish, without any cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from netpol_api.times import age_seconds
from npctl.commands.wait import parse_duration
from npctl.enforcement.enforcement import age_words
from npctl.enforcement.programmed import Programmed
from npctl.enforcement.status import operator_of
from npctl.errors import CommandError
from npctl.inputs.live import owner_of

# -- the operator --------------------------------------------------------------------------------------

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def lease(**spec: Any) -> dict[str, Any]:
    return {"spec": {"holderIdentity": "op-1", "leaseDurationSeconds": 10, "renewTime": "2026-01-01T11:59:58.000000Z", **spec}}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lease(), "op-1 leads (renewed 2s ago)"),
        (lease(renewTime="2026-01-01T11:50:00.000000Z"), "no operator leads: op-1 last renewed its lease 10m ago"),
        (lease(holderIdentity=None), "no operator leads now"),
        (None, "no operator has ever led (there is no lease npctl-operator in namespace npctl-system)"),
    ],
)
def test_who_leads_by_the_lease(found: dict[str, Any] | None, words: str) -> None:
    assert operator_of("npctl-system", found, [], NOW).words == words


def test_replicas_are_told_with_their_versions() -> None:
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    image = {"spec": {"containers": [{"image": "registry:5000/npctl:1.2@sha256:0"}], "nodeName": "n"}}
    pods = [{"metadata": {"name": "a"}, **ready, **image}, {"metadata": {"name": "b"}, **image}]
    assert operator_of("x", lease(), pods, NOW).words.endswith("; 1 of 2 replicas ready, 1.2")


# -- small parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("500ms", 0.5), ("1m30s", 90), ("2h", 7200), ("0", 0), ("15", 15), ("1.5s", 1.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "3 s", "s", "5d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(CommandError):
        parse_duration(text)


def test_ages() -> None:
    assert [age_words(s) for s in (-1, 0.4, 119, 120, 7199, 7200, 172800)] == ["0s", "0s", "119s", "2m", "119m", "2h", "2d"]
    assert [age_seconds(text, NOW) for text in ("2026-01-01T11:59:00Z", "", "yesterday")] == [60, None, None]


@pytest.mark.parametrize(
    ("owner", "labels", "found"),
    [
        ({"kind": "ReplicaSet", "name": "web-5d4f"}, {"pod-template-hash": "5d4f"}, ("Deployment", "web")),
        ({"kind": "ReplicaSet", "name": "web"}, {}, ("ReplicaSet", "web")),
        ({"kind": "StatefulSet", "name": "db"}, {}, ("StatefulSet", "db")),
        (None, {}, None),
    ],
)
def test_a_pod_belongs_to_the_workload_that_people_know(owner: dict[str, str] | None, labels: dict[str, str], found: Any) -> None:
    references = [{**owner, "controller": True}] if owner else []
    assert owner_of({"metadata": {"name": "x", "labels": labels, "ownerReferences": references}}) == found


def test_what_the_kernel_holds_is_shown_with_its_counters_and_its_differences() -> None:
    answer = {
        "schema": 1,
        "in_sync": True,
        "isolated": ["ingress"],
        "chains": {"4": {"npc-pi-x": [{"rule": "-j DROP", "packets": 12, "bytes": 720}]}, "6": {}},
        "sets": {"npc4-x": {"type": "hash:net", "members": []}},
        "differences": ["set npc4-x lacks 10.0.0.1"],
    }
    text = "\n".join(Programmed("n1", answer).lines)
    assert (
        "    12        720  -j DROP" in text and "none: this pod is not isolated" in text and "npc4-x (hash:net): empty" in text
    )
    assert "THE KERNEL DIFFERS from what was compiled for node n1" in text and "set npc4-x lacks 10.0.0.1" in text
    assert Programmed("n1", answer).data["differences"] == ["set npc4-x lacks 10.0.0.1"]
