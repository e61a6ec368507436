"""However a cluster ends, nothing is left of it on this machine: no process, namespace, mount, control group or folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from host import host_state
from netpol_realcluster.client import RealCluster
from netpol_realcluster.nodes import pids
from until import until

OWNER = """
import sys
from pathlib import Path
from netpol_realcluster.client import RealCluster
with RealCluster(Path(sys.argv[1]), nodes=1, progress=lambda text: print(text, flush=True)):
    print("up", flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Seen:
    """What there was of a running cluster. Processes by number and start, networks by the kernel's names for them."""

    processes: frozenset[tuple[int, str]]
    networks: frozenset[str]

    @staticmethod
    def of(cluster: RealCluster) -> Seen:
        found = pids.below(cluster.guardian_pid())
        links = {link for pid, _ in found if (link := _network(pid))} - {_network(os.getpid())}
        return Seen(frozenset(found), frozenset(links))

    def left(self) -> list[object]:
        """What there still is of that. A network without processes needs a mount, and those are looked at besides."""
        everyone = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        alive = [(pid, since) for pid, since in self.processes if pids.since(pid) == since]
        return [*alive, *({_network(pid) for pid in everyone} & self.networks)]


def _network(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def _groups(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return []


def _nothing_left(seen: Seen, before: dict[str, str], cluster: RealCluster, limit: float = 60) -> None:
    """Return when all is as before; the end of one that is killed takes a moment. Raises AssertionError."""

    def left() -> list[object]:
        now = host_state()
        changed = [key for key in {**before, **now} if now.get(key) != before.get(key)]
        return [*seen.left(), *cluster.cgroup_folders(), *changed, *([cluster.folder] if cluster.folder.exists() else [])]

    until(left, limit, "all is as before", good=lambda found: not found)


@pytest.fixture
def owner(possible: Callable[[str], None], tmp_path: Path) -> Callable[[str], tuple[subprocess.Popen[str], RealCluster]]:
    """A process that owns a cluster, as soon as it has said so much: `owner("up")`."""

    def start(word: str) -> tuple[subprocess.Popen[str], RealCluster]:
        folder = tmp_path / "cluster"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        assert process.stdout
        told = next((line for line in process.stdout if word in line), None)
        assert told, "the owner has ended"
        return process, RealCluster(folder)

    return start


def test_down_leaves_nothing(start: Callable[..., RealCluster]) -> None:
    before = host_state()
    cluster = start()
    seen = Seen.of(cluster)
    # What is looked for at the end is there now: else this could not fail.
    assert len(seen.processes) > 10 and len(seen.networks) > 3
    assert cluster.cgroup_folders()
    ours = Path("/proc/self/cgroup").read_text()
    elsewhere = [line for pid, _ in seen.processes for line in _groups(pid) if line not in ours and "/npctl-" not in line]
    assert elsewhere == []
    cluster.down()
    _nothing_left(seen, before, cluster, limit=0)


@pytest.mark.parametrize("moment", ["starting the nodes", "up"])
def test_an_owner_that_is_killed_leaves_nothing(
    owner: Callable[[str], tuple[subprocess.Popen[str], RealCluster]], moment: str
) -> None:
    before = host_state()
    process, cluster = owner(moment)
    seen = Seen.of(cluster)
    assert len(seen.processes) > 5
    process.kill()
    process.communicate()
    _nothing_left(seen, before, cluster)


def test_control_c_while_it_starts_leaves_nothing(owner: Callable[[str], tuple[subprocess.Popen[str], RealCluster]]) -> None:
    before = host_state()
    process, cluster = owner("starting the nodes")
    seen = Seen.of(cluster)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    _nothing_left(seen, before, cluster, limit=0)


def test_what_a_killed_guardian_leaves_is_gone_with_the_next_up_and_all_its_processes_at_once(
    start: Callable[..., RealCluster],
) -> None:
    before = host_state()
    cluster = start()
    seen = Seen.of(cluster)
    os.kill(cluster.guardian_pid(), signal.SIGKILL)
    until(seen.left, 60, "no process is left", good=lambda left: not left)
    assert cluster.cgroup_folders() and cluster.folder.exists() and not cluster.is_up()
    again = start()
    assert again.is_up()
    seen = Seen.of(again)
    again.down()
    _nothing_left(seen, before, again, limit=0)


def test_a_second_one_in_the_same_folder_is_refused_and_the_first_lives_on(real: RealCluster) -> None:
    with pytest.raises(Exception, match=r"up already in .*; `\./dev cluster down` ends it"):
        RealCluster(real.folder).up(nodes=1)
    assert real.is_up()
