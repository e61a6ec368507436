"""Members of sets without a process: what the kernel's ipset is told over netlink, for the few lines of one change.

In: lines as `ipset restore` reads them. Out: whether each was applied. Everything that is not plain (a set type of which none is
there yet, a refusal, a kernel that answers otherwise) is left to the program, which knows it all and explains it: it costs some
2 ms, and this a tenth of that.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from netpol_agent.netlink.messages import NETLINK_NETFILTER, NLM_F_ACK, Netlink, attribute, attributes

MOST = 200
"""Lines of one change beyond which the program is as quick, because it packs many members into a message."""

_SUBSYSTEM = 6 << 8
_CREATE, _DESTROY, _ADD, _DELETE, _HEADER = (_SUBSYSTEM | n for n in (2, 3, 9, 10, 12))
_FAMILY = bytes([socket.AF_INET, 0, 0, 0])
_PROTOCOL, _NAME, _TYPE, _REVISION, _SET_FAMILY, _DATA = 1, 2, 3, 4, 5, 7
_VERSION = attribute(_PROTOCOL, b"\x06")
_IP, _CIDR, _PORT, _PROTO, _FLAGS, _MAXELEM = 1, 3, 4, 7, 8, 19
_BIG_ENDIAN = 0x4000
_NOMATCH = (4).to_bytes(4, "big")
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


class KernelSets:
    """The sets of the network namespace in which the first line is applied. `open_link` makes the socket."""

    def __init__(self, open_link: Callable[[], Netlink] = lambda: Netlink(NETLINK_NETFILTER)) -> None:
        self._open_link = open_link
        self._link: Netlink | None = None
        self._revisions: dict[tuple[str, int], bytes] = {}

    def apply(self, lines: Sequence[str]) -> int:
        """Apply `lines` in order; returns how many were. The first one that was not has changed nothing."""
        if len(lines) > MOST:
            return 0
        for done, line in enumerate(lines):
            try:
                if not self._apply(line):
                    return done
            except (OSError, ValueError, KeyError, IndexError):
                # A late answer must not be taken for that to the next question.
                self._close()
                return done
        return len(lines)

    def _apply(self, line: str) -> bool:
        verb, name, *rest = line.split()
        if verb == "create":
            return self._create(name, rest)
        if verb == "destroy":
            self._ask(_DESTROY, name)
            return True
        self._ask({"add": _ADD, "del": _DELETE}[verb], name, attribute(_DATA, member_data(rest), nested=True))
        return True

    def _create(self, name: str, words: Sequence[str]) -> bool:
        """As the program made others of its type: its revision is the one that it can read back."""
        kind, options = words[0], dict(zip(words[1:-1:2], words[2:-1:2], strict=True))
        if words[-1] != "-exist" or set(options) != {"family", "maxelem"}:
            return False
        family = _FAMILIES[options["family"]]
        revision = self._revisions.get((kind, family))
        if revision is None:
            return False
        data = attribute(_MAXELEM | _BIG_ENDIAN, int(options["maxelem"]).to_bytes(4, "big"))
        about = attribute(_TYPE, kind.encode() + b"\0") + attribute(_REVISION, revision) + attribute(_SET_FAMILY, bytes([family]))
        self._ask(_CREATE, name, about + attribute(_DATA, data, nested=True))
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

    def knows(self, kind: str, inet6: bool) -> bool:
        """Whether sets of a type can be made here."""
        return (kind, socket.AF_INET6 if inet6 else socket.AF_INET) in self._revisions

    def _ask(self, command: int, name: str, more: bytes = b"", flags: int = NLM_F_ACK) -> list[bytes]:
        if self._link is None:
            self._link = self._open_link()
        return list(self._link.request(command, flags, _FAMILY + _VERSION + attribute(_NAME, name.encode() + b"\0") + more))

    def _close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def member_data(words: Sequence[str]) -> bytes:
    """One member: `10.0.0.1`, `10.0.0.0/8`, `10.0.0.0/8 nomatch`, `10.0.0.1,tcp:80`, then `-exist`. Raises ValueError, KeyError
    and OSError for anything else."""
    element, *options = words
    if options[-1:] != ["-exist"] or options[:-1] not in ([], ["nomatch"]):
        raise ValueError(f"not the line of a member: {' '.join(words)}")
    place, _, service = element.partition(",")
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
    return data + (attribute(_FLAGS | _BIG_ENDIAN, _NOMATCH) if "nomatch" in options else b"")
