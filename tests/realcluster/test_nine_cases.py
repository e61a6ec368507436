"""The nine cases of examples/ with real servers on real nodes: what the scenario expects in the lab must be seen here too.

tomcat is a small web server at 8080, nginx Debian's; its /app is tomcat's, by tomcat's Service and CoreDNS.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubectl import Kubectl
from netpol_lab.errors import LabError
from netpol_lab.scenarios.cases import Manifest, read_manifests, run_cases
from netpol_lab.scenarios.scenario import read_scenario
from netpol_realcluster.client import RealCluster
from netpol_realcluster.trials import walkthrough
from netpol_realcluster.trials.endpoints import Place
from netpol_realcluster.trials.walkthrough import RealDriver

EXAMPLES = Path(__file__).parents[2] / "examples"
NODE_PORTS = {
    "python": ("http://172.31.7.111:30014", "http://172.31.7.112:30015"),
    "linux": ("http://172.31.7.112:30008", "http://172.31.7.113:30006"),
}
APP, WELCOME = "NOW: ", "Welcome to nginx!"


@pytest.fixture(scope="module")
def driver(installation: Any, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealDriver]:
    """The walkthrough's environment, without a policy."""
    real: RealCluster = installation.real
    installation.ensure()
    try:
        archives = walkthrough.make_images(tmp_path_factory.mktemp("images"))
    except LabError as error:
        pytest.skip(f"Debian's nginx is not to be had: {error}")
    for archive in archives:
        real.load(archive)
    manifests = _environment()
    with walkthrough.world(real, kubectl):
        made = RealDriver(real, kubectl)
        made.apply(manifests)
        yield made
        gone = [m for m in manifests if m["kind"] not in ("Node",)]
        kubectl("delete", "--ignore-not-found", "--wait=false", "--grace-period=0", "--force", "-f", "-", objects=map(dict, gone))


def _environment() -> list[Manifest]:
    return [m for name in read_scenario(EXAMPLES).environment for m in read_manifests(EXAMPLES / name)]


def test_the_nine_cases_hold_between_real_pods(driver: RealDriver) -> None:
    rows = run_cases(EXAMPLES, driver)
    assert len(rows) > 300
    wrong = [
        f"{r.case}, {r.step}: {r.check.source.name} -> {r.check.target.name} {r.check.port_text}: "
        f"expected {r.check.expect}, seen {r.seen.verdict} ({r.seen.answer})"
        for r in rows
        if not r.as_expected
    ]
    assert wrong == []


@pytest.mark.parametrize("namespace", ["python", "linux"])
def test_nginx_passes_app_on_to_its_namespaces_tomcat(driver: RealDriver, outside: Place, namespace: str) -> None:
    nginx, tomcat = NODE_PORTS[namespace]
    assert WELCOME in outside.get(nginx)
    assert outside.get(f"{nginx}/app").startswith(APP)
    assert outside.get(f"{tomcat}/app").startswith(APP)
    by_name = f"http://{namespace}-nginx-service.{namespace}.svc.magedu.local"
    assert WELCOME in driver.exec("default/net-test-centos-pod1", "wget", "-q", "-O-", by_name)
    assert driver.exec("default/net-test-centos-pod1", "wget", "-q", "-O-", f"{by_name}/app").startswith(APP)


@pytest.mark.parametrize(
    ("case", "app"),
    [
        ("case1-ingress-podSelector.yaml", False),
        ("case2-ingress-podSelector-ns-SinglePort.yaml", True),
        ("case5-ingress-ipBlock.yaml", False),
        ("case8-Egress-PodSelector.yaml", True),
    ],
)
def test_app_is_served_as_long_as_nginx_may_ask_tomcat(driver: RealDriver, outside: Place, case: str, app: bool) -> None:
    policies = read_manifests(EXAMPLES / case)
    nginx, _ = NODE_PORTS["python"]
    driver.apply(policies)
    try:
        assert WELCOME in outside.get(nginx)
        assert outside.get(f"{nginx}/app").startswith(APP) is app
        # The other namespace's is none of the policy's business.
        assert outside.get(f"{NODE_PORTS['linux'][0]}/app").startswith(APP)
    finally:
        driver.delete(policies)
