"""A node that forwards, made of one pair of network namespaces, and what it lets through: many packets at once.

    far namespace                near namespace (of the test, with the agent's rules)
    sender ---veth---> in-near --FORWARD--> out-near ---veth---> receiver

No pod, no listener: frames are made by hand with any source address, sent all at once, and those that come out on the other side
passed. A packet that no policy is about goes last in each batch: what is not there when it comes out was dropped. For that the
packets of a batch must stay in order, so all of them are sent and forwarded on one processor.
Use inside of `isolated`. In: connections. Out: which of them were forwarded.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from builders import address
from frames import FIRST, LAST, arrived_as_sent, number_of, packet
from netpol_compiler.model.kinds import FAMILIES, Protocol
from netpol_compiler.model.objects import Connection

_NEWNET = 0x40000000
_ALL = 0x0003
_NEAR = bytes.fromhex("020000000001")
_FAR = bytes.fromhex("020000000002")
_TYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_LAST = {4: ("198.51.100.1", "198.51.100.2"), 6: ("2001:db8:51::1", "2001:db8:51::2")}
LIMIT = 20.0
"""Seconds after which a batch whose last packet did not come out has failed."""
_LINKS = """
link add sender address 02:00:00:00:00:02 type veth peer name in-near address 02:00:00:00:00:01
link add receiver type veth peer name out-near
link set in-near netns {near}
link set out-near netns {near}
"""
_FAR_UP = "link set sender up\nlink set receiver up\n"
_NEAR_UP = """
link set in-near addrgenmode none
link set out-near addrgenmode none
link set out-near arp off
link set in-near up
link set out-near up
route add default dev out-near
-6 route add default dev out-near
"""
_SETTINGS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
}


class Forwarding:
    """The pair of namespaces. It lasts as long as the process: `isolated` takes it away with that."""

    def __init__(self) -> None:
        for name, value in _SETTINGS.items():
            Path("/proc/sys/net", name).write_text(value)
        near = os.open("/proc/self/ns/net", os.O_RDONLY)
        _in_namespace(lambda libc: libc.unshare(_NEWNET))
        try:
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            _ip(_LINKS.format(near=f"/proc/{os.getpid()}/fd/{near}"))
            _ip(_FAR_UP)
            self._sender, self._receiver = _raw("sender"), _raw("receiver")
        finally:
            _in_namespace(lambda libc: libc.setns(near, _NEWNET))
            os.close(near)
        _ip(_NEAR_UP)

    def send(self, connections: Sequence[Connection]) -> list[bool]:
        """For each connection whether its first packet was forwarded."""
        assert len(connections) <= LAST - FIRST, "that many packets cannot be told apart"
        # What earlier packets left behind says nothing of these.
        subprocess.run(["conntrack", "-F"], check=True, capture_output=True)
        anywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {sorted(anywhere)[os.getpid() % len(anywhere)]})
        try:
            return self._send(connections)
        finally:
            os.sched_setaffinity(0, anywhere)

    def _send(self, connections: Sequence[Connection]) -> list[bool]:
        last = [Connection(*map(address, _LAST[int(f)]), Protocol.UDP, 9) for f in FAMILIES]
        sent: dict[tuple[int, int], bytes] = {}
        passed: set[tuple[int, int]] = set()
        wanted = {(int(f), LAST) for f in FAMILIES}
        for number, connection in [*enumerate(connections, FIRST), *((LAST, c) for c in last)]:
            data = packet(connection, number)
            sent[connection.source.version, number] = data
            self._sender.send(_NEAR + _FAR + _TYPES[connection.source.version] + data)
            if len(sent) % 64 == 0:
                self._take(sent, passed)
        while not wanted <= passed:
            if not select.select([self._receiver], [], [], LIMIT)[0]:
                raise AssertionError(f"the last packet of a batch did not come out within {LIMIT:g} s: {wanted - passed}")
            self._take(sent, passed)
        return [(c.source.version, number) in passed for number, c in enumerate(connections, FIRST)]

    def _take(self, sent: dict[tuple[int, int], bytes], passed: set[tuple[int, int]]) -> None:
        """Note all packets that are there."""
        while True:
            try:
                got = self._receiver.recv(2048, socket.MSG_DONTWAIT)[14:]
            except BlockingIOError:
                return
            identity = number_of(got)
            if identity in sent:
                assert arrived_as_sent(sent[identity], got), f"a packet was changed on its way: {got.hex()}"
                passed.add(identity)


def _raw(name: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.htons(_ALL if name == "receiver" else 0))
    made.bind((name, _ALL if name == "receiver" else 0))
    return made


def _ip(lines: str) -> None:
    for line in filter(None, lines.splitlines()):
        done = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ip {line}: {done.stderr}"


def _in_namespace(call: Callable[[ctypes.CDLL], int]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if call(libc) != 0:
        raise OSError(ctypes.get_errno(), "changing the network namespace")
