"""Kubernetes' own tests of NetworkPolicies against npctl on real nodes: all but those with SCTP sockets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netpol_lab.errors import LabError
from netpol_realcluster.client import RealCluster
from netpol_realcluster.trials import upstream

SPECS = 47
"""How many there are in v1.36.3. A regular expression that matches fewer would be a test that proves less than it says."""


@pytest.fixture(scope="module")
def suite() -> None:
    """Skip where the suite is not built; fail where everything must run, as in CI."""
    try:
        upstream.program()
    except LabError as error:
        if os.environ.get("NPCTL_REQUIRE_KERNEL"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.mark.timeout(2400)
def test_all_specs_of_network_policies_pass(suite: None, installed: RealCluster, tmp_path: Path) -> None:
    results = upstream.run(installed, upstream.NETWORK_POLICIES, upstream.WITHOUT_SCTP_SOCKETS, tmp_path / "e2e.log")
    assert {r.name: r.message for r in results if not r.passed} == {}
    assert len(results) == SPECS
