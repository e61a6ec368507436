"""The nine cases of examples/, connection by connection: on every network, with both backends, and simulated."""

from __future__ import annotations

from pathlib import Path

import pytest

from netpol_lab.client import LabClient
from netpol_lab.scenarios.cases import Row, run_cases
from netpol_lab.scenarios.drivers import LabDriver, SimulateDriver
from netpol_lab.scenarios.scenario import read_scenario
from packets import own_lab_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
NETWORKS = ("host-gw", "vxlan", "routed")


def wrong(rows: tuple[Row, ...]) -> list[str]:
    return [
        f"{r.case}, {r.step}: {r.check.source.name} -> {r.check.target.name} {r.check.port_text}: "
        f"expected {r.check.expect}, seen {r.seen.verdict} ({r.seen.answer}); {r.seen.decided}"
        for r in rows
        if not r.as_expected
    ]


def run_on_packets(folder: Path, network: str, backend: str, family: str) -> tuple[Row, ...]:
    with own_lab_folder(folder):
        client = LabClient("cases")
        try:
            return run_cases(EXAMPLES, LabDriver(client, network=network, backend=backend, family=family))
        finally:
            client.down()


@pytest.mark.kernel
@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_nine_cases_hold_on_packets(tmp_path, network, backend):
    assert not wrong(run_on_packets(tmp_path, network, backend, "ipv4"))


@pytest.mark.kernel
@pytest.mark.parametrize(("network", "backend", "family"), [("host-gw", "nft", "dual"), ("vxlan", "legacy", "ipv6")])
def test_the_nine_cases_hold_with_ipv6(tmp_path, network, backend, family):
    assert not wrong(run_on_packets(tmp_path, network, backend, family))


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_nine_cases_hold_simulated(network, family):
    driver = SimulateDriver(network, family)
    try:
        rows = run_cases(EXAMPLES, driver)
    finally:
        driver.close()
    assert not wrong(rows)
    assert all(r.simulated for r in rows)


def test_the_rows_name_the_rule_or_the_policies_that_decided():
    driver = SimulateDriver()
    try:
        rows = run_cases(EXAMPLES, driver)
    finally:
        driver.close()
    for row in rows:
        if row.check.expect == "refused":
            assert row.seen.decided.startswith("default deny")
            assert "access-" in row.seen.decided, "the policy that isolates is named"
    assert any("egress-access-networkpolicy egress[0]" in r.seen.decided for r in rows)


def test_every_case_file_is_in_the_scenario():
    files = {f.name for f in EXAMPLES.glob("case*.yaml")}
    used = {name for case in read_scenario(EXAMPLES).cases for step in case.steps for name in step.apply}
    assert len(files) == 9
    assert used == files
