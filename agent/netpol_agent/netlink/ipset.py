"""Members of sets without a process: what the kernel's ipset is told over netlink, for the few lines of one change.

In: changes of sets. Out: whether each was made. Everything that is not plain (a set type of which none is
there yet, a refusal, a kernel that answers otherwise) is left to the program, which knows it all and explains it: it costs some
2 ms, and this a tenth of that.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from netpol_agent.netlink.messages import NETLINK_NETFILTER, NLM_F_ACK, Netlink, attribute, attributes
from netpol_compiler.model.kinds import Family
from netpol_compiler.ruleset.changes import AddMember, CreateSet, DeleteMember, DestroySet, SetChange
from netpol_compiler.ruleset.render import MAXELEM
from netpol_compiler.ruleset.values import element, is_exception

MOST = 200
"""Changes at once beyond which the program is as quick, because it packs many members into a message."""

_SUBSYSTEM = 6 << 8
_CREATE, _DESTROY, _ADD, _DELETE, _HEADER = (_SUBSYSTEM | n for n in (2, 3, 9, 10, 12))
_FAMILY = bytes([socket.AF_INET, 0, 0, 0])
_PROTOCOL, _NAME, _TYPE, _REVISION, _SET_FAMILY, _DATA = 1, 2, 3, 4, 5, 7
_VERSION = attribute(_PROTOCOL, b"\x06")
_IP, _CIDR, _PORT, _PROTO, _FLAGS, _MAXELEM = 1, 3, 4, 7, 8, 19
_BIG_ENDIAN = 0x4000
_NOMATCH = (4).to_bytes(4, "big")
_FAMILIES = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


class KernelSets:
    """The sets of the network namespace in which the first line is applied. `open_link` makes the socket."""

    def __init__(self, open_link: Callable[[], Netlink] = lambda: Netlink(NETLINK_NETFILTER)) -> None:
        self._open_link = open_link
        self._link: Netlink | None = None
        self._revisions: dict[tuple[str, int], bytes] = {}

    def apply(self, changes: Sequence[SetChange]) -> int:
        """Make `changes` in order; returns how many were. The first one that was not has changed nothing."""
        if len(changes) > MOST:
            return 0
        for done, change in enumerate(changes):
            try:
                if not self._apply(change):
                    return done
            except (OSError, ValueError, KeyError, IndexError):
                # A late answer must not be taken for that to the next question.
                self._close()
                return done
        return len(changes)

    def _apply(self, change: SetChange) -> bool:
        match change:
            case AddMember(name, member):
                self._ask(_ADD, name, attribute(_DATA, member_data(member), nested=True))
            case DeleteMember(name, member):
                self._ask(_DELETE, name, attribute(_DATA, member_data(member), nested=True))
            case DestroySet(name):
                self._ask(_DESTROY, name)
            case CreateSet():
                return self._create(change)
        return True

    def _create(self, change: CreateSet) -> bool:
        """As the program made others of its type: its revision is the one that it can read back."""
        family = _FAMILIES[change.family]
        revision = self._revisions.get((change.type, family))
        if revision is None:
            return False
        data = attribute(_MAXELEM | _BIG_ENDIAN, MAXELEM.to_bytes(4, "big"))
        about = attribute(_TYPE, change.type.encode() + b"\0") + attribute(_REVISION, revision)
        about += attribute(_SET_FAMILY, bytes([family]))
        self._ask(_CREATE, change.name, about + attribute(_DATA, data, nested=True))
        return True

    def learn(self, name: str) -> None:
        """Look at a set that the program has made, so that others of its type can be made without it."""
        try:
            (answer,) = self._ask(_HEADER, name, flags=0)
            values = attributes(answer[4:])
            kind = values[_TYPE].rstrip(b"\0").decode()
            self._revisions[(kind, values[_SET_FAMILY][0])] = values[_REVISION]
        except (OSError, ValueError, KeyError, IndexError):
            self._close()

    def knows(self, kind: str, family: Family) -> bool:
        """Whether sets of a type can be made here."""
        return (kind, _FAMILIES[family]) in self._revisions

    def _ask(self, command: int, name: str, more: bytes = b"", flags: int = NLM_F_ACK) -> list[bytes]:
        if self._link is None:
            self._link = self._open_link()
        return list(self._link.request(command, flags, _FAMILY + _VERSION + attribute(_NAME, name.encode() + b"\0") + more))

    def _close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def member_data(member: str) -> bytes:
    """One member: `10.0.0.1`, `10.0.0.0/8`, `10.0.0.0/8 nomatch`, `10.0.0.1,tcp:80`. Raises ValueError, KeyError and OSError for
    anything else."""
    place, _, service = element(member).partition(",")
    host, _, prefix = place.partition("/")
    family, kind = (socket.AF_INET6, 2) if ":" in host else (socket.AF_INET, 1)
    data = attribute(_IP, attribute(kind | _BIG_ENDIAN, socket.inet_pton(family, host)), nested=True)
    if prefix:
        data += attribute(_CIDR, bytes([int(prefix)]))
    if service:
        protocol, _, port = service.partition(":")
        if not 0 <= int(port) <= 65535:
            raise ValueError(f"not a port: {port}")
        data += attribute(_PORT | _BIG_ENDIAN, int(port).to_bytes(2, "big")) + attribute(_PROTO, bytes([_PROTOCOLS[protocol]]))
    return data + (attribute(_FLAGS | _BIG_ENDIAN, _NOMATCH) if is_exception(member) else b"")
