"""The interfaces of this network namespace, by rtnetlink: which are bridges, whose ports others are, and which carry tunnels.

In: nothing. Out: `Link` values. Numbers of attributes are those of linux/if_link.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netpol_agent.netlink.messages import NETLINK_ROUTE, NLM_F_DUMP, Netlink, attributes

_GET_LINK = 18
_NAME, _MASTER, _LINK_INFO = 3, 10, 18
_KIND, _DATA = 1, 2
_PORT_ATTRIBUTE = {"vxlan": 15, "geneve": 5}
_HEAD = struct.Struct("=BBHiII")


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. `kind`: what made it ("bridge", "veth", "vxlan"; empty for a network card); `master`: the bridge or bond
    that it is a port of, by index, 0 for none; `port`: where its tunnel listens (UDP), 0 for none."""

    index: int
    name: str
    kind: str = ""
    master: int = 0
    port: int = 0


def links() -> tuple[Link, ...]:
    """Every interface of the namespace. Raises OSError."""
    link = Netlink(NETLINK_ROUTE)
    try:
        return tuple(_link(body) for body in link.request(_GET_LINK, NLM_F_DUMP, _HEAD.pack(0, 0, 0, 0, 0, 0)))
    finally:
        link.close()


def _link(body: bytes) -> Link:
    index = _HEAD.unpack_from(body)[3]
    values = attributes(body[_HEAD.size :])
    info = attributes(values.get(_LINK_INFO, b""))
    kind = info.get(_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
    data = attributes(info.get(_DATA, b""))
    port = int.from_bytes(data.get(_PORT_ATTRIBUTE.get(kind, 0), b"")[:2], "big")
    master = values.get(_MASTER, b"")
    name = values.get(_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    return Link(index, name, kind, struct.unpack("=I", master)[0] if len(master) == 4 else 0, port)
