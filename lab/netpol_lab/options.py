"""The options of a lab's programs, from `npctl lab up`."""

from __future__ import annotations

from dataclasses import dataclass

from netpol_lab.topology.model import Backend


@dataclass(frozen=True, slots=True)
class Options:
    """`agents`: whether an operator and agents run at all; the rest is passed on to the agents."""

    backend: Backend
    established: str = "cut"
    accept: str = "return"
    agents: bool = True
    guard: str = "off"
