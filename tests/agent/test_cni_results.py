"""CNI's results as libcni keeps them: what the plugins that people use write, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netpol_agent.guard.cni_results import parse_result, read_results
from netpol_compiler.model.addresses import parse_address
from netpol_compiler.model.objects import Key


def cached(interfaces: list[dict[str, Any]], *ips: str, **more: Any) -> dict[str, Any]:
    """A file's content as libcni 1.1 writes it."""
    arguments = [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "a"], ["K8S_POD_NAME", "web"], ["K8S_POD_UID", "u1"]]
    result = {"cniVersion": "1.0.0", "interfaces": interfaces, "ips": [{"address": ip} for ip in ips]}
    return {"kind": "cniCacheV1", "ifName": "eth0", "networkName": "cbr0", "cniArgs": arguments, "result": result, **more}


INSIDE = {"name": "eth0", "mac": "0a:58:0a:c8:01:02", "sandbox": "/var/run/netns/cni-1"}
BRIDGE = [{"name": "cni0", "mac": "0a:58:0a:c8:01:01"}, {"name": "veth12", "mac": "aa:bb:cc:dd:ee:ff"}, INSIDE]
PTP = [{"name": "veth34", "mac": "aa:bb:cc:dd:ee:ff"}, INSIDE]


@pytest.mark.parametrize(("interfaces", "outside"), [(BRIDGE, ("cni0", "veth12")), (PTP, ("veth34",))], ids=["bridge", "ptp"])
def test_a_result_names_the_pod_its_interface_its_hardware_and_both_its_addresses(
    interfaces: list[dict[str, Any]], outside: tuple[str, ...]
) -> None:
    network = parse_result(cached(interfaces, "10.200.1.2/24", "fd00:10:200:1::2/64"))
    assert network is not None
    assert (network.pod, network.uid, network.interfaces) == (Key("a", "web"), "u1", outside)
    assert network.hardware == bytes.fromhex("0a580ac80102")
    assert network.addresses == (parse_address("10.200.1.2"), parse_address("fd00:10:200:1::2"))


@pytest.mark.parametrize(
    "more", [{"cniArgs": []}, {"cniArgs": None}, {"ifName": "net1"}], ids=["no pod", "no arguments", "second interface"]
)
def test_what_is_of_no_pod_or_of_its_second_interface_is_passed_over(more: dict[str, Any]) -> None:
    assert parse_result(cached(BRIDGE, "10.200.1.2/24", **more)) is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([], "the file is no object"),
        (cached(BRIDGE, "10.200.1.2/24", result=7), "result is no object"),
        (cached([{"name": "a name that is too long"}, INSIDE]), "no interface's name"),
        (cached([{"name": "veth1"}, {**INSIDE, "mac": "0a:58"}]), "no hardware address"),
        (cached(BRIDGE, "10.200.1.2000/24"), "is not an IP address"),
        (cached(BRIDGE) | {"cniArgs": "K8S_POD_NAME=web"}, "cniArgs is no list"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_reason(content: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_result(content)


def test_a_folder_gives_its_results_in_the_order_of_their_age_and_names_what_is_broken(tmp_path: Path) -> None:
    import os

    (tmp_path / "cbr0-2-eth0").write_text(json.dumps(cached(PTP, "10.200.1.3/24")))
    (tmp_path / "cbr0-1-eth0").write_text(json.dumps(cached(BRIDGE, "10.200.1.2/24")))
    os.utime(tmp_path / "cbr0-1-eth0", ns=(1, 1))
    (tmp_path / "cbr0-3-eth0").write_text("{")
    (tmp_path / "folder").mkdir()
    results = read_results(tmp_path)
    assert [network.interfaces[-1] for network in results.networks] == ["veth12", "veth34"]
    assert [problem.split(":")[0] for problem in results.problems] == ["the CNI result cbr0-3-eth0 is not understood"]


def test_a_folder_that_is_not_there_is_a_problem_and_not_an_empty_one(tmp_path: Path) -> None:
    results = read_results(tmp_path / "absent")
    assert results.networks == ()
    assert len(results.problems) == 1
    assert "No such file" in results.problems[0]
