"""One node: a network namespace with mounts and a host name of its own, containerd, kubelet and kube-proxy in it.

In: the node's name and address, who it is to the API server. Out: a Node that the API server knows. Everything that the programs
write is below the node's own /var (a folder of the cluster's), /run and /tmp (in memory); nothing reaches the machine's.
The pod network is not here: the node is Ready when `network` has written its CNI configuration.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from netpol_lab.control.control_plane import options_of
from netpol_lab.errors import LabError
from netpol_lab.network import wiring
from netpol_lab.network.netns import Namespaces
from netpol_lab.processes import Processes
from netpol_lab.topology.model import LabNode
from netpol_realcluster import plan
from netpol_realcluster.nodes import cgroups, images
from netpol_realcluster.nodes.waiting import until

SOCKET = Path("/run/containerd/containerd.sock")
_VAR = ("lib/kubelet", "lib/containerd", "lib/cni", "log/pods", "log/containers", "tmp", "cache")
_MOUNTS = """
    here=$1/nodes/$2
    mount -n -t tmpfs -o mode=755 tmpfs "$here/run"
    mkdir -p "$here/run/containerd" "$here/run/lock" "$here/run/cluster"
    mount -n --rbind "$1" "$here/run/cluster"
    mount -n --move "$here/run" /run
    mount -n --bind "$1/nodes/$2/var" /var
    mount -n -t tmpfs -o mode=1777 tmpfs /tmp
    # Volumes that a pod mounts for others ask for mounts that are shared: between the processes of this node.
    mount -n --make-rshared /
    hostname "$2"
    touch /run/cluster/nodes/"$2"/ready
    exec sleep infinity
"""
_LIMIT = 60.0


class Node:
    """`make`, then `start_containerd`, `load` what it needs, then `start_kubelet` and `start_proxy`."""

    def __init__(self, spaces: Namespaces, processes: Processes, node: LabNode, cgroup: str) -> None:
        self._spaces = spaces
        self._processes = processes
        self._cgroup = f"{cgroup}/{node.name}"
        self.node = node
        self.folder = plan.FOLDER / "nodes" / node.name
        """Also the programs of the node call it so."""

    @property
    def name(self) -> str:
        return self.node.name

    def make(self) -> None:
        """The namespaces; the wire to the other machines is there already."""
        for part in _VAR:
            (self.folder / "var" / part).mkdir(parents=True)
        for part in ("run", "cni"):
            (self.folder / part).mkdir()
        (self.folder / "var" / "run").symlink_to("/run")
        self._spaces.sysctl(self.node.netns, {**wiring.FORWARDING, **wiring.BRIDGE_FILTER})
        cgroups.make(self._cgroup)
        script = textwrap.dedent(_MOUNTS)
        command = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-euc", script, "sh"]
        holder = self._processes.start(self._program("node"), [*command, str(plan.FOLDER), self.name], self.node.netns)
        self.write("pid", str(holder.pid))
        self.wait((self.folder / "ready").exists, "the node's own mounts", "node")

    def start_containerd(self) -> None:
        """Returns when it answers."""
        snapshotter = self._snapshotter()
        self.write("import", f'exec ctr --namespace k8s.io images import --snapshotter {snapshotter} "$1"\n')
        values = {"state": SOCKET.parent, "cni": self.folder / "cni", "pause": images.PAUSE, "snapshotter": snapshotter}
        config = self.write("containerd.toml", _CONTAINERD.format(**values))
        self.start("containerd", ["containerd", "--config", config])
        self.wait(lambda: self._runs(["ctr", "version"]), "containerd answers", "containerd")

    def _snapshotter(self) -> str:
        """Overlays, where the file system of the cluster's folder lets them be; else whole copies."""
        trial = self.folder / "trial"
        for part in ("lower", "upper", "work", "all"):
            (trial / part).mkdir(parents=True)
        options = ",".join(f"{name}dir={trial / name}" for name in ("lower", "upper", "work"))
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(trial / "all")]
        return "overlayfs" if self._runs(mount) and self._runs(["umount", str(trial / "all")]) else "native"

    def load(self, archive: Path) -> None:
        """Import the images of a Docker archive. Raises LabError."""
        self.run([*importer(self.name), str(archive)])

    def start_kubelet(self, kubeconfig: str, clients: Path) -> None:
        """`clients`: the certificate of who may ask it things besides those whom the API server vouches for. Does not wait."""
        config = self.write("kubelet.yaml", yaml.safe_dump(self._kubelet_config(clients)))
        options = {
            "config": config,
            "kubeconfig": self.write("kubelet.conf", kubeconfig),
            "hostname-override": self.name,
            "node-ip": self.name,
            "v": 1,
        }
        self.start("kubelet", [str(plan.BINARIES / "kubelet"), *options_of(options)])

    def _kubelet_config(self, clients: Path) -> dict[str, Any]:
        (self.folder / "resolv.conf").touch()
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"x509": {"clientCAFile": str(clients)}, "anonymous": {"enabled": False}},
            "authorization": {"mode": "Webhook"},
            "clusterDomain": plan.DOMAIN,
            "clusterDNS": [plan.DNS_ADDRESS.text],
            "resolvConf": str(self.folder / "resolv.conf"),
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "enforceNodeAllocatable": ["pods"],
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            # What is imported cannot be pulled again, and a disk that is nearly full is no reason to end pods.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {f"{what}.available": "0%" for what in ("memory", "nodefs", "imagefs")} | {"nodefs.inodesFree": "0%"},
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        }

    def start_proxy(self, kubeconfig: str) -> None:
        """kube-proxy in the mode iptables; does not wait. Limits of conntrack belong to the machine, so that it sets none."""
        config = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": plan.POD_NETWORK,
            "hostnameOverride": self.name,
            "oomScoreAdj": 0,
            "clientConnection": {"kubeconfig": self.write("kube-proxy.conf", kubeconfig)},
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                **{f"tcp{state}Timeout": "0s" for state in ("Established", "CloseWait")},
                **{f"udp{kind}Timeout": "0s" for kind in ("", "Stream")},
            },
        }
        path = self.write("kube-proxy.yaml", yaml.safe_dump(config))
        self.start("kube-proxy", [str(plan.BINARIES / "kube-proxy"), f"--config={path}"])

    def write(self, name: str, text: str) -> str:
        """A file of the node's; returns its path as the node's programs call it."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def write_cni(self, plugins: Sequence[Mapping[str, Any]]) -> None:
        """From now on the node's pods have a network, and it becomes Ready.

        By a rename inside that folder: containerd watches it, and a file that comes from another folder goes unnoticed.
        """
        content = {"cniVersion": "0.3.1", "name": "cbr0", "plugins": list(plugins)}
        part = Path(self.write("cni/10-pods.part", json.dumps(content)))
        part.rename(self.folder / "cni" / "10-pods.conflist")

    def start(self, program: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start one of the node's programs, in its network and with its mounts."""
        # Nothing of the caller's environment: a proxy in it would be asked for pods.
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", **(env or {})}
        self._processes.start(self._program(program), [*self._enter(), *command], self.node.netns, environment)

    def run(self, command: Sequence[str]) -> str:
        """What a command prints that runs in the node. Raises LabError when it fails."""
        return self._spaces.run(self.node.netns, [*self._enter(), *command])

    def wait(self, good: Callable[[], bool], what: str, program: str) -> None:
        """Wait for what `program` is to bring about. Raises LabError, LabTimeout with the end of its log."""
        until(good, f"{what} on node {self.name}", _LIMIT, self._processes, self._program(program))

    def _runs(self, command: Sequence[str]) -> bool:
        try:
            self.run(command)
        except LabError:
            return False
        return True

    def _enter(self) -> list[str]:
        spaces = f"/proc/{self._processes.pid(self._program('node'))}/ns"
        return ["nsenter", f"--mount={spaces}/mnt", f"--uts={spaces}/uts", "--"]

    def _program(self, program: str) -> str:
        return f"{program}-{self.name}"


def importer(name: str) -> list[str]:
    """The command that imports an archive, whose path comes behind it, on the node of that name."""
    return ["sh", str(plan.FOLDER / "nodes" / name / "import")]


_CONTAINERD = """\
version = 2
root = "/var/lib/containerd"
state = "{state}"
[grpc]
  address = "{state}/containerd.sock"
# Else it makes a folder in the machine's own /opt.
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without the right CAP_SYS_RESOURCE runc cannot make a pod harder to kill than we are.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
