"""The three small enumerations that every other module takes as parameters.

Direction and address family are parameters everywhere, never copies of code.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class Direction(str, Enum):
    """Seen from the selected pod: INGRESS is traffic to it, EGRESS traffic from it."""

    INGRESS = "ingress"
    EGRESS = "egress"

    @property
    def api_name(self) -> str:
        """The word used in `spec.policyTypes`: "Ingress" or "Egress"."""
        return self.value.capitalize()


class Family(IntEnum):
    """Address family; the value is the IP version."""

    V4 = 4
    V6 = 6

    @property
    def bits(self) -> int:
        """Length of an address in bits."""
        return 32 if self is Family.V4 else 128


class Protocol(str, Enum):
    """The protocols a NetworkPolicyPort may name (API text: "TCP, UDP, or SCTP")."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"

    @property
    def number(self) -> int:
        """IANA protocol number."""
        return {"TCP": 6, "UDP": 17, "SCTP": 132}[self.value]


DIRECTIONS = (Direction.INGRESS, Direction.EGRESS)
FAMILIES = (Family.V4, Family.V6)
PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
