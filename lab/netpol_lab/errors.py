"""What can go wrong with a lab, in words for people."""

from __future__ import annotations


class LabError(Exception):
    """The lab could not do what was asked; the text says what and why."""


class LabForbidden(LabError):
    """This machine does not let an ordinary process make namespaces. `reason` and `remedy` are one line each."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"this machine forbids the lab's namespaces: {reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


class LabTimeout(LabError):
    """Something was not there within its limit: the agents are not in force, or the lab does not start or end."""


class LabLacksPrograms(LabError):
    """Programs that the lab calls are not installed."""


class LabMissing(LabError):
    """No lab of that name is running."""


BY_NAME: dict[str, type[LabError]] = {c.__name__: c for c in (LabError, LabTimeout, LabMissing, LabLacksPrograms)}
"""Errors that cross the control socket keep their class."""
