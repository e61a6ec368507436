"""The walkthrough of examples/ on a real cluster: images for its pods, the world around it, a driver for its scenario.

In: a cluster of three nodes with npctl on it. Out: a `Driver` of netpol_lab.scenarios.cases, whose packets go between real pods,
through kube-proxy and CoreDNS. Addresses that the examples give to nodes and pods become those that they have here.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kubectl import Kubectl
from netpol_lab.errors import LabError
from netpol_lab.scenarios.cases import Manifest, Seen
from netpol_lab.scenarios.scenario import Check
from netpol_realcluster import plan
from netpol_realcluster.client import RealCluster
from netpol_realcluster.cluster import coredns
from netpol_realcluster.nodes import images, pids
from netpol_realcluster.nodes.images import Image
from netpol_realcluster.trials import endpoints
from netpol_realcluster.trials.endpoints import Place
from netpol_realcluster.trials.in_force import npctl

DNS, WORLD = "172.31.7.106", "203.0.113.10"
_NAME = "www.example.com"
_LIBRARY = "docker.io/library"
_TOMCAT, _NGINX, _CENTOS = f"{_LIBRARY}/tomcat:9.0", f"{_LIBRARY}/nginx:1.28", f"{_LIBRARY}/centos:7.9.2009"
_ADDRESS = "cni.projectcalico.org/ipAddrs"
_SETTLED = 10.0


# ---- images ----------------------------------------------------------------------------------------------------------


def make_images(folder: Path) -> list[Path]:
    """Archives of what the walkthrough's pods run, by the names that they call it by. Raises LabError without Debian's nginx."""
    made = []
    for number, image in enumerate((_tomcat(), _nginx(folder), _centos())):
        made.append(folder / f"walkthrough-{number}.tar")
        images.write(image, made[-1])
    return made


def _tomcat() -> Image:
    """A web server at 8080 that says who it is."""
    command = ["/agnhost", "netexec", "--http-port=8080", "--udp-port=-1"]
    return Image(_TOMCAT, {"agnhost": plan.node_programs() / "agnhost"}, {"Entrypoint": command})


def _centos() -> Image:
    return images.shell(_CENTOS)


def _nginx(folder: Path) -> Image:
    """The real one, from Debian's packages, with the libraries that this machine has of it."""
    unpacked = folder / "nginx"
    unpacked.mkdir()
    _run(["apt-get", "download", "nginx", "nginx-common"], folder)
    for package in folder.glob("nginx*.deb"):
        _run(["dpkg-deb", "--extract", str(package), str(unpacked)], folder)
    kept = ("usr/sbin/nginx", "usr/share/nginx/html", "etc/nginx/mime.types", "etc/nginx/nginx.conf")
    files = [f for part in kept for f in ([unpacked / part, *(unpacked / part).rglob("*")]) if f.is_file()]
    libraries = [word for word in _run(["ldd", str(unpacked / kept[0])], folder).split() if word.startswith("/")]
    programs = {str(f.relative_to(unpacked)): f for f in files} | {path[1:]: Path(path).resolve() for path in libraries}
    config = {"Cmd": ["/usr/sbin/nginx", "-g", "daemon off; error_log /dev/stderr;"]}
    users = "root:x:0:0:root:/:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\n"
    accounts = {"etc/passwd": users, "etc/group": "root:x:0:\nwww-data:x:33:\n"}
    return Image(_NGINX, programs, config, texts=accounts, folders=("run", "tmp", "var/log/nginx", "var/lib/nginx"))


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


# ---- the world -------------------------------------------------------------------------------------------------------


@contextmanager
def world(real: RealCluster, kubectl: Kubectl) -> Iterator[None]:
    """Around the cluster: a DNS server at DNS that knows one name, that name's host, and routes to the pods from outside."""
    lines = [f"address replace {DNS}/24 dev {plan.DEVICE}", f"address replace {WORLD}/32 dev lo"]
    lines += [f"route replace {n['spec']['podCIDR']} via {n['metadata']['name']}" for n in kubectl.items("nodes")]
    for line in lines:
        done = real.run(plan.OUTSIDE, "ip", *line.split())
        if done.returncode:
            raise LabError(f"ip {line}: {done.stderr.strip()}")
    corefile = real.folder / "archives" / "Corefile"
    corefile.write_text(f".:53 {{\n  bind {DNS}\n  hosts {{\n    {WORLD} {_NAME}\n  }}\n}}\n")
    command = [str(plan.BINARIES / "coredns"), "-conf", str(plan.ARCHIVES / corefile.name)]
    # It ends with the command that has started it, should that be killed.
    server = subprocess.Popen([*real.inside(plan.OUTSIDE), "setpriv", "--pdeathsig", "KILL", *command], stdout=subprocess.DEVNULL)
    try:
        _tell_coredns(kubectl, DNS)
        yield
    finally:
        # The server itself, so that nsenter takes its end. Left behind, it would wait for a first process of this
        # machine that may take nobody's, and the cluster's namespaces would never end.
        os.kill(pids.only_child(server.pid), signal.SIGKILL)
        server.wait()
        _tell_coredns(kubectl, "")


def _tell_coredns(kubectl: Kubectl, beyond: str) -> None:
    kubectl("apply", "-f", "-", objects=map(dict, coredns.objects(beyond)))
    for verb in (("restart",), ("status", "--timeout=50s")):
        kubectl("rollout", *verb, f"deployment/{coredns.NAME}", f"--namespace={coredns.NAMESPACE}")


# ---- the driver ------------------------------------------------------------------------------------------------------


class RealDriver:
    """A Driver. What it applies must be in force before a connection is judged."""

    simulated = False

    def __init__(self, real: RealCluster, kubectl: Kubectl) -> None:
        self._real = real
        self._kubectl = kubectl
        self._here: dict[str, str] = {}
        self._places: dict[str, Place] = {}
        self._labelled = False

    def apply(self, manifests: Sequence[Manifest]) -> None:
        nodes = [m for m in manifests if m["kind"] == "Node"]
        rest = [m for m in manifests if m["kind"] != "Node"]
        policies = [m for m in rest if m["kind"] == "NetworkPolicy"]
        self._kubectl("apply", "-f", "-", objects=[self._translated(m) for m in rest])
        if len(rest) > len(policies):
            self._wait_for_workloads(rest)
            self._learn(nodes, rest)
        self._npctl_wait(policies)

    def delete(self, manifests: Sequence[Manifest]) -> None:
        self._kubectl("delete", "--ignore-not-found", "-f", "-", objects=map(dict, manifests))
        self._npctl_wait(manifests, "--for=delete")

    def label(self, pod: str, labels: Mapping[str, str | None]) -> None:
        namespace, name = self.place(pod).name.split("/")
        words = [f"{k}-" if v is None else f"{k}={v}" for k, v in labels.items()]
        self._kubectl("label", "pod", name, f"--namespace={namespace}", "--overwrite", *words)
        self._labelled = True

    def labels(self, pod: str) -> Mapping[str, str]:
        namespace, name = self.place(pod).name.split("/")
        text = self._kubectl("get", "pod", name, f"--namespace={namespace}", "--output=jsonpath={.metadata.labels}")
        found: dict[str, str] = json.loads(text)
        return found

    def connect(self, checks: Sequence[Check]) -> list[Seen]:
        seen = self._connect(checks)
        deadline = time.monotonic() + _SETTLED
        # Nobody says when a pod's new labels are in force: what has not come yet is asked for again.
        while self._labelled and time.monotonic() < deadline and (late := [c for c in checks if seen[c].verdict != c.expect]):
            seen |= self._connect(late)
        self._labelled = False
        return [seen[check] for check in checks]

    def place(self, where: str) -> Place:
        """A pod as NAMESPACE/NAME or NAMESPACE/WORKLOAD, node/NAME or host/ADDRESS. Raises LabError."""
        if where not in self._places:
            self._places[where] = self._found(where)
        return self._places[where]

    def exec(self, where: str, *command: str) -> str:
        """What a command prints in a pod. Raises AssertionError when it fails."""
        namespace, name = self.place(where).name.split("/")
        return self._kubectl("exec", name, f"--namespace={namespace}", "--", *command)

    # ---- what is there -----------------------------------------------------------------------------------------------

    def _found(self, where: str) -> Place:
        kind, _, name = where.partition("/")
        if kind in ("node", "host"):
            machines = {plan.ADDRESSES[plan.OUTSIDE]: plan.OUTSIDE}
            return endpoints.machine(self._real, machines.get(name, name))
        there = endpoints.pods(self._real, self._kubectl, kind)
        found = [place for pod, place in there.items() if pod == name or pod.startswith(f"{name}-")]
        if len(found) != 1:
            raise LabError(f"{where}: {len(found)} pods are called so")
        return found[0]

    def _address(self, where: str) -> str:
        kind, _, name = where.partition("/")
        if kind == "svc":
            namespace, _, service = name.partition("/")
            jsonpath = "--output=jsonpath={.spec.clusterIP}"
            return self._kubectl("get", "service", service, f"--namespace={namespace}", jsonpath)
        return name if kind in ("node", "host") else self.place(where).address

    def _wait_for_workloads(self, manifests: Sequence[Manifest]) -> None:
        for manifest in manifests:
            meta = manifest["metadata"]
            within = f"--namespace={meta.get('namespace', 'default')}"
            if manifest["kind"] == "Deployment":
                self._kubectl("rollout", "status", f"deployment/{meta['name']}", within, "--timeout=55s")
            if manifest["kind"] == "Pod":
                self._kubectl("wait", "--for=condition=Ready", f"pod/{meta['name']}", within, "--timeout=55s")
        services = [m for m in manifests if m["kind"] == "Service"]
        targets = [f"{self._address('svc/' + _key(m))}:{port['port']}" for m in services for port in m["spec"]["ports"]]
        for node in map(self.place, (f"node/{name}" for name in self._real.nodes())):
            self._kubectl.until(partial(_served, node, targets), f"{node.name} serves")

    def _learn(self, nodes: Sequence[Mapping[str, Any]], workloads: Sequence[Manifest]) -> None:
        """What the addresses of the examples are here: nodes have other blocks, and pods no addresses of their choice."""
        blocks = {n["metadata"]["name"]: n["spec"]["podCIDR"] for n in self._kubectl.items("nodes")}
        self._here = {n["spec"]["podCIDR"]: blocks[n["metadata"]["name"]] for n in nodes}
        for workload in workloads:
            template = workload.get("spec", {}).get("template", {}).get("metadata", {})
            for address in json.loads(template.get("annotations", {}).get(_ADDRESS, "[]")):
                self._here[f"{address}/32"] = f"{self.place(_key(workload)).address}/32"

    def _translated(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: self._translated(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._translated(v) for v in value]
        return self._here.get(value, value) if isinstance(value, str) else value

    def _npctl_wait(self, policies: Sequence[Manifest], *options: str) -> None:
        for policy in policies:
            meta = policy["metadata"]
            npctl(self._real, "wait", f"networkpolicy/{meta['name']}", f"--namespace={meta['namespace']}", *options)

    # ---- packets -----------------------------------------------------------------------------------------------------

    def _connect(self, checks: Sequence[Check]) -> dict[Check, Seen]:
        """Each source sends all of its own at once, and the sources do so at the same time."""
        asked: dict[str, list[Check]] = {}
        for check in checks:
            asked.setdefault(check.source.where, []).append(check)
        with ThreadPoolExecutor(len(asked) or 1) as threads:
            answers = threads.map(lambda group: asyncio.run(self._ask(self.place(group[0].source.where), group)), asked.values())
            return {check: seen for group in answers for check, seen in group.items()}

    async def _ask(self, place: Place, checks: Sequence[Check]) -> dict[Check, Seen]:
        async def one(check: Check) -> Seen:
            if check.resolve:
                addresses = await place.lookup(plan.DNS_ADDRESS, check.resolve)
                return Seen("refused", "none") if addresses is None else Seen("allowed", "data" if addresses else "unknown")
            (answer,) = await place.ask(f"{self._address(check.target.where)}:{check.port_text}")
            return Seen(answer.verdict, answer.detail or answer.answer)

        return dict(zip(checks, await asyncio.gather(*map(one, checks)), strict=True))


def _served(place: Place, targets: Sequence[str]) -> bool:
    """With data, since a Service whose pods a node does not know yet answers with a reset."""
    return all(answer.answer == "data" for answer in place.answers(*targets))


def _key(manifest: Manifest) -> str:
    return f"{manifest['metadata'].get('namespace', 'default')}/{manifest['metadata']['name']}"
