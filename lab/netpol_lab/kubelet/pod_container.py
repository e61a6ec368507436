"""What a pod's container is to be run as, when it is npctl's own: arguments, environment, mounts and probe, from the pod's spec.

In: a Pod as the API server has it, and where it was placed. Out: a frozen `PodProgram`. Other containers are not run: the lab
only listens on their ports. Pure; `pod_programs` runs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from netpol_compiler.model.addresses import Address
from netpol_compiler.model.objects import Key
from netpol_lab.errors import LabError

Json = Mapping[str, Any]
Addresses = tuple[Address, ...]

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PROGRAM = "npctl"
DEFAULT_GRACE_SECONDS = 30.0
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
_INDEXED = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """An HTTP probe of a container. Times are in seconds."""

    address: Address
    port: int
    path: str
    period: float
    timeout: float
    failures: int


@dataclass(frozen=True, slots=True)
class HostPath:
    """A file or folder of the node: `path` on the node appears at `mount` in the container."""

    path: str
    mount: str
    is_file: bool


@dataclass(frozen=True, slots=True)
class PodProgram:
    """One container that is run as a process.

    `account`: the service account whose token it gets, empty for none; `restart`: Always, OnFailure or Never; `grace`: seconds.
    """

    key: Key
    uid: str
    node: str
    netns: str
    host_network: bool
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    account: str
    host_paths: tuple[HostPath, ...]
    readiness: HttpProbe | None
    restart: str
    grace: float

    @property
    def name(self) -> str:
        """As `Processes` calls it."""
        return str(self.key)


def program_container(pod: Json) -> Json | None:
    """The container that runs npctl; None where there is none."""
    for container in (pod.get("spec") or {}).get("containers") or ():
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        if words and str(words[0]).rpartition("/")[2] == PROGRAM:
            return dict(container)
    return None


def read_program(pod: Json, netns: str, own: Addresses, host: Addresses, defaults: Mapping[str, str]) -> PodProgram:
    """The pod's program. `own` and `host` are the pod's and its node's addresses; `defaults` is what the kubelet puts into env.

    Raises LabError for what the lab cannot give to it.
    """
    container = program_container(pod)
    if container is None:
        raise LabError("no container of it runs npctl")
    metadata, spec = pod["metadata"], pod["spec"]
    env = _environment(container, _Fields(pod, own, host), defaults)
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    mounts = {str(m.get("mountPath")).rstrip("/"): m for m in container.get("volumeMounts") or ()}
    return PodProgram(
        key=Key(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        node=spec["nodeName"],
        netns=netns,
        host_network=bool(spec.get("hostNetwork")),
        arguments=tuple(_with_references(str(word), env) for word in words[1:]),
        env=env,
        account=str(spec.get("serviceAccountName") or "default") if SERVICE_ACCOUNT in mounts else "",
        host_paths=_host_paths(spec, mounts),
        readiness=_probe(container, own),
        restart=str(spec.get("restartPolicy") or "Always"),
        grace=float(spec.get("terminationGracePeriodSeconds") or DEFAULT_GRACE_SECONDS),
    )


class _Fields:
    """The downward API: what a container may ask of its own pod."""

    def __init__(self, pod: Json, own: Addresses, host: Addresses) -> None:
        self._pod = pod
        self._values: dict[str, Callable[[], str]] = {
            "metadata.name": lambda: pod["metadata"]["name"],
            "metadata.namespace": lambda: pod["metadata"]["namespace"],
            "metadata.uid": lambda: pod["metadata"]["uid"],
            "spec.nodeName": lambda: pod["spec"]["nodeName"],
            "spec.serviceAccountName": lambda: pod["spec"].get("serviceAccountName") or "default",
            "status.hostIP": lambda: host[0].text,
            "status.hostIPs": lambda: ",".join(a.text for a in host),
            "status.podIP": lambda: own[0].text,
            "status.podIPs": lambda: ",".join(a.text for a in own),
        }

    def value(self, path: str) -> str:
        """Raises LabError for a field that pods do not have."""
        if path in self._values:
            return self._values[path]()
        if match := _INDEXED.fullmatch(path):
            return str((self._pod["metadata"].get(match[1]) or {}).get(match[2], ""))
        raise LabError(f"the lab knows no field {path!r} of a pod")


def _environment(container: Json, fields: _Fields, defaults: Mapping[str, str]) -> dict[str, str]:
    env = dict(defaults)
    if container.get("envFrom"):
        raise LabError("the lab does not read envFrom")
    for item in container.get("env") or ():
        source = item.get("valueFrom")
        if source is None:
            env[item["name"]] = _with_references(str(item.get("value") or ""), env)
        elif "fieldRef" in source:
            env[item["name"]] = fields.value(source["fieldRef"]["fieldPath"])
        else:
            raise LabError(f"env {item['name']}: the lab gives values and fieldRef, not {', '.join(source)}")
    return env


def _with_references(text: str, env: Mapping[str, str]) -> str:
    """`text` with $(NAME) replaced; $$ is one dollar sign; a name that is not known stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else env.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)


def _host_paths(spec: Json, mounts: Mapping[str, Json]) -> tuple[HostPath, ...]:
    volumes = {v["name"]: v["hostPath"] for v in spec.get("volumes") or () if v.get("hostPath")}
    return tuple(
        HostPath(volumes[m["name"]]["path"], mount, str(volumes[m["name"]].get("type") or "").startswith("File"))
        for mount, m in mounts.items()
        if m["name"] in volumes
    )


def _probe(container: Json, own: Addresses) -> HttpProbe | None:
    probe = container.get("readinessProbe")
    if probe is None:
        return None
    action = probe.get("httpGet")
    if action is None or action.get("scheme", "HTTP") != "HTTP" or action.get("host"):
        raise LabError("readinessProbe: the lab asks by httpGet over HTTP, of the pod itself")
    port = action.get("port")
    if isinstance(port, str):
        named = [p["containerPort"] for p in container.get("ports") or () if p.get("name") == port]
        if not named:
            raise LabError(f"readinessProbe: the container has no port {port!r}")
        port = named[0]
    return HttpProbe(
        address=own[0],
        port=int(port),
        path=str(action.get("path") or "/"),
        period=float(probe.get("periodSeconds") or 10),
        timeout=float(probe.get("timeoutSeconds") or 1),
        failures=int(probe.get("failureThreshold") or 3),
    )


__all__ = ["HostPath", "HttpProbe", "PodProgram", "program_container", "read_program"]
