"""What may be chosen about a node's ruleset."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from netpol_compiler.model.kinds import FAMILIES, Family
from netpol_compiler.ruleset.rules import MarkMatch, SetMark


class AcceptAction(str, Enum):
    """What happens to traffic that policies allow.

    RETURN: marked and handed back, so that the host's own firewall still decides. ACCEPT: accepted on the spot.
    """

    RETURN = "return"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True)
class LowerOptions:
    """`mark`: the one bit of the packet mark that we set on what a policy allowed; always used masked.

    `log_group`: the NFLOG group that refused packets are copied to, at most `log_rate` a second per chain.
    """

    families: tuple[Family, ...] = FAMILIES
    accept: AcceptAction = AcceptAction.RETURN
    mark: int = 0x40000
    log_group: int = 100
    log_rate: int = 10
    log_burst: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.mark < 1 << 32 or self.mark & (self.mark - 1):
            raise ValueError(f"mark {self.mark:#x} is not a single bit of 32")

    @property
    def marked(self) -> MarkMatch:
        """Matches what a policy allowed."""
        return MarkMatch(self.mark, self.mark)

    @property
    def set_mark(self) -> SetMark:
        return SetMark(self.mark, self.mark)

    @property
    def clear_mark(self) -> SetMark:
        return SetMark(0, self.mark)
