"""What a test cannot do without: where that is missing the test is skipped, or fails where all must run, as in CI."""

from __future__ import annotations

import os

import pytest

from netpol_lab.control import kubernetes_bin
from netpol_lab.errors import LabLacksPrograms


def kubernetes_programs() -> kubernetes_bin.KubernetesBinaries:
    """etcd, kube-apiserver, kubectl and helm. Skips or fails the test that asks."""
    try:
        return kubernetes_bin.find()
    except LabLacksPrograms as error:
        if os.environ.get("NPCTL_REQUIRE_KERNEL"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
