"""One cluster with real nodes for all tests of the session; skipped, with the reason, where it cannot run.

Tests marked `networks` start others, one for each further pod network, and only when `-m` names that mark.

172.31.7.111 to .113   a pod of the DaemonSet `web` on each     outside   a machine that is in no cluster
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import build_image
from kubectl import Kubectl
from netpol_realcluster import plan
from netpol_realcluster.client import RealCluster, why_not
from netpol_realcluster.networks.choice import DEFAULT
from netpol_realcluster.nodes import images
from netpol_realcluster.trials.endpoints import Place, machine
from netpol_realcluster.trials.in_force import InForce
from netpol_realcluster.trials.release import Release
from netpol_realcluster.trials.workloads import Field

HERE = Path(__file__).parent
STANDING = os.environ.get("NPCTL_CLUSTER", "")
"""The folder of a cluster of three nodes that is up already, for whoever writes tests: it stays, and npctl in it too."""
WEB = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "web", "image": images.AGNHOST, "args": ["netexec", "--http-port=8080"]}],
            },
        },
    },
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]},
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """They share a cluster; starting it counts as part of the first."""
    if "networks" not in str(config.getoption("markexpr")):
        unwanted = [item for item in items if item.get_closest_marker("networks")]
        config.hook.pytest_deselected(items=unwanted)
        items[:] = [item for item in items if item not in unwanted]
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def possible() -> Callable[[str], None]:
    """Asked for a network: skips where no cluster with it can be; fails where everything must run, as in CI."""

    def demand(network: str = DEFAULT) -> None:
        if problem := why_not(network):
            if os.environ.get("NPCTL_REQUIRE_KERNEL"):
                pytest.fail(str(problem), pytrace=False)
            pytest.skip(str(problem))

    demand()
    return demand


@pytest.fixture(scope="session")
def archive() -> Path:
    """npctl's own image, as `./dev image` has made it."""
    found = build_image.OUT / f"npctl-{build_image.version()}.tar"
    if not found.exists():
        pytest.skip("npctl's image is not built here: `./dev image` does it")
    return found


@pytest.fixture(scope="session")
def real(possible: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """Three nodes on flannel's VXLAN, as many as the walkthrough has. For all tests: leave nothing behind."""
    if STANDING:
        yield RealCluster(Path(STANDING))
        return
    with RealCluster(tmp_path_factory.mktemp("real") / "cluster", nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kubectl(real: RealCluster) -> Kubectl:
    return Kubectl(real.kubeconfig)


@pytest.fixture(scope="session")
def pods(kubectl: Kubectl) -> dict[str, Pod]:
    """A pod of `web` on each node, by the node's name; its Service is in force on all of them."""
    return _run_pods(kubectl)


@pytest.fixture(scope="session")
def run_pods() -> Callable[[Kubectl], dict[str, Pod]]:
    """The same for a cluster of a test's own."""
    return _run_pods


def _run_pods(kubectl: Kubectl) -> dict[str, Pod]:
    kubectl("apply", "-f", "-", objects=[WEB, SERVICE])
    kubectl("rollout", "status", "daemonset/web", "--timeout=50s")
    found = [Pod(kubectl, item) for item in kubectl.items("pods", "--selector=app=web")]
    address = kubectl("get", "service", "web", "--output=jsonpath={.spec.clusterIP}")
    # What is sent to a Service before kube-proxy knows it is lost, and so is all that belongs to the same connection.
    kubectl.until(lambda: all(pod.connects(f"{address}:80") for pod in found), "every node knows the Service")
    return {pod.node: pod for pod in found}


@pytest.fixture(scope="session")
def installation(real: RealCluster, archive: Path) -> Iterator[Installation]:
    """npctl on the cluster, as long as tests need it."""
    made = Installation(real, archive)
    yield made
    if not STANDING:
        made.remove()


@pytest.fixture
def installed(installation: Installation) -> RealCluster:
    """The cluster with npctl's release in it, operator and agents ready."""
    installation.ensure()
    return installation.real


@pytest.fixture
def in_force(installed: RealCluster, kubectl: Kubectl) -> Iterator[InForce]:
    """For policies of one test, which are gone from every node after it."""
    made = InForce(installed, kubectl)
    yield made
    made.drop()


@pytest.fixture(scope="module")
def field(request: pytest.FixtureRequest, real: RealCluster, kubectl: Kubectl) -> Iterator[Field]:
    """A namespace for all tests of a module, called by its name."""
    made = Field(real, kubectl, request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-"))
    yield made
    made.clear()


@pytest.fixture(scope="session")
def outside(real: RealCluster) -> Place:
    """The machine that is in no cluster."""
    return machine(real, plan.OUTSIDE)


@pytest.fixture
def start(possible: Callable[[str], None], tmp_path: Path) -> Iterator[Callable[..., RealCluster]]:
    """Starts a cluster of a test's own, of one node: `start(**options of RealCluster.up)`."""
    cluster = RealCluster(tmp_path / "cluster")

    def up(**options: Any) -> RealCluster:
        cluster.up(**{"nodes": 1, **options})
        return cluster

    yield up
    cluster.down()


class Installation:
    """npctl's release: put there for the first test that needs it, and again after one that has removed it."""

    def __init__(self, real: RealCluster, archive: Path) -> None:
        self.real = real
        self.release = Release(real)
        self._archive = archive
        self._there = bool(STANDING) and self.release.exists()

    def ensure(self) -> None:
        if not self._there:
            self.release.install(self._archive)
            self._there = True

    def remove(self) -> None:
        if self._there:
            self._there = False
            self.release.uninstall()


class Pod:
    """One running pod, as a place to ask from."""

    def __init__(self, kubectl: Kubectl, item: dict[str, Any]) -> None:
        self._kubectl = kubectl
        self.name = str(item["metadata"]["name"])
        self.node = str(item["spec"]["nodeName"])
        self.address = str(item["status"]["podIP"])

    def exec(self, *command: str) -> str:
        """What a command prints there. Raises AssertionError when it fails."""
        return self._kubectl("exec", self.name, "--", *command)

    def get(self, url: str) -> str:
        """What a web server answers over TCP."""
        return self.exec("wget", "-q", "-O-", url)

    def connects(self, target: str) -> bool:
        """Whether a TCP connection to `target` (address:port) comes about within two seconds."""
        return self._kubectl.run("exec", self.name, "--", "/agnhost", "connect", target, "--timeout=2s").returncode == 0
