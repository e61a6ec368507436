"""The Helm chart: helm likes it, wrong values are refused by name, and a real API server accepts every object of it."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from chart import CHART, NAMESPACE, RELEASE, Object, helm, of_kind, rendered, template
from cluster_api import Cluster
from kubectl import Kubectl

TOP = CHART.parents[1]
NPCTL = (sys.executable, "-m", "npctl")

VALUES = {
    "as it comes": (),
    "everything chosen": (
        "image.repository=images.example:5000/net/npctl",
        "image.tag=sha256:" + "0123456789abcdef" * 4,
        "image.pullPolicy=Always",
        "image.pullSecrets[0].name=registry",
        "apiServer.host=172.31.7.100",
        "operator.replicas=3",
        "operator.port=19435",
        "operator.resources.limits.memory=1Gi",
        "operator.podAnnotations.note=a",
        "operator.podLabels.team=net",
        "agent.backend=legacy",
        "agent.established=keep",
        "agent.accept=accept",
        "agent.mark=0x80000000",
        "agent.guard=enforce",
        "agent.port=19436",
        "agent.loadModules=true",
        "agent.updateStrategy.maxUnavailable=3",
        "agent.nodeSelector.pool=workers",
        "agent.podLabels.team=net",
        "viewer.subjects[0].kind=Group",
        "viewer.subjects[0].name=net-admins",
        "viewer.subjects[1].kind=ServiceAccount",
        "viewer.subjects[1].name=dashboard",
        "viewer.subjects[1].namespace=tools",
        "viewer.proxySubjects[0].kind=User",
        "viewer.proxySubjects[0].name=somebody",
    ),
    "as little as possible": (
        "operator.replicas=1",
        "operator.priorityClassName=",
        "operator.tolerations=null",
        "operator.resources=null",
        "operator.nodeSelector=null",
        "agent.priorityClassName=",
        "agent.tolerations=null",
        "agent.resources=null",
        "agent.nodeSelector=null",
        "metrics.scrapeAnnotations=false",
        "viewer.create=false",
        "viewer.aggregateToView=false",
        "guardReports=false",
    ),
    "cleaning up": ("agent.cleanup=true",),
}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their dotted names, down to what people set as one: `resources` and other free mappings stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        whole = key in {"resources", "nodeSelector", "podAnnotations", "podLabels"}
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and not whole else {name: value}
    return flat


def _pod(objects: list[Object], kind: str) -> Object:
    (found,) = of_kind(objects, kind)
    pod: Object = found["spec"]["template"]["spec"]
    return pod


def _words(container: Object, option: str) -> str:
    return str(container["args"][container["args"].index(option) + 1])


# -- helm and the values -------------------------------------------------------------------------------


def test_helm_finds_nothing_to_complain_of() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout and "ERROR" not in done.stdout


def test_the_chart_has_the_version_of_the_project() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (project, project)


def test_the_table_of_values_is_true() -> None:
    values = _flat(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))
    rows = re.findall(r"(?m)^\| `([\w.]+)` \| `(.*?)` \| (.*) \|$", (CHART / "README.md").read_text(encoding="utf-8"))
    assert {name: json.loads(default) for name, default, _ in rows} == values
    assert [name for name, _, meaning in rows if not meaning] == []


def test_every_value_has_its_place_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for name in _flat(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))):
        place = schema
        for part in name.split("."):
            assert place["additionalProperties"] is False, name
            place = place["properties"][part]


WRONG = [
    ("agent.backend=iptables", "'/agent/backend': value must be one of '', 'nft', 'legacy'"),
    ("agent.bckend=nft", "'/agent': additional properties 'bckend' not allowed"),
    ("agnt.backend=nft", "additional properties 'agnt' not allowed"),
    ("agent.established=drop", "'/agent/established': value must be one of 'cut', 'keep'"),
    ("agent.mark=0x50000", "'/agent/mark': '0x50000' does not match pattern"),
    ("agent.mark=262144", "'/agent/mark': got number, want string"),
    ("agent.guard=on", "'/agent/guard': value must be one of 'off', 'report', 'enforce'"),
    ("agent.port=0", "'/agent/port': minimum: got 0, want 1"),
    ("agent.port=65536", "'/agent/port': maximum: got 65,536, want 65,535"),
    ("agent.updateStrategy.maxUnavailable=0", "'/agent/updateStrategy/maxUnavailable': minimum: got 0, want 1"),
    ("agent.updateStrategy.maxUnavailable=0%", "'/agent/updateStrategy/maxUnavailable': '0%' does not match pattern"),
    ("agent.resources.request.cpu=1", "'/agent/resources': additional properties 'request' not allowed"),
    ("agent.loadModules=yes", "'/agent/loadModules': got string, want boolean"),
    ("operator.replicas=two", "'/operator/replicas': got string, want integer"),
    ("operator.podLabels.app\\.kubernetes\\.io/name=x", "'/operator/podLabels/app.kubernetes.io~1name': false schema"),
    ("operator.tolerations[0].effect=Never", "'/operator/tolerations/0/effect': value must be one of"),
    (
        "image.repository=https://images.example/npctl",
        "'/image/repository': 'https://images.example/npctl' does not match",
    ),
    ("image.pullPolicy=Sometimes", "'/image/pullPolicy': value must be one of"),
    ("apiServer.host=https://10.0.0.1", "'/apiServer/host': 'https://10.0.0.1' does not match pattern"),
    ("viewer.subjects[0].kind=ServiceAccount,viewer.subjects[0].name=x", "'/viewer/subjects/0': missing property 'namespace'"),
    ("guardReports=maybe", "'/guardReports': got string, want boolean"),
]


@pytest.mark.parametrize(("value", "words"), WRONG, ids=[value.partition(",")[0] for value, _ in WRONG])
def test_a_wrong_value_is_refused_with_its_name(value: str, words: str) -> None:
    done = template(value)
    assert done.returncode != 0
    assert words in done.stderr


def test_notes_say_what_to_do_next() -> None:
    text = (CHART / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    for command in ("kubectl get nodereports", "kubectl apply", "npctl wait", "npctl explain", "npctl status"):
        assert command in text


# -- the objects ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_a_real_api_server_accepts_every_object(kubectl: Kubectl, values: tuple[str, ...]) -> None:
    objects = rendered(*values)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", objects=[space])
    options = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
    done = kubectl.run(*options, objects=objects)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("serverside-applied (server dry run)") == len(objects), done.stdout
    assert done.stderr == "", "no warning, of a deprecated field or any other"


def test_names_that_yaml_would_read_as_something_else_stay_names() -> None:
    objects = rendered("operator.priorityClassName=on", release="no", namespace="1234")
    assert {data["metadata"]["labels"]["app.kubernetes.io/instance"] for data in objects} == {"no"}
    assert {data["metadata"].get("namespace") for data in objects} == {None, "1234"}
    subjects = [s for data in of_kind(objects, "ClusterRoleBinding", "RoleBinding") for s in data["subjects"]]
    assert {s["namespace"] for s in subjects} == {"1234"}
    assert _pod(objects, "Deployment")["priorityClassName"] == "on"


def test_no_two_objects_are_one() -> None:
    for values in VALUES.values():
        names = [(o["kind"], o["metadata"]["name"]) for o in rendered(*values)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_the_operator_has_no_privileges(values: tuple[str, ...]) -> None:
    pod = _pod(rendered(*values), "Deployment")
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [volume for volume in pod["volumes"] if "hostPath" in volume] == []


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_the_agent_has_two_capabilities_and_the_hosts_network_and_no_more(values: tuple[str, ...]) -> None:
    pod = _pod(rendered(*values), "DaemonSet")
    modules = "agent.loadModules=true" in values
    guard = "agent.guard=enforce" in values
    assert pod["hostNetwork"] is True and not {"hostPID", "hostIPC"} & pod.keys()
    assert pod["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
        assert not security.get("privileged")
        assert security["capabilities"]["drop"] == ["ALL"]
        wanted = ["NET_ADMIN", "NET_RAW", *(["SYS_MODULE"] if modules else [])]
        assert security["capabilities"].get("add", []) == ([] if container["name"] == "done" else wanted)
    paths = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert paths == {
        "/run/xtables.lock",
        "/run/npctl",
        *(["/lib/modules"] if modules else []),
        *(["/var/lib/cni/results"] if guard else []),
    }


def test_the_operator_is_told_who_it_is_and_survives_a_drain() -> None:
    objects = rendered()
    (deployment,) = of_kind(objects, "Deployment")
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["replicas"] == 2
    for selects in (deployment["spec"]["selector"], budget["spec"]["selector"]):
        assert selects["matchLabels"] == {"app.kubernetes.io/name": "npctl", "app.kubernetes.io/component": "operator"}
        assert selects["matchLabels"].items() <= labels.items()
    assert budget["spec"]["maxUnavailable"] == 1
    (container,) = _pod(objects, "Deployment")["containers"]
    assert container["command"] == ["npctl"]
    assert container["args"] == ["operator", "--namespace", "$(POD_NAMESPACE)", "--name", "$(POD_NAME)", "--http", ":9435"]
    assert {e["name"] for e in container["env"]} == {"POD_NAMESPACE", "POD_NAME"}


def test_the_agent_is_told_its_node_and_runs_on_every_one() -> None:
    pod = _pod(rendered(), "DaemonSet")
    (container,) = pod["containers"]
    assert container["args"] == [
        *("agent", "--node", "$(NODE_NAME)", "--pod", "$(POD_NAMESPACE)/$(POD_NAME)", "--http", ":9436"),
        *("--established", "cut", "--accept", "return", "--mark", "0x40000"),
    ]
    fields = {e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] for e in container["env"]}
    assert fields == {"NODE_NAME": "spec.nodeName", "POD_NAMESPACE": "metadata.namespace", "POD_NAME": "metadata.name"}
    assert (pod["tolerations"], pod["nodeSelector"]) == ([{"operator": "Exists"}], {"kubernetes.io/os": "linux"})
    assert pod["priorityClassName"] == "system-node-critical"


def test_what_is_chosen_reaches_the_programs() -> None:
    objects = rendered(*VALUES["everything chosen"])
    (agent,) = _pod(objects, "DaemonSet")["containers"]
    (operator,) = _pod(objects, "Deployment")["containers"]
    options = ("--backend", "--established", "--accept", "--mark", "--guard", "--http")
    chosen = ["legacy", "keep", "accept", "0x80000000", "enforce", ":19436"]
    assert [_words(agent, option) for option in options] == chosen
    assert _words(operator, "--http") == ":19435"
    for container in (agent, operator):
        assert container["image"] == "images.example:5000/net/npctl@sha256:" + "0123456789abcdef" * 4
        server = {e["name"]: e["value"] for e in container["env"] if "value" in e}
        assert server == {"KUBERNETES_SERVICE_HOST": "172.31.7.100", "KUBERNETES_SERVICE_PORT": "6443"}
        for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"] == {"path": path, "port": "http"}
    for kind, port in (("DaemonSet", "19436"), ("Deployment", "19435")):
        (found,) = of_kind(objects, kind)
        metadata = found["spec"]["template"]["metadata"]
        assert metadata["annotations"]["prometheus.io/port"] == port
        assert metadata["labels"]["team"] == "net"


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_the_programs_know_every_option_that_they_are_given(kind: str) -> None:
    (container,) = _pod(rendered(*VALUES["everything chosen"]), kind)["containers"]
    known = subprocess.run(
        [*NPCTL, container["args"][0], "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert [word for word in container["args"] if word.startswith("--") and f"{word} " not in known] == []


def test_helm_installs_it_once_upgrades_it_and_takes_it_away(start_api: Callable[..., Cluster]) -> None:
    cluster = start_api()
    where = (str(CHART), f"--kubeconfig={cluster.kubeconfig}", "--namespace")
    # The lab has applied the chart's rights already, without helm.
    done = helm("install", RELEASE, *where, NAMESPACE, "--take-ownership")
    assert done.returncode == 0, done.stderr
    assert "2 operators, and an agent on every node" in done.stdout

    second = helm("install", "second", *where, "elsewhere", "--create-namespace")
    assert "exists and cannot be imported into the current release" in second.stderr

    done = helm("upgrade", RELEASE, *where, NAMESPACE, "--reset-then-reuse-values", "--set", "agent.cleanup=true")
    assert done.returncode == 0, done.stderr
    assert "Wait until it is done everywhere, then uninstall" in done.stdout
    agents = cluster.get("daemonset/npctl-agent", "-n", NAMESPACE)["spec"]["template"]["spec"]
    assert [c["name"] for c in agents["initContainers"]] == ["cleanup"]

    done = helm("uninstall", RELEASE, *where[1:], NAMESPACE)
    assert done.returncode == 0, done.stderr
    kinds = "deployments,daemonsets,poddisruptionbudgets,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    kinds += ",validatingadmissionpolicies,validatingadmissionpolicybindings"
    assert cluster.items(kinds, "-A", "-l", "app.kubernetes.io/name=npctl") == []
    definitions = cluster.items("crd", "-l", "app.kubernetes.io/name=npctl")
    assert len(definitions) == 3, "what agents and people have is not taken away with the programs"


def test_before_uninstalling_the_agents_clean_up_and_enforce_no_more() -> None:
    pod = _pod(rendered("agent.cleanup=true"), "DaemonSet")
    (cleanup,) = pod["initContainers"]
    assert (cleanup["command"], cleanup["args"]) == (["npctl"], ["agent", "cleanup"])
    assert [c["name"] for c in pod["containers"]] == ["done"]


def test_every_object_says_whose_it_is() -> None:
    for data in itertools.chain.from_iterable(rendered(*values) for values in VALUES.values()):
        labels = data["metadata"]["labels"]
        assert (labels["app.kubernetes.io/name"], labels["app.kubernetes.io/instance"]) == ("npctl", "npctl"), data["metadata"]
