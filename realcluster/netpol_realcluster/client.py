"""The one way to a real cluster, for `./dev cluster` and for tests: starts it, ends it, runs programs in it.

    with RealCluster(folder) as cluster: ...      ends with the block, and with the process, however that ends
    RealCluster(folder).up(...); .let_go()        stays until somebody calls `down`

Needs root: kubelets and containers need more than a user namespace gives. Every method raises LabError with a text for people.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from netpol_lab import machine
from netpol_lab.control import kubernetes_bin
from netpol_lab.control.forward import loopback_listener
from netpol_lab.errors import LabError, LabLacksPrograms, LabMissing, LabTimeout
from netpol_realcluster import guardian, plan
from netpol_realcluster.networks.choice import DEFAULT, NETWORKS
from netpol_realcluster.nodes import cgroups, pids
from netpol_realcluster.nodes.node import importer

DOWN_LIMIT = 120.0
"""A busy machine takes a while to end some hundred processes; an idle one a second or two."""
_POLL = 0.02
_PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "busybox": "busybox-static",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "iptables": "iptables",
    "openssl": "openssl",
    "conntrack": "conntrack",
}
_CNI = Path("/usr/lib/cni/bridge")


def default_folder() -> Path:
    """Of the cluster that `./dev cluster up` starts: one for each user."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state.startswith("/") else Path.home() / ".local" / "state") / "npctl" / "cluster"


def why_not(network: str = DEFAULT) -> LabError | None:
    """Why no real cluster with that pod network can run here; None when it can."""
    if os.geteuid() != 0:
        return LabError("a cluster with real nodes needs root, for kubelets and containers: start it as root")
    pods = NETWORKS[network]()
    packages = {**_PACKAGES, **pods.programs}
    missing = [p for p in packages if not shutil.which(p, path=machine.search_path())]
    wanted = [*(packages[p] for p in missing), *([] if _CNI.exists() else ["containernetworking-plugins"])]
    if wanted:
        return LabLacksPrograms(
            f"a cluster with real nodes needs packages that `./dev cluster build` installs: {' '.join(dict.fromkeys(wanted))}"
        )
    if pods.trial and (refused := _refused(pods.trial)):
        return LabError(f"the kernel lacks what {network} needs: `{' '.join(pods.trial)}` fails: {refused}; load its module")
    try:
        kubernetes_bin.find()
        plan.node_programs()
    except LabError as error:
        return error
    return None


def _refused(trial: Sequence[str]) -> str:
    """What a command says that fails in a network namespace of its own; empty when it does not."""
    command = ["unshare", "--net", "--", *trial]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": machine.search_path()}, check=False)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


class RealCluster:
    """The cluster in `folder`. Making the object does nothing yet."""

    def __init__(self, folder: Path | None = None, **up: Any) -> None:
        """`up`: options of `up`, for the use as a context manager."""
        self.folder = folder or default_folder()
        self._options = up
        self._hold: int | None = None
        self._guardian: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RealCluster:
        self.up(**self._options)
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def kubeconfig(self) -> Path:
        """An administrator's, for this machine."""
        return self.folder / "kubeconfig"

    def is_up(self) -> bool:
        return self._pid() is not None

    # ---- up and down -------------------------------------------------------------------------------------------------

    def up(
        self,
        *,
        nodes: int = 2,
        network: str = DEFAULT,
        images: Iterable[Path] = (),
        logs: Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Start a cluster that ends with this process, unless `let_go` is called; returns when nodes are Ready and DNS answers.

        `images`: Docker archives that pods may run besides. `logs`: where the programs' logs go at the end.
        On any error nothing is left.
        """
        if network not in NETWORKS:
            raise LabError(f"no network {network!r}; there are {', '.join(NETWORKS)}")
        if problem := why_not(network):
            raise problem
        more = ["--programs", str(plan.node_programs()), "--nodes", str(nodes), "--network", network]
        more += ["--logs", str(logs)] if logs else []
        with self._alone():
            if self.is_up():
                raise LabError(f"a cluster is up already in {self.folder}; `./dev cluster down` ends it")
            guardian.clean(self.folder)
            self.folder.mkdir(parents=True, mode=0o700)
            for part in ("logs", plan.ARCHIVES.name):
                (self.folder / part).mkdir()
            more += [word for archive in images for word in ("--image", stage(self.folder, archive).name)]
            try:
                status = self._start(more)
            except BaseException:
                self.down()
                raise
        try:
            with status:
                self._wait_ready(status, progress)
        except BaseException:
            # Also for Ctrl-C: half a cluster is no use to anybody.
            self.down()
            raise

    def _start(self, more: Sequence[str]) -> TextIO:
        """Returns what the cluster says of itself."""
        held, self._hold = os.pipe()
        told, status = os.pipe()
        door = loopback_listener()
        passed = (held, status, door.fileno())
        options = ["--dir", self.folder, "--hold", held, "--status", status, "--door", door.fileno(), *more]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONUNBUFFERED": "1"}
        with open(self.folder / "logs" / "supervisor.log", "ab") as log:
            self._guardian = subprocess.Popen(
                [sys.executable, "-m", "netpol_realcluster.guardian", *map(str, options)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=passed,
                env=env,
                cwd="/",
            )
        door.close()
        os.close(held)
        os.close(status)
        pid = self._guardian.pid
        (self.folder / "guardian").write_text(json.dumps({"pid": pid, "since": pids.since(pid)}))
        return os.fdopen(told, encoding="utf-8")

    def _wait_ready(self, status: TextIO, progress: Callable[[str], None] | None) -> None:
        for line in status:
            told = json.loads(line)
            if "error" in told:
                raise LabError(told["error"])
            if "ready" in told:
                return
            if progress:
                progress(told["progress"])
        log = self.folder / "logs" / "supervisor.log"
        words = log.read_text(errors="replace").strip() if log.exists() else ""
        raise LabError(f"the cluster ended while it started: {words or 'without a word'}")

    def let_go(self) -> None:
        """From now on the cluster stays when this process ends."""
        if self._hold is not None:
            os.write(self._hold, b"x")
            os.close(self._hold)
            self._hold = None

    def down(self) -> None:
        """End the cluster; nothing is left of it on return. No error when there is none. Raises LabTimeout."""
        pid = self._pid()
        if self._hold is not None:
            os.close(self._hold)
            self._hold = None
        elif pid:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_LIMIT
        # A guardian of ours is also waited for when its folder, and with it what we know of it, is gone.
        while (pid and self._pid() == pid) or (self._guardian and self._guardian.poll() is None):
            if time.monotonic() > deadline:
                raise LabTimeout(f"the cluster in {self.folder} does not end within {DOWN_LIMIT:g} s")
            time.sleep(_POLL)
        self._guardian = None
        # What is left when a guardian was killed.
        guardian.clean(self.folder)

    def _pid(self) -> int | None:
        """The guardian's process id, if it runs."""
        try:
            noted = json.loads((self.folder / "guardian").read_text())
        except (OSError, ValueError):
            return None
        return int(noted["pid"]) if pids.since(noted["pid"]) == noted["since"] else None

    def guardian_pid(self) -> int:
        """From which all processes of the cluster descend. Raises LabMissing."""
        if (pid := self._pid()) is None:
            raise LabMissing(f"no cluster runs in {self.folder}; `./dev cluster up` starts one")
        return pid

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else starts a cluster beside ours in that moment."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    # ---- programs in it ----------------------------------------------------------------------------------------------

    def inside(self, place: str) -> list[str]:
        """The words before a command that is to run on a node (by its name), on "api", or on "outside"."""
        node = self._node(place)
        enter = ["nsenter", f"--target={self._first()}", "--mount", "--pid", f"--net={self.netns(place)}", "--"]
        if node.is_dir():
            spaces = f"/proc/{(node / 'pid').read_text()}/ns"
            enter += ["nsenter", f"--mount={spaces}/mnt", f"--uts={spaces}/uts", "--"]
        return enter

    def netns(self, place: str) -> Path:
        """The file of a machine's network namespace, as this machine calls it."""
        kind = "node" if self._node(place).is_dir() else "host"
        return Path("/proc", str(self._first()), "root", "run", "netns", f"{kind}-{place}")

    def node_root(self, node: str) -> Path:
        """The node's file system with its own mounts, as this machine calls it."""
        inner = (self._node(node) / "pid").read_text()
        return Path("/proc", str(self._first()), "root", "proc", inner, "root")

    def _node(self, name: str) -> Path:
        return self.folder / "nodes" / name

    def _first(self) -> int:
        """The first process of the cluster's namespaces."""
        return pids.only_child(pids.only_child(self.guardian_pid()))

    def control(self, program: str, action: str) -> int | None:
        """Do one of `netpol_lab.processes.ACTIONS` to a program, such as etcd or kubelet-172.31.7.111.

        Returns its process id inside the cluster; None when it does not run now. Raises LabError.
        """
        self.guardian_pid()
        # By the descriptor's short name: a socket's path has a limit of 107 letters, and the folder's may be longer.
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as wire:
                wire.settimeout(DOWN_LIMIT)
                wire.connect(f"/proc/self/fd/{folder}/{plan.CONTROL}")
                wire.sendall(json.dumps({"program": program, "action": action}).encode() + b"\n")
                told = json.loads(wire.makefile().readline() or '{"error": "the cluster has just ended"}')
        except OSError as error:
            raise LabError(f"the cluster in {self.folder} does not obey: {error}") from error
        finally:
            os.close(folder)
        if "error" in told:
            raise LabError(told["error"])
        pid: int | None = told["pid"]
        return pid

    def run(self, place: str, *command: str, limit: float = 60) -> subprocess.CompletedProcess[str]:
        """A command on a machine of the cluster, whatever comes of it."""
        return subprocess.run([*self.inside(place), *command], capture_output=True, text=True, timeout=limit, check=False)

    def nodes(self) -> list[str]:
        """The nodes' names, which are their addresses."""
        return sorted(node.name for node in (self.folder / "nodes").iterdir())

    def load(self, archive: Path) -> None:
        """Let pods on every node run the images of a Docker archive. Raises LabError."""
        staged = plan.ARCHIVES / stage(self.folder, archive).name
        for node in self.nodes():
            done = self.run(node, *importer(node), str(staged), limit=300)
            if done.returncode:
                raise LabError(f"importing {archive} on node {node} failed: {done.stderr.strip()}")

    @property
    def environment(self) -> Mapping[str, str]:
        """For programs that are to find the cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": machine.search_path()}

    def cgroup_folders(self) -> list[Path]:
        """The control groups that there are of it."""
        return cgroups.present(cgroups.group_of(self.folder))


def stage(folder: Path, archive: Path) -> Path:
    """A copy of the archive in the cluster's folder, where nodes can read it."""
    target = folder / plan.ARCHIVES.name / archive.name
    shutil.copy(archive, target)
    return target
