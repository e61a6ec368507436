"""How long a new pod of a real node is open before the policy that stands already holds for it.

A default deny of both directions stands in a namespace. Pods start in it, one after the other. The address of each is known
before, and a client on the other node sends it an echo request every two milliseconds: the kernel answers as soon as the pod's
network exists, before any program runs there. So the first answer marks the network's beginning, and the last one the end of
the gap. The pod's own program tries a forbidden connection as its first act.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from measure import Figure, progress

_TOP = Path(__file__).parents[1]
sys.path[:0] = [str(_TOP / "tests" / "support"), str(_TOP / "tools")]

import build_image  # noqa: E402
from kubectl import Kubectl  # noqa: E402
from netpol_realcluster.client import RealCluster, why_not  # noqa: E402
from netpol_realcluster.trials import endpoints, workloads  # noqa: E402
from netpol_realcluster.trials.endpoints import Place  # noqa: E402
from netpol_realcluster.trials.in_force import InForce, policy  # noqa: E402
from netpol_realcluster.trials.release import Release  # noqa: E402
from netpol_realcluster.trials.workloads import Field  # noqa: E402

STARTS, PERIOD, SILENCE, LIMIT = 100, 0.002, 1.0, 60.0
NAMESPACE, SLEEP = "first-packet", "exec sleep infinity"
_BEYOND = 20
"""A block's addresses from this one on are nobody's before."""
INTO, OUT = "forbidden packets into a new pod pass, for", "a new pod's first act, a forbidden connection, passes"


@dataclass(slots=True)
class Starts:
    """`gaps`: milliseconds, of each start that saw any forbidden packet pass. `open_acts`: starts whose own first act passed."""

    gaps: list[float] = field(default_factory=list)
    count: int = 0
    open_acts: int = 0


def figures() -> Iterator[Figure]:
    archive = build_image.OUT / f"npctl-{build_image.version()}.tar"
    problem = str(why_not() or ("" if archive.exists() else "`./dev image` makes the image that it needs"))
    if problem:
        yield Figure(INTO, "ms", note=problem)
        return
    with tempfile.TemporaryDirectory() as folder, RealCluster(Path(folder, "cluster"), nodes=2) as real:
        Release(real).install(archive)
        found = _measured(real)
    share = f"{len(found.gaps)} of {found.count} starts saw any"
    yield Figure(INTO, "ms", found.gaps, note=f"{share}, p99 of all {_p99(found):.0f} ms" if found.gaps else share)
    yield Figure(OUT, "starts", [float(found.open_acts)], note=f"of {found.count}")


def _p99(found: Starts) -> float:
    whole = sorted([*found.gaps, *[0.0] * (found.count - len(found.gaps))])
    return whole[min(len(whole) - 1, int(len(whole) * 0.99))]


def _measured(real: RealCluster) -> Starts:
    kubectl = Kubectl(real.kubeconfig)
    first, second, *_ = real.nodes()
    open_field, shut = Field(real, kubectl, "open"), Field(real, kubectl, NAMESPACE)
    open_field.make(workloads.pod("client", workloads.running(SLEEP), node=first), workloads.pod("server", node=first))
    shut.make()
    InForce(real, kubectl).put(policy("deny", NAMESPACE, ingress=[], egress=[]))
    client, server = open_field.place("client"), open_field.place("server")
    # So often the node asks who has an address that nobody had yet: else the first second of a pod would stay unseen.
    real.run(second, "sh", "-c", "echo 10 > /proc/sys/net/ipv4/neigh/cni0/retrans_time_ms")
    block = next(n["spec"]["podCIDR"] for n in kubectl.items("nodes") if n["metadata"]["name"] == second)
    found = Starts()
    for number in range(STARTS):
        progress(f"pod starts under a default deny: {number} of {STARTS}")
        address = str(ip_network(block)[_BEYOND + number])
        endpoints.give_next(real, second, address)
        _start(shut, workloads.pod(f"new-{number}", _act(server), node=second), address, client, found)
    progress("")
    return found


def _act(server: Place) -> workloads.Object:
    """A container whose first act is a forbidden connection."""
    target = f"{server.address}:{workloads.PORT}"
    return workloads.running(
        f"/agnhost connect {target} --timeout=500ms 2>/dev/null && echo open || echo shut; exec sleep infinity"
    )


def _start(shut: Field, pod: workloads.Object, address: str, client: Place, found: Starts) -> None:
    """One start of a pod, which is to get `address`."""
    name = pod["metadata"]["name"]
    with Echoes(client, address) as echoes:
        shut("apply", "-f", "-", objects=[pod])
        shut.ready(name)
        shut.kubectl.until(lambda: _acted(shut, name) in ("open", "shut"), f"{name} has tried", LIMIT)
        echoes.until_silent()
    if (given := shut.item("pod", name)["status"]["podIP"]) != address:
        raise RuntimeError(f"{name} has got {given}, and {address} was watched")
    found.count += 1
    found.open_acts += _acted(shut, name) == "open"
    if echoes.answered:
        found.gaps.append((echoes.answered[-1] - echoes.answered[0]) * 1e3)
    shut("delete", "pod", name, "--force", "--grace-period=0", "--wait=false")


def _acted(shut: Field, name: str) -> str:
    """What the pod's first act has come to; empty before that."""
    return next(iter(shut("logs", name).split()[-1:]), "")


class Echoes:
    """Echo requests from a place to an address, one every PERIOD, until the end of the block."""

    def __init__(self, client: Place, address: str) -> None:
        self.answered: list[float] = []
        """When each answer came, in order."""
        self._address = address
        self._socket = client.socket("", 4, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._mark = os.urandom(4)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Echoes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def until_silent(self) -> None:
        """Return when no request has been answered for SILENCE seconds. Raises TimeoutError."""
        begun = time.monotonic()
        while time.monotonic() < max([begun, *self.answered[-1:]]) + SILENCE:
            if time.monotonic() > begun + LIMIT:
                raise TimeoutError(f"{self._address} still answers after {LIMIT:g} s")
            time.sleep(PERIOD)

    def _run(self) -> None:
        sent = 0
        following = time.monotonic()
        while not self._over.is_set():
            wait = following - time.monotonic()
            if wait > 0:
                if select.select([self._socket], [], [], wait)[0]:
                    self._receive()
                continue
            following += PERIOD
            # Nobody may have that address yet.
            with contextlib.suppress(OSError):
                self._socket.sendto(_request(sent, self._mark), (self._address, 0))
            sent += 1

    def _receive(self) -> None:
        data = self._socket.recv(2048)
        message = data[(data[0] & 15) * 4 :]
        if message[0] == 0 and message[8:12] == self._mark:
            self.answered.append(time.monotonic())


def _request(number: int, mark: bytes) -> bytes:
    """Each with an identity of its own, so that it is a connection of its own to the kernel."""
    rest = struct.pack("!HH", number & 0xFFFF, 1) + mark
    total = sum(struct.unpack("!6H", struct.pack("!BBH", 8, 0, 0) + rest))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!BBH", 8, 0, ~(total + (total >> 16)) & 0xFFFF) + rest
