"""The table of kinds: what follows from a row. That the rows are the API server's: tests/cluster/test_definitions."""

from __future__ import annotations

import pytest

from netpol_api.kinds import COMPILED_POLICY, JOB, NETWORK_POLICY, NODE, POD, Kind


@pytest.mark.parametrize(
    ("kind", "place", "path"),
    [
        (POD, (), "/api/v1/pods"),
        (POD, ("shop",), "/api/v1/namespaces/shop/pods"),
        (POD, ("shop", "web"), "/api/v1/namespaces/shop/pods/web"),
        (NODE, ("", "n1"), "/api/v1/nodes/n1"),
        (NODE, ("shop", "n1"), "/api/v1/nodes/n1"),
        (NETWORK_POLICY, ("shop",), "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies"),
        (COMPILED_POLICY, ("shop", "p"), "/apis/npctl.dev/v1alpha1/namespaces/shop/compiledpolicies/p"),
    ],
)
def test_paths(kind: Kind, place: tuple[str, ...], path: str) -> None:
    assert kind.path(*place) == path


def test_names() -> None:
    assert (POD.api_version, NETWORK_POLICY.api_version, POD.list_kind) == ("v1", "networking.k8s.io/v1", "PodList")
    assert POD.names == ("po", "pod", "pods") and JOB.names == ("job", "jobs", "job.batch", "jobs.batch")
    assert NETWORK_POLICY.names[:3] == ("netpol", "networkpolicy", "networkpolicies")
    assert NETWORK_POLICY.names[3:] == ("networkpolicy.networking.k8s.io", "networkpolicies.networking.k8s.io")
