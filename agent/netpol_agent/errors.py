"""What the agent says when it cannot go on, and the record of one thing that failed while the rest went on."""

from __future__ import annotations

from dataclasses import dataclass


class AgentError(Exception):
    """Ends the agent: `remedy` is what a person can do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(message)


class KernelError(Exception):
    """The kernel's state could not be read or written as a whole; the next try may succeed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that could not be programmed. `what`: `chain npc-... (IPv4)`, `set npc4-...`; `text`: the line that was
    refused, or empty; `error`: the program's own words."""

    what: str
    text: str
    error: str

    @property
    def words(self) -> str:
        return f"{self.what}: {self.error}" + (f" (at: {self.text})" if self.text else "")
